"""Whether windows are enough to learn from, and what a person should know about them first."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import numpy as np

from atoll_contract.errors import Reason
from atoll_trainer.dataset import Examples, Split, UnsuitableDataError
from atoll_trainer.leaks import explained
from atoll_trainer.task import TaskFile, TaskKind

_LEAST_TRAIN: Final = 16
_LEAST_TEST: Final = 4
_REFUSED: Final = 0.05
_LEAKS: Final = 0.97
_RARE: Final = 10


def require_enough(parts: Split, source: str) -> None:
    """Refuse parts that are too small for any figure to mean something.

    Raises:
        UnsuitableDataError: They are.
    """
    for name, part, least in (("train", parts.train, _LEAST_TRAIN), ("test", parts.test, _LEAST_TEST)):
        if len(part) < least:
            raise UnsuitableDataError(
                f"{source}: {len(part)} windows in the {name} part are too few, at least {least} are needed "
                "and some hundreds wanted: record for longer, take shorter windows, or one model for all"
            )


def require_change(parts: Split, source: str) -> None:
    """Refuse windows in which nothing ever changes: whatever was learnt would not depend on them.

    Raises:
        UnsuitableDataError: All of the training part are alike.
    """
    windows = parts.train.windows
    if (windows == windows[0]).all():
        raise UnsuitableDataError(
            f"{source}: all {len(windows):,} windows of the training part are the same, every value is "
            "constant: nothing to learn; are the sensors connected? See atoll-trainer inspect"
        )


def notes(parts: Split, task: TaskFile, readings: int, refused: Mapping[str, int]) -> list[str]:
    """Return what a person should know before trusting a model of these windows, in sentences."""
    return [
        *_about_refused(task, readings, refused),
        *_about_features(parts, task),
        *_about_classes(parts, task),
        *_about_threshold(parts, task),
    ]


def _about_refused(task: TaskFile, readings: int, refused: Mapping[str, int]) -> Iterator[str]:
    missing = refused.get(Reason.MISSING_VALUE.value, 0)
    total = readings + sum(refused.values())
    if missing > _REFUSED * total:
        hint = (
            ""
            if task.window.impute
            else ": say impute in [window], here and on devices, or leave the value out"
        )
        yield f"{missing / total:.0%} of the readings lack a value and were refused{hint}."


def _about_features(parts: Split, task: TaskFile) -> Iterator[str]:
    manifest = task.manifest()
    train, start = parts.train, 0
    for label, size in zip(manifest.labels, manifest.sizes, strict=True):
        part = train.windows[:, :, start : start + size]
        if np.ptp(part) == 0:
            yield f"{label} is always {float(part.flat[0]):g} in training: the model learns nothing from it."
        elif size == 1 and (share := _told(task, train, start)) >= _LEAKS:
            yield f"{label} alone explains {share:.1%} of the target: is it known before the target is?"
        start += size


def _told(task: TaskFile, train: Examples, column: int) -> float:
    """Return how much of the target one feature explains; of a forecast the present is no leak."""
    if task.task.kind in {TaskKind.FORECAST, TaskKind.ANOMALY} or train.targets.ndim > 1:
        return 0.0
    return explained(train.windows[:, -1, column].astype(np.float64), train.targets)


def _about_classes(parts: Split, task: TaskFile) -> Iterator[str]:
    if task.task.kind is not TaskKind.CLASSIFICATION:
        return
    counts = np.bincount(parts.train.targets.astype(np.int64), minlength=len(task.task.labels))
    for label, count in zip(task.task.labels, counts.tolist(), strict=True):
        if count < _RARE:
            yield f"Class {label!r} stands {count} times in training: what is told of it is uncertain."
    known = np.unique(parts.validation.targets).astype(np.int64).tolist()
    if len(known) == 1:
        yield (
            f"The validation part holds {task.task.labels[known[0]]!r} only, so that it cannot tell good "
            "models from bad ones: give it other windows with [split]."
        )


def _about_threshold(parts: Split, task: TaskFile) -> Iterator[str]:
    false_alarms = task.threshold.false_alarms
    apart = len(parts.train) // task.length
    if task.task.kind is TaskKind.ANOMALY and apart * false_alarms < 1:
        yield (
            f"The threshold rests on {apart:,} windows that share no reading, too few for a share of "
            f"{false_alarms:g} false alarms: expect more, or set threshold.margin above 1."
        )
