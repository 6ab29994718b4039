"""The benchmarks work: programs in C, brokers, systems, the result and its page. No time is judged."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path

import pytest
from support.benchmarks import benchmark, quick_runs, require_tools

pytestmark = [pytest.mark.mosquitto, pytest.mark.timeout(300)]


@pytest.fixture(scope="module", autouse=True)
def tools() -> None:
    require_tools()


@pytest.fixture(scope="module")
def result(tools, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A result of short spans: an echo on both brokers, and the agent."""
    header = subprocess.run(
        ["gcc", "-fsyntax-only", "-x", "c", "-"],
        input=b"#include <mosquitto.h>\n",
        capture_output=True,
        check=False,
    )
    if header.returncode != 0:
        pytest.skip("the headers of libmosquitto are missing (apt install libmosquitto-dev)")
    folder = tmp_path_factory.mktemp("benchmarks")
    quick_runs(folder, systems="libmosquitto,atoll", cases="qos1-20,stub-qos1")
    return folder / "result.json"


def test_atoll_answers_a_reading_for_less_cpu_time_than_an_echo_on_paho(tmp_path):
    """A guard against slow code: two systems side by side, so that a loaded machine slows both.

    atoll needs about half as much, though it decodes, infers and encodes.
    """
    runs = quick_runs(tmp_path, systems="paho,atoll", cases="qos0")

    cpu_us = {run["system"]: run["system_cpu_us"] for run in runs}
    assert cpu_us["atoll"] < cpu_us["paho"], cpu_us


@pytest.mark.long
def test_a_killed_agent_answers_every_reading_after_all(tmp_path):
    (run,) = quick_runs(tmp_path, systems="atoll", cases="kills")

    assert run["kills"] > 0
    assert run["answered"] == run["due"] > 0


def test_every_reading_is_answered_once_by_echo_and_agent_through_mosquitto_and_stub_broker(result):
    runs = json.loads(result.read_text())["runs"]

    assert {(run["system"], run["case"]) for run in runs} == {
        (system, case) for system in ("libmosquitto", "atoll") for case in ("qos1-20", "stub-qos1")
    }
    for run in runs:
        assert run["answered"] == run["due"] > 0
        assert (run["lost"], run["duplicates"], run["unmatched"], run["forgotten"]) == (0, 0, 0, 0)
        assert 0 < run["p50_ms"] <= run["p99_ms"] <= run["max_ms"]
        assert run["system_cpu_us"] > 0
        assert run["loaded"]["rss_mb"] >= run["loaded"]["pss_mb"] > 0


def test_the_page_is_written_from_a_result(result, tmp_path):
    # Not imported here: pygal puts a finder into sys.meta_path that Python warns of at every later import.
    if importlib.util.find_spec("pygal") is None:
        pytest.skip("needs the extra bench")

    benchmark("report.py", str(result), "--folder", str(tmp_path))

    page = (tmp_path / "performance.md").read_text()
    assert "| atoll, the full agent |" in page
    assert "| readings/s at QoS 1, 20 in flight, ratio to the C echo | at least 0.7 |" in page
    assert (tmp_path / "performance-throughput.svg").read_text().count("<svg") == 1
    assert json.loads((tmp_path / "performance.json").read_text())["quick"] is True
