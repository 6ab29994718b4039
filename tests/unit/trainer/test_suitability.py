"""What is told before a model is trusted, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from atoll_trainer.dataset import Observed, Refusals, UnsuitableDataError, collect
from atoll_trainer.suitability import notes
from atoll_trainer.task import TaskFile
from atoll_trainer.training import prepare

RANDOM = np.random.default_rng(1)


def a_task(kind="regression", **window):
    labels = ["good", "worn"] if kind == "classification" else []
    table = {"model": "m", "stream": "s", "kind": kind, "labels": labels, "values": {"x": {}, "y": {}}}
    return TaskFile.model_validate({"task": table, "window": window})


def readings(task, x, y, labels):
    observed = [
        Observed(
            at + 1,
            "a",
            at * 1000.0,
            {name: float(value) for name, value in (("x", x[at]), ("y", y[at])) if not np.isnan(value)},
            float(labels[at]),
        )
        for at in range(len(x))
    ]
    return collect(observed, task, "kiln.csv", "0", Refusals())


def told(task, x, y, labels):
    found = readings(task, x, y, labels)
    refused = {reason.value: count for reason, count in found.refusals.counts.items()}
    return notes(prepare(found, task).parts, task, len(found), refused)


def noise(count=400):
    return RANDOM.normal(0, 1, count)


def test_ordinary_windows_need_no_note():
    assert told(a_task(), noise(), noise(), noise()) == []


def test_a_constant_sensor_and_a_leaking_one_are_told():
    label = noise()

    found = told(a_task(), np.full(400, 7.0), label * 2, label)

    assert found[0] == "x is always 7 in training: the model learns nothing from it."
    assert found[1].startswith("y alone explains 99.")
    assert len(found) == 2


@pytest.mark.parametrize("kind", ["regression", "anomaly"])
def test_values_that_never_change_are_refused(kind):
    constant = np.full(400, 7.0)

    with pytest.raises(UnsuitableDataError, match="every value is constant: nothing to learn"):
        told(a_task(kind), constant, constant, noise())


def test_readings_without_a_value_are_told_with_what_to_do():
    y = np.where(np.arange(400) % 5 < 2, np.nan, noise())

    [note] = told(a_task(), noise(), y, noise())

    assert note.startswith("40% of the readings lack a value and were refused: say impute in [window]")
    assert told(a_task(impute="last"), noise(), y, noise()) == []


def test_twenty_rows_are_refused_with_what_to_do():
    task = a_task()

    with pytest.raises(UnsuitableDataError, match=r"kiln.csv: 14 windows in the train part are too few"):
        prepare(readings(task, noise(20), noise(20), noise(20)), task)


def test_a_single_class_is_refused_and_a_rare_one_told():
    task = a_task("classification")
    rare = (np.arange(400) % 100 == 0).astype(float)

    with pytest.raises(UnsuitableDataError, match="every target of the training part is 'good'"):
        prepare(readings(task, noise(), noise(), np.zeros(400)), task)
    assert any("'worn' stands 3 times" in note for note in told(task, noise(), noise(), rare))


def test_a_validation_part_of_one_class_is_told():
    task = a_task("classification")
    by_turns = (np.arange(400) % 2 == 0).astype(float)
    quiet_later = np.where(np.arange(400) < 250, by_turns, 0.0)

    assert any("holds 'good' only" in note for note in told(task, noise(), noise(), quiet_later))
    assert not any(" only, so" in note for note in told(task, noise(), noise(), by_turns))
