"""What is suspicious about readings."""

from __future__ import annotations

import json

import numpy as np
import pytest

from atoll_trainer.cli import main
from atoll_trainer.dataset import Observed, Refusals, collect
from atoll_trainer.inspection import inspect
from atoll_trainer.task import TaskFile

COUNT = 600
RANDOM = np.random.default_rng(3)
NOISE = RANDOM.normal(0, 1, COUNT)


def inspected(values, *, labels=None, times=None, devices=None, target=None, horizon=0):
    """Inspect readings with these values, each an array with NaN for what is missing."""
    names = list(values)
    task = TaskFile.model_validate(
        {
            "task": {
                "model": "m",
                "stream": "s",
                "kind": "regression",
                "values": {name: {} for name in names},
            },
            "window": {"impute": "last"},
        }
    )
    observed = [
        Observed(
            at + 1,
            devices[at] if devices else "a",
            float(times[at]) if times is not None else at * 1000.0,
            {name: float(numbers[at]) for name, numbers in values.items() if not np.isnan(numbers[at])},
            None if labels is None else float(labels[at]),
        )
        for at in range(len(values[names[0]]))
    ]
    at = None if target is None else names.index(target)
    return inspect(collect(observed, task, "test", "0", Refusals()), names, at, horizon)


def told(found, text):
    return [warning for warning in found.warnings if text in warning]


def test_ordinary_readings_are_not_suspicious():
    found = inspected({"x": NOISE, "y": np.cumsum(NOISE)}, labels=2 * NOISE + RANDOM.normal(0, 1, COUNT))

    assert found.warnings == []
    assert found.leaks == []


def test_a_constant_a_missing_and_a_stuck_value_are_told():
    missing = np.where(np.arange(COUNT) % 5 < 2, np.nan, NOISE)
    stuck = np.r_[NOISE[:300], np.full(60, NOISE[299]), NOISE[360:]]

    found = inspected({"constant": np.full(COUNT, 7.0), "missing": missing, "stuck": stuck})

    assert told(found, "constant: always 7")
    assert told(found, "missing: missing in 40% of the readings")
    assert told(found, "stuck: 61 equal numbers in a row")
    assert len(found.warnings) == 3


@pytest.mark.parametrize("marker", [-200.0, 65535.0])
def test_a_number_that_stands_for_missing_is_found_and_does_not_leak(marker):
    is_out = np.arange(COUNT) % 20 == 0
    values = {name: np.where(is_out, marker, 10 + RANDOM.normal(0, 1, COUNT)) for name in ("x", "y")}

    found = inspected(values, labels=np.where(is_out, marker, 5 + NOISE))

    assert [value.marker for value in found.values] == [marker, marker]
    assert told(found, f"--missing {marker:g}")
    assert found.leaks == []


def test_outliers_are_counted():
    found = inspected({"x": np.r_[NOISE[:-2], 900.0, -900.0]})

    assert found.values[0].outliers == 2


def test_a_value_that_is_the_target_in_other_words_leaks():
    label = NOISE**3
    found = inspected({"x": NOISE, "other": RANDOM.normal(0, 1, COUNT)}, labels=label)

    assert [leak.value for leak in found.leaks] == ["x"]
    assert found.warnings[0].startswith("x alone explains")


def test_a_flag_that_is_only_set_with_the_rare_answer_leaks():
    label = (np.arange(COUNT) % 20 == 0).astype(float)
    cause = label * (np.arange(COUNT) < COUNT / 2)

    found = inspected({"cause": cause, "even": np.arange(COUNT) % 2.0}, labels=label)

    assert [leak.value for leak in found.leaks] == ["cause"]
    assert told(found, "cause = 1 goes with target 1 in 100.0%")


def test_of_a_forecast_what_comes_from_later_leaks_and_a_smooth_present_does_not():
    walk = np.cumsum(NOISE)
    later = np.r_[walk[3:], walk[-3:]]

    found = inspected({"walk": walk, "twin": walk + 0.01 * NOISE, "later": later}, target="walk", horizon=3)

    assert [leak.value for leak in found.leaks] == ["later"]


def test_a_single_class_and_few_readings_of_a_device_are_told():
    found = inspected({"x": NOISE[:50]}, labels=np.ones(50), devices=["a"] * 30 + ["b"] * 20)

    assert told(found, "every label is 1")
    assert told(found, "fewer than 100 readings: a (30), b (20)")


def test_gaps_steps_back_and_repeats_are_counted_by_device():
    times = np.arange(COUNT) * 1000.0
    times[100:] += 60_000
    times[200] = times[199]
    times[300:] -= 3000

    [span] = inspected({"x": NOISE}, times=times).devices

    assert (span.step_ms, span.gaps, span.longest_gap_ms) == (1000, 1, 61_000)
    assert (span.steps_back, span.repeated) == (1, 1)


def test_a_csv_file_is_looked_at_as_the_task_reads_it(tmp_path, capsys):
    wear = 5 + np.abs(NOISE)
    rows = [f"{at};{'worn' if wear[at] > 5.5 else 'good'};{wear[at]:.3f}" for at in range(COUNT)]
    (tmp_path / "press.csv").write_text("\n".join(["at;State;Bill", *rows]).replace(".", ",") + "\n")
    (tmp_path / "press.toml").write_text(
        '[task]\nmodel = "m"\nstream = "s"\nkind = "classification"\nlabels = ["good", "worn"]\n'
        "[task.values]\nbill = {}\n"
        '[csv]\nseparator = ";"\ndecimal = ","\nlabel = "State"\ndevice = "p1"\nvalues = { bill = "Bill" }\n'
    )
    words = ["inspect", "--task", tmp_path / "press.toml", "--csv", tmp_path / "press.csv", "--json"]
    words += ["--step-ms", 250]

    code = main(list(map(str, words)))

    found = json.loads(capsys.readouterr().out)
    assert code == 0
    assert (found["labels"], found["devices"][0]["device"]) == (COUNT, "p1")
    assert found["devices"][0]["step_ms"] == 250
    assert [one["value"] for one in found["leaks"]] == ["bill"]
    assert "bill alone explains" in found["warnings"][0]
