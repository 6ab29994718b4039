"""Windows by time, steps and features of a task."""

from __future__ import annotations

import numpy as np
import pytest

from atoll_contract.manifest import Feature, FeatureKind
from atoll_trainer.dataset import Observed, Refusals, collect, cut, fills, split
from atoll_trainer.naive import naive
from atoll_trainer.own_model import OwnModel
from atoll_trainer.runs import Run
from atoll_trainer.task import TaskFile


def a_task(learnt="forecast", *, features=(), values=("x",), horizon=1, step_ms=1000.0, **window):
    target = values[0] if learnt == "forecast" else "label"
    table = {"model": "m", "stream": "s", "kind": learnt, "target": target, "horizon": horizon}
    return TaskFile.model_validate(
        {
            "task": {**table, "step_ms": step_ms, "values": {name: {} for name in values}},
            "window": window,
            "feature": list(features),
            "split": {"train": 0.5, "validation": 0.25},
        }
    )


def readings(task, *rows, labels=None):
    observed = [
        Observed(number, "a", time_s * 1000.0, values, labels[number] if labels else None)
        for number, (time_s, values) in enumerate(rows)
    ]
    return collect(observed, task, "test", "0", Refusals())


def test_a_forecast_of_steps_learns_the_value_so_many_steps_ahead():
    task = a_task(length=2, horizon=2, resample="linear", max_gap_ms=3000.0)
    rows = [(0.5 + second, {"x": 10.0 * second + 5.0}) for second in range(7)]

    examples, _ = cut(readings(task, *rows), task)

    # Readings between the steps lie on a line: at step 2 it is 20, two steps on 40.
    assert examples.windows[:, :, 0].tolist() == [[10, 20], [20, 30], [30, 40]]
    assert examples.targets.tolist() == [40, 50, 60]
    assert examples.times_ms.tolist() == [2000, 3000, 4000]
    assert naive(task, examples, examples).tolist() == [20, 30, 40]


def test_the_label_of_a_tumbling_window_is_that_of_its_newest_reading():
    features = [{"kind": "mean", "value": "x"}, {"kind": "range", "value": "x"}]
    task = a_task("regression", features=features, duration_ms=3000.0, length=9, kind="tumbling")
    rows = [(second, {"x": float(second)}) for second in range(8)]

    examples, _ = cut(readings(task, *rows, labels=[float(second) for second in range(8)]), task)

    assert examples.windows.tolist() == [[[1.0, 2.0]], [[4.0, 2.0]]]
    assert examples.targets.tolist() == [2, 5]


def test_the_mean_of_the_training_part_stands_for_what_is_missing():
    task = a_task(values=("x", "y"), length=1, impute="mean")
    rows = [(s, {"x": float(s), "y": 1.0 if s < 4 else 100.0}) for s in range(8)]
    rows[6] = (6, {"x": 6.0})

    found = readings(task, *rows)
    examples, _ = cut(found, task)

    assert fills(found, task) == {"x": 1.5, "y": 1.0}
    assert examples.windows[:, 0, 1].tolist() == [1, 1, 1, 1, 100, 100, 1]
    assert task.manifest(fills=fills(found, task)).values[1].fill == 1.0


def test_other_windows_and_features_are_cut_of_the_same_readings():
    task = a_task(values=("x", "y"), length=1)
    found = readings(task, *((s, {"x": float(s), "y": -float(s)}) for s in range(20)))
    lag = {"kind": "lag", "value": "y", "lag": 3}
    other = a_task(values=("x", "y"), length=2, features=[lag, {"value": "x"}])

    examples, _ = cut(found, other)

    assert examples.windows[0].tolist() == [[0.0, 3.0], [-1.0, 4.0]]
    assert other.target_feature == 1
    assert other.features[0] == Feature(kind=FeatureKind.LAG, value="y", lag=3)


def test_samples_of_golden_vectors_are_kept_with_their_times(tmp_path):
    features = [{"kind": "std", "value": "x"}, {"kind": "hour_sin"}]
    task = a_task(features=features, length=4)
    examples, _ = cut(readings(task, *((s, {"x": float(s % 5)}) for s in range(40))), task)
    parts = split(examples, task)

    Run(tmp_path).write_split(parts)
    samples = Run(tmp_path).golden_samples()

    assert [one.rows.shape for one in samples] == [(4, 1)] * len(parts.test)
    assert samples[0].times_ms is not None
    assert samples[0].times_ms[-1] == parts.test.times_ms[0]
    assert np.array_equal(samples[-1].rows, parts.test.samples[-1].rows)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"features": [{"kind": "mean"}]}, "mean needs a value"),
        ({"features": [{"kind": "value"}]}, "needs its name and nothing else"),
        ({"features": [{"kind": "mean", "value": "z"}]}, "z is no value"),
        ({"features": [{"kind": "lag", "value": "x", "lag": 9}], "duration_ms": 5.0}, "use resample"),
        ({"resample": "linear"}, "needs step_ms, and max_gap_ms"),
        ({"impute": "linear"}, "linear needs resample = linear"),
        ({"duration_ms": 5.0, "kind": "tumbling"}, "no forecast from tumbling windows"),
        ({"length": 100_000, "values": tuple("x" + str(n) for n in range(200))}, "at most 16777216"),
    ],
)
def test_what_does_not_fit_together_is_a_fault(options, told):
    with pytest.raises(ValueError, match=told):
        a_task(**options)


def test_a_model_of_ones_own_says_all_of_its_values():
    own = OwnModel.model_validate(
        {
            "model": "m",
            "task": "regression",
            "values": {"wave": {"shape": [64], "step_ms": 0.5}, "t": {"fill": 21.5, "unit": "°C"}},
            "feature": [{"kind": "peak_hz", "value": "wave"}, {"kind": "mean", "value": "t"}],
        }
    )

    manifest = own.manifest(1)

    assert manifest.values[0].step_ms == 0.5
    assert (manifest.values[1].fill, manifest.values[1].unit) == (21.5, "°C")
    assert manifest.labels == ["wave.peak_hz", "t.mean"]
