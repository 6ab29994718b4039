"""What measured runs demand: what must not happen makes them fail, each by itself."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections import Counter
from pathlib import Path

import pytest

CHAOS = Path(__file__).parents[2] / "chaos"


@pytest.fixture(scope="module", autouse=True)
def programs():
    """Let the programs be imported, and forgotten afterwards."""
    before = set(sys.modules)
    sys.path.insert(0, str(CHAOS))
    yield
    sys.path.remove(str(CHAOS))
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").parent == CHAOS:
            del sys.modules[name]


def demands(missing, *, count=3, deaths=1, recovered_s=1.0):
    """Return what the suite finds wrong after a kill, a full disk without memory and a corrupted file."""
    suite, faults = importlib.import_module("suite"), importlib.import_module("faults").FAULTS
    by_name = {fault.name: fault for fault in faults}
    outcomes = [
        suite.Outcome(by_name["killed, started again"], recovered_s, 101, 0, 0),
        suite.Outcome(by_name["out of memory"], 1.0, 150, 0, 1),
        suite.Outcome(by_name["a file is corrupted"], 1.0, 201, 0, 0),
    ]
    return [what for what, holds in suite.demands(outcomes, missing, deaths, count).items() if not holds]


def test_a_suite_that_went_well_demands_nothing():
    assert demands(set()) == []


@pytest.mark.parametrize("number", [1, 100, 101, 149, 150, 200])
def test_a_reading_that_is_lost_whenever_fails_the_suite(number):
    assert demands({number}) == ["no reading was lost but where the model was corrupted"]


def test_readings_without_a_model_are_excused():
    assert demands({201, 500}) == []


def test_an_agent_that_ends_by_itself_fails_the_suite():
    assert demands(set(), deaths=2) == ["no agent ended by itself but without memory"]


def test_a_fault_too_few_and_an_agent_that_stays_away_fail_the_suite():
    assert demands(set(), count=4) == ["all faults were inflicted"]
    assert demands(set(), recovered_s=None) == ["the agent came back after each"]


@pytest.mark.parametrize(
    ("numbers", "failed"),
    [
        ((500.0, 500.0, 9, 9, 9), []),
        ((131.0, 500.0, 9, 9, 9), ["the rate was kept: 500 readings a second"]),
        ((500.0, 500.0, 9, 8, 8), ["every reading was answered"]),
        ((500.0, 500.0, 9, 9, 10), ["none was answered twice"]),
    ],
)
def test_a_soak_at_another_rate_or_with_other_answers_fails(numbers, failed):
    soak = importlib.import_module("soak")

    assert [what for what, holds in soak.demands(*numbers).items() if not holds] == failed


def test_a_soak_has_room_for_any_number_of_readings():
    answers = importlib.import_module("soak").Answers()

    for number in (1, 3_000_000, 1):
        answers.note(number)

    assert (answers.total, answers.numbers) == (3, 2)


@pytest.mark.parametrize(
    ("kills", "looks", "watched", "status"), [(9, 5, 5, 0), (0, 5, 5, 1), (9, 0, 5, 1), (9, 5, 0, 1)]
)
def test_a_run_that_killed_nobody_or_saw_nothing_fails(kills, looks, watched, status, capsys):
    publish_kills = importlib.import_module("publish_kills")
    tally = publish_kills.Tally(kills=Counter({"PUBLISH": kills}), looks=looks)

    assert publish_kills.report(tally, watched, 10, 1.0) == status
    assert f"faults {status}" in capsys.readouterr().out


def test_counts_are_those_of_the_agent():
    world = importlib.import_module("world")

    assert world.settled_counts(lambda: {"readings": 8, "repeated": 1, "readings_missing": 3}, 10) == (3, 3)


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [("sudden", "error_after", None), ("slow", "error_after", 0.5), ("quiet", "releases", 1)],
)
def test_a_loop_that_learns_nothing_or_too_much_fails(part, key, value):
    spec = importlib.util.spec_from_file_location("bench_loop", CHAOS.parent / "benchmarks" / "loop.py")
    loop = importlib.util.module_from_spec(spec)
    sys.modules["bench_loop"] = loop  # dataclasses look their module up
    spec.loader.exec_module(loop)
    del sys.modules["bench_loop"]
    found = {"sudden": {"error_after": 0.05}, "slow": {"error_after": 0.05}, "quiet": {"releases": 0}}

    assert all(loop.demands(found).values())
    found[part][key] = value
    assert list(loop.demands(found).values()).count(False) == 1
