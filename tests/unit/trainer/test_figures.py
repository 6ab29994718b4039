"""How good answers are."""

from __future__ import annotations

import numpy as np
import pytest

from atoll_trainer.figures import average_precision, metrics, window_losses
from atoll_trainer.task import TaskKind


def test_numbers_are_judged_by_their_errors_over_the_whole_path():
    outputs, targets = np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([[1.0, 4.0], [3.0, 4.0]])

    assert window_losses(TaskKind.FORECAST, outputs, targets).tolist() == [1.0, 0.0]
    found = metrics(TaskKind.FORECAST, outputs, targets)
    assert (found.mae, found.rmse, found.accuracy) == (0.5, 1.0, None)


def test_classes_are_judged_by_what_is_told_and_how_surely():
    outputs = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [1.0, 0.0]])
    targets = np.array([0.0, 0.0, 1.0, 1.0])

    found = metrics(TaskKind.CLASSIFICATION, outputs, targets)

    assert found.accuracy == 0.5
    assert found.f1 == 0.5
    assert found.macro_f1 == 0.5
    assert found.average_precision == pytest.approx((1 / 1 + 2 / 4) / 2)
    assert found.log_loss == pytest.approx(-np.log([0.9, 0.4, 0.8, 1 / 512]).mean())
    assert found.error == found.log_loss


def test_equal_scores_are_one_step():
    scores, truth = np.array([1.0, 1.0, 0.0]), np.array([True, False, False])

    assert average_precision(scores, truth) == 0.5
    assert average_precision(scores[::-1].copy(), np.array([True, True, True])) is None


def test_anomalies_are_judged_where_somebody_knows():
    scores = np.array([[5.0], [1.0], [4.0], [9.0]])
    targets = np.array([1.0, 0.0, 0.0, np.nan])

    found = metrics(TaskKind.ANOMALY, scores, targets, 3.0)

    assert (found.flagged, found.f1) == (0.75, pytest.approx(2 / 3))
    assert window_losses(TaskKind.ANOMALY, scores, targets, 3.0).tolist()[:3] == [0.0, 0.0, 1.0]
    assert metrics(TaskKind.ANOMALY, scores, np.full(4, np.nan), 3.0).f1 is None
