"""How good answers are: one loss for each window, and figures over all of them."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from atoll_trainer.runs import Metrics
from atoll_trainer.task import TaskKind

Doubles = NDArray[np.float64]
LEAST_PROBABILITY: Final = 1 / 512
"""What stands for a probability of 0: half a step of an int8 one."""


def window_losses(kind: TaskKind, outputs: Doubles, targets: Doubles, threshold: float = 0.0) -> Doubles:
    """Return the loss of each window, shape (n,).

    The absolute error (its mean over a path); of a classification minus the logarithm of the probability
    of the true class; of an anomaly 1 where it is told wrongly and 0 elsewhere, NaN where nobody knows.

    Args:
        kind: Of the task.
        outputs: In the unit of the prediction, shape (n, outputs).
        targets: As in :class:`atoll_trainer.dataset.Examples`.
        threshold: Of an anomaly.
    """
    if kind is TaskKind.CLASSIFICATION:
        told = outputs[np.arange(len(outputs)), targets.astype(np.int64)]
        losses: Doubles = -np.log(np.maximum(told, LEAST_PROBABILITY))
        return losses
    if kind is TaskKind.ANOMALY:
        wrong = ((outputs[:, 0] > threshold) != (targets > 0)).astype(np.float64)
        return np.where(np.isnan(targets), np.nan, wrong)
    off: Doubles = np.abs(outputs - targets.reshape(outputs.shape)).mean(axis=1)
    return off


def metrics(kind: TaskKind, outputs: Doubles, targets: Doubles, threshold: float = 0.0) -> Metrics:
    """Return the figures of ``outputs``; see :func:`window_losses`."""
    if kind is TaskKind.CLASSIFICATION:
        return _of_classes(outputs, targets.astype(np.int64))
    if kind is TaskKind.ANOMALY:
        return _of_anomalies(outputs[:, 0], targets, threshold)
    errors = outputs - targets.reshape(outputs.shape)
    return Metrics(mae=float(np.abs(errors).mean()), rmse=float(np.sqrt((errors**2).mean())))


def one_hot(classes: Doubles, count: int) -> Doubles:
    """Return 1 at the place of each class, shape (n, count)."""
    return np.eye(count)[classes.astype(np.int64)]


def average_precision(scores: Doubles, is_positive: NDArray[np.bool_]) -> float | None:
    """Return the mean precision over all positives, by falling score; None without both kinds.

    Equal scores are one step, as they cannot be told apart by a threshold.
    """
    positives = int(is_positive.sum())
    if positives in {0, len(is_positive)}:
        return None
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(is_positive[order])
    ends = np.append(np.flatnonzero(np.diff(scores[order])), len(scores) - 1)
    precision, recall = hits[ends] / (ends + 1), hits[ends] / positives
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def f1(is_told: NDArray[np.bool_], is_positive: NDArray[np.bool_]) -> float:
    """Return the harmonic mean of precision and recall; 0 where nothing is right."""
    right = int((is_told & is_positive).sum())
    return 2 * right / max(1, int(is_told.sum() + is_positive.sum()))


def _of_classes(outputs: Doubles, classes: NDArray[np.int64]) -> Metrics:
    told = outputs.argmax(axis=1)
    count = outputs.shape[1]
    there = sorted(set(classes.tolist()))
    is_binary = count == 2  # noqa: PLR2004
    return Metrics(
        accuracy=float((told == classes).mean()),
        macro_f1=float(np.mean([f1(told == one, classes == one) for one in there])),
        f1=f1(told == 1, classes == 1) if is_binary else None,
        average_precision=average_precision(outputs[:, 1], classes == 1) if is_binary else None,
        log_loss=float(window_losses(TaskKind.CLASSIFICATION, outputs, classes.astype(np.float64)).mean()),
    )


def _of_anomalies(scores: Doubles, targets: Doubles, threshold: float) -> Metrics:
    flagged = float((scores > threshold).mean())
    known = ~np.isnan(targets)
    if not known.any():
        return Metrics(flagged=flagged)
    is_anomaly = targets[known] > 0
    return Metrics(
        flagged=flagged,
        f1=f1(scores[known] > threshold, is_anomaly),
        average_precision=average_precision(scores[known], is_anomaly),
    )
