"""From readings to windows and targets."""

from __future__ import annotations

import numpy as np
import pytest

from atoll_contract.errors import Reason
from atoll_contract.manifest import Imputation
from atoll_trainer import dataset
from atoll_trainer.dataset import (
    LeftOut,
    Observed,
    Refusals,
    UnsuitableDataError,
    collect,
    cut,
    cut_longest,
    fills,
    split,
)
from atoll_trainer.naive import naive
from atoll_trainer.task import TaskFile


def a_task(*, kind="forecast", length=3, horizon=1, max_gap_ms=None, train=0.5, validation=0.25, **value):
    return TaskFile.model_validate(
        {
            "task": {
                "model": "m",
                "stream": "s",
                "kind": kind,
                "target": "x" if kind == "forecast" else "label",
                "horizon": horizon,
                "values": {"x": value},
            },
            "window": {"length": length, "max_gap_ms": max_gap_ms},
            "split": {"train": train, "validation": validation},
        }
    )


def readings(task, values, *, times=None, devices=None, labels=None):
    observed = [
        Observed(
            number=number + 1,
            device=devices[number] if devices else "a",
            time_ms=times[number] if times else number * 1000.0,
            values={"x": value},
            label=labels[number] if labels else None,
        )
        for number, value in enumerate(values)
    ]
    return collect(observed, task, "test", "0", Refusals())


def test_a_forecast_learns_the_value_at_the_horizon():
    task = a_task(length=3, horizon=2)

    examples, left_out = cut(readings(task, [float(x) for x in range(7)]), task)

    assert examples.windows[:, :, 0].tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 4]]
    assert examples.targets.tolist() == [4, 5, 6]
    assert examples.times_ms.tolist() == [2000, 3000, 4000]
    assert examples.windows.dtype == np.float32
    assert left_out == {LeftOut.NO_READING_AHEAD: 2}


def test_a_value_that_nothing_is_made_of_may_be_missing_as_on_the_device():
    task = TaskFile.model_validate(
        {
            "task": {
                "model": "m",
                "stream": "s",
                "kind": "regression",
                "values": {"x": {}, "idle": {}, "y": {}},
            },
            "feature": [{"kind": "value", "value": "y"}, {"kind": "difference", "value": "x", "lag": 1}],
        }
    )
    observed = [Observed(n, "a", 1000.0 * n, {"x": 2.0 * n, "y": 5.0 * n}, label=float(n)) for n in range(4)]
    refusals = Refusals()

    found = collect(observed, task, "test", "0", refusals)

    assert not refusals.counts
    assert cut(found, task)[0].windows[:, 0].tolist() == [[5, 2], [10, 2], [15, 2]]


def test_a_missing_target_that_is_no_feature_refuses_no_reading():
    task = TaskFile.model_validate(
        {
            "task": {
                "model": "m",
                "stream": "s",
                "kind": "forecast",
                "target": "y",
                "values": {"x": {}, "y": {}},
            },
            "feature": [{"kind": "value", "value": "x"}],
        }
    )
    values = [{"x": 1.0, "y": 10.0}, {"x": 2.0}, {"x": 3.0, "y": 30.0}, {"x": 4.0, "y": 40.0}]
    observed = [Observed(n, "a", 1000.0 * n, one) for n, one in enumerate(values)]

    examples, left_out = cut(collect(observed, task, "test", "0", Refusals()), task)

    assert examples.targets.tolist() == [30, 40]
    assert left_out == {LeftOut.NO_READING_AHEAD: 2}


def test_a_path_learns_every_reading_up_to_the_horizon():
    task = a_task(length=2, horizon=3)
    task = task.model_copy(update={"task": task.task.model_copy(update={"path": True})})

    examples, _ = cut(readings(task, [float(x) for x in range(6)]), task)

    assert examples.targets.tolist() == [[2, 3, 4], [3, 4, 5]]
    assert naive(task, examples, examples).tolist() == [[1, 1, 1], [2, 2, 2]]


def test_the_longest_window_that_costs_few_examples_is_cut_and_shorter_ones_are_its_end():
    task = a_task(length="auto")
    many = readings(task, [float(x) for x in range(200)])

    examples, _, lengths = cut_longest(many, task)

    assert lengths == [1, 8, 32]  # 64 readings would cost a third
    assert examples.windows.shape == (168, 32, 1)
    shortened = examples.shortened(task.with_length(8))
    assert shortened.windows[0, :, 0].tolist() == list(range(24, 32))
    assert shortened.targets[0] == 32


def test_windows_of_a_file_kept_for_the_test_hold_no_reading_of_the_other():
    task = a_task(length=2, validation=0)
    first, second = (readings(task, [float(start + x) for x in range(4)]) for start in (0, 10))

    parts = split(cut(first.joined(second), task)[0], task)

    assert parts.test.windows[:, :, 0].tolist() == [[10, 11], [11, 12]]
    assert parts.train.windows[:, :, 0].tolist() == [[0, 1], [1, 2]]


def test_a_regression_learns_the_labels():
    task = a_task(kind="regression", length=2)

    examples, left_out = cut(readings(task, [1.0, 2.0, 3.0, 4.0], labels=[10.0, None, 30.0, 40.0]), task)

    assert examples.windows[:, :, 0].tolist() == [[2, 3], [3, 4]]
    assert examples.targets.tolist() == [30, 40]
    assert left_out == {LeftOut.NO_LABEL: 1}


def test_windows_and_targets_stay_within_a_device_and_in_order_of_arrival():
    task = a_task(length=2)
    values = [1.0, 100.0, 2.0, 200.0, 3.0, 300.0]

    examples, _ = cut(readings(task, values, devices=["a", "b"] * 3), task)

    assert examples.windows[:, :, 0].tolist() == [[1, 2], [100, 200]]
    assert examples.targets.tolist() == [3, 300]


def test_a_window_with_a_gap_in_it_or_before_its_target_is_left_out():
    task = a_task(length=2, max_gap_ms=1500)
    times = [0.0, 1000.0, 2000.0, 9000.0, 10_000.0, 11_000.0]

    examples, left_out = cut(readings(task, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], times=times), task)

    assert examples.windows[:, :, 0].tolist() == [[0, 1], [3, 4]]
    # 1, 2 | 3: the target is behind the gap. 2 | 3: the gap is inside.
    assert left_out[LeftOut.GAP] == 2


def test_a_step_back_is_named_and_learnt_from():
    task = a_task(length=2, max_gap_ms=1500)
    times = [0.0, 1000.0, 2000.0, 1000.0, 2000.0, 3000.0]

    found = readings(task, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0], times=times)
    examples, left_out = cut(found, task)

    (step,) = found.steps_back()
    assert step.startswith("row 4: time steps back from 1970-01-01 00:00:02 to 00:00:01 (1 s): 2 readings")
    assert len(examples) == 4
    assert left_out[LeftOut.GAP] == 0


def test_a_step_back_of_one_of_several_devices_says_whose():
    task = a_task(length=1)
    times = [0.0, 5000.0, 1000.0, 4000.0]

    (step,) = readings(task, [0.0, 1.0, 2.0, 3.0], times=times, devices=["a", "b", "a", "b"]).steps_back()

    assert step.startswith("b: row 4: time steps back from 1970-01-01 00:00:05 to 00:00:04")


def test_numbers_outside_the_valid_range_are_not_learnt_from():
    task = a_task(length=2, low=0.0, high=10.0)

    examples, left_out = cut(readings(task, [1.0, 2.0, 3.0, -200.0, 4.0, 5.0, 6.0]), task)

    assert examples.windows[:, :, 0].tolist() == [[1, 2], [4, 5]]
    assert left_out[LeftOut.OUT_OF_RANGE] == 3


def test_readings_that_the_device_would_refuse_are_refused_and_counted():
    task = a_task(length=1)

    found = readings(task, [1.0, None, float("nan"), 4.0])

    assert len(found) == 2
    assert found.refusals.counts == {Reason.MISSING_VALUE: 1, Reason.NOT_FINITE: 1}
    assert found.refusals.first[Reason.MISSING_VALUE] == "row 2: value 'x' is missing"


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ([], "no reading can be used"),
        ([float("nan")] * 5, "no reading can be used: 5 refused, row 1: value 'x' is not finite"),
        ([1.0, 2.0, 3.0], "at most 3 readings of a device; a window with its target needs 4"),
    ],
)
def test_readings_that_make_no_window_are_refused(values, fault):
    task = a_task(length=3)

    with pytest.raises(UnsuitableDataError, match=fault):
        cut(readings(task, values), task)


def test_readings_without_labels_teach_no_regression():
    task = a_task(kind="regression", length=1)

    with pytest.raises(UnsuitableDataError, match="3 readings and not one label for model 'm'"):
        cut(readings(task, [1.0, 2.0, 3.0]), task)


def test_the_parts_follow_each_other_in_time():
    task = a_task(length=1, train=0.5, validation=0.25)
    examples, _ = cut(readings(task, [float(x) for x in range(9)]), task)

    parts = split(examples, task)

    assert {name: part.targets.tolist() for name, part in parts} == {
        "train": [1, 2, 3, 4],
        "validation": [5, 6],
        "test": [7, 8],
    }


def test_too_few_windows_for_every_part_are_refused():
    task = a_task(length=1, train=0.5, validation=0.25)
    examples, _ = cut(readings(task, [1.0, 2.0, 3.0]), task)

    with pytest.raises(UnsuitableDataError, match="2 windows are too few: nothing is left for validation"):
        split(examples, task)


def test_a_constant_target_is_refused():
    task = a_task(length=1)
    examples, _ = cut(readings(task, [7.0] * 20), task)

    with pytest.raises(UnsuitableDataError, match="every target of the training part is 7"):
        split(examples, task)


def test_the_naive_guess_is_the_last_value_or_the_training_mean():
    forecast, regression = a_task(length=2), a_task(kind="regression", length=1)
    examples, _ = cut(readings(forecast, [1.0, 2.0, 4.0, 8.0]), forecast)
    labelled, _ = cut(readings(regression, [1.0, 2.0, 3.0], labels=[1.0, 2.0, 6.0]), regression)

    assert naive(forecast, examples, examples).tolist() == [2, 4]
    assert naive(regression, labelled, labelled).tolist() == [3, 3, 3]


def test_shares_are_exact_where_they_can_be():
    task = a_task(length=1, train=0.7, validation=0.1)
    examples, _ = cut(readings(task, [float(x) for x in range(1001)]), task)

    assert [len(part) for _, part in split(examples, task)] == [700, 100, 200]


def test_the_parts_of_several_devices_follow_each_other_in_time_however_the_rows_are_sorted():
    task = a_task(kind="regression", length=1)
    times = [1000.0 * step for step in range(8)]
    blocks = [(device, time_ms) for device in "abc" for time_ms in times]
    by_time = sorted(blocks, key=lambda row: row[1])

    def parts_of(rows):
        devices, times = (list(column) for column in zip(*rows, strict=True))
        labels = [time_ms / 10 + ord(device) for device, time_ms in rows]
        return split(cut(readings(task, labels, devices=devices, times=times, labels=labels), task)[0], task)

    train, validation, test = (part for _, part in parts_of(blocks))

    assert train.times_ms.max() < validation.times_ms.min()
    assert validation.times_ms.max() < test.times_ms.min()
    assert [part.targets.tolist() for _, part in parts_of(by_time)] == [
        part.targets.tolist() for part in (train, validation, test)
    ]


def test_no_target_of_one_part_lies_in_the_time_of_the_next():
    task = a_task(length=1, horizon=30, train=0.7, validation=0.1)

    parts = split(cut(readings(task, [float(x) for x in range(400)]), task)[0], task)

    assert parts.train.targets.max() <= parts.validation.times_ms.min() / 1000
    assert parts.validation.targets.max() <= parts.test.times_ms.min() / 1000
    assert [len(part) for _, part in parts] == [205, 33, 74]


def test_of_more_windows_than_fit_an_even_choice_is_taken(monkeypatch):
    monkeypatch.setattr(dataset, "_MOST_WINDOWS", 10)
    task = a_task(kind="regression", length=1)
    values = [float(x) for x in range(40)]

    examples, left_out = cut(readings(task, values, devices=["a", "b"] * 20, labels=values), task)

    assert examples.targets.tolist() == [0, 1, 8, 9, 18, 19, 28, 29, 38, 39]
    assert left_out == {LeftOut.TOO_MANY: 30}


@pytest.mark.parametrize(
    ("split_table", "mean"),
    [({"test_from": "1970-01-01T00:00:04"}, 1.5), ({"grouped": True}, 3.5), ({"train": 0.5}, 1.5)],
)
def test_the_mean_that_stands_for_missing_numbers_is_that_of_the_training_part(split_table, mean):
    task = a_task(kind="regression", length=1)
    table = task.split.model_copy(update={"train": 0.5, "validation": 0.0, **split_table})
    task = task.model_copy(
        update={"split": table, "window": task.window.model_copy(update={"impute": Imputation.MEAN})}
    )
    values = [float(x) for x in range(8) for _ in "ab"]
    times = [x * 1000.0 for x in values]
    # Of device b the value is 10 more: what is kept whole for the test does not count.
    rows = [value + 10 * (number % 2) for number, value in enumerate(values)]

    found = readings(task, rows, devices=["a", "b"] * 8, times=times)

    assert fills(found, task) == {"x": mean + (0 if "grouped" in split_table else 5)}


def test_a_day_of_more_readings_than_a_window_can_hold_is_not_tried():
    task = TaskFile.model_validate(
        {
            "task": {
                "model": "m",
                "stream": "s",
                "kind": "forecast",
                "target": "x",
                "step_ms": 100,
                "values": {"x": {}},
            },
            "window": {"length": "auto"},
        }
    )

    assert cut_longest(readings(task, [float(x) for x in range(60)]), task)[2] == [1, 8]
