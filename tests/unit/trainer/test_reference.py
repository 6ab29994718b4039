"""The drift reference that a release is given."""

from __future__ import annotations

import numpy as np
import pytest
from support.bundles import make_bundle

from atoll_contract.reference import Reference
from atoll_infer.predictor import Predictor
from atoll_infer.runtime import choose_runtime
from atoll_signal.spread import Spread
from atoll_trainer.dataset import Examples
from atoll_trainer.reference import ahead_of, expected_error, reference_of, thinned
from atoll_trainer.runs import ModelMetrics
from atoll_trainer.task import TaskFile

RANDOM = np.random.default_rng(7)


def predictor() -> Predictor:
    """Return y = 2x + 1."""
    bundle = make_bundle()
    return Predictor(bundle.manifest, choose_runtime().runtime.load(bundle.model))


def examples(x: np.ndarray, step_ms: float = 1000.0) -> Examples:
    windows = x.astype(np.float32).reshape(-1, 1, 1)
    return Examples(windows, np.zeros(len(x)), np.arange(len(x)) * step_ms)


def made(x: np.ndarray) -> Reference:
    found = reference_of(predictor(), examples(x), None, None)
    assert found is not None
    return Reference.decode(found.encode())


def test_features_and_outputs_are_counted_in_bins_of_a_tenth():
    reference = made(RANDOM.uniform(0, 10, 4000))

    assert sum(reference.features[0].counts) == sum(reference.output.counts) == 4000
    assert all(380 <= count <= 420 for count in reference.features[0].counts[1:-1])
    # y = 2x + 1
    assert reference.output.edges[5] == pytest.approx(2 * reference.features[0].edges[5] + 1, abs=0.01)


def test_a_comparison_covers_a_tenth_of_the_span_or_as_much_as_holds_enough():
    assert made(RANDOM.uniform(size=4000)).span_s == pytest.approx(400, abs=1)
    assert made(RANDOM.uniform(size=400)).span_s == pytest.approx(200, abs=1)
    assert made(RANDOM.uniform(size=100)).span_s == pytest.approx(99, abs=1)


def test_the_limit_is_the_usual_one_where_the_training_span_is_even():
    reference = made(RANDOM.uniform(0, 10, 4000))

    assert [one.limit for one in (*reference.features, reference.output)] == [0.25, 0.25]


def test_a_swing_that_a_comparison_sees_a_part_of_is_no_drift():
    swing = 10 * np.sin(np.arange(4000) / 4000 * 2 * np.pi) + RANDOM.normal(size=4000)
    reference = made(swing)
    spread = Spread(reference.features, np.array([0]))
    night = spread.index(spread.counts(swing[900:1100, None]))

    assert float(night[0]) > 1
    assert float(night[0]) < reference.features[0].limit


def test_of_many_windows_a_part_spread_over_them_is_used():
    train = thinned(examples(np.arange(100_000.0)))

    assert len(train) == 5000
    assert (train.times_ms[0], train.times_ms[-1]) == (0.0, 99_999_000.0)
    assert reference_of(predictor(), examples(np.zeros(0)), None, None) is None


def test_the_expected_error_comes_from_the_evaluation_and_is_no_smaller_than_a_step():
    metrics = ModelMetrics(mae=0.3, rmse=0.5, latency_us=1.0, saturated=0, sha256="0" * 64)

    assert (expected_error(metrics).mean, expected_error(metrics).std) == (0.3, pytest.approx(0.4))
    same = metrics.model_copy(update={"rmse": 0.3})
    assert expected_error(same, lsb=0.4).std == pytest.approx(0.1)


def test_a_forecast_tells_which_later_reading_is_its_truth(tmp_path):
    path = tmp_path / "task.toml"
    text = '[task]\nmodel = "m"\nstream = "s"\nkind = "{kind}"\n{more}[task.values.a]\n[task.values.b]\n'
    path.write_text(text.format(kind="forecast", more='target = "b"\nhorizon = 3\nstep_ms = 2000.0\n'))
    ahead = ahead_of(TaskFile.read(path))

    assert (ahead.column, ahead.after_ms, ahead.tolerance_ms) == (1, 6000.0, 1000.0)
    path.write_text(text.format(kind="forecast", more='target = "b"\n'))
    assert ahead_of(TaskFile.read(path)) is None
    path.write_text(text.format(kind="regression", more=""))
    assert ahead_of(TaskFile.read(path)) is None
