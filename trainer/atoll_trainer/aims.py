"""What each window of a device should give: its label, or the value that lies ahead of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from atoll_contract.manifest import WindowKind
from atoll_signal.grid import GridWindows
from atoll_signal.recorded import Recorded
from atoll_signal.season import Season
from atoll_trainer.task import TaskFile, TaskKind

if TYPE_CHECKING:
    from atoll_trainer.dataset import Readings

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Aims:
    """Of each of n windows.

    Attributes:
        targets: What it should give, NaN where nobody knows, shape (n,); of a path (n, steps).
        has_gap: Whether readings are missing between it and what it should give, shape (n,).
        last: Of a forecast: what its value was at the end of the window, shape (n,).
        until_ms: Event time of the last reading that the target is made of, shape (n,).
    """

    targets: Floats
    has_gap: NDArray[np.bool_]
    last: Floats
    until_ms: Floats


def aims_of(task: TaskFile, windows: Recorded, readings: Readings, places: NDArray[np.int64]) -> Aims:
    """Return the aims of the windows of one device, whose readings are those at ``places``."""
    times_ms = readings.times_ms[places]
    newest = _newest(task, windows, times_ms)
    if task.task.kind is not TaskKind.FORECAST:
        targets = readings.labels[places][newest]
        if task.window.resample is not None and task.task.step_ms is not None:
            targets[windows.end_ms - times_ms[newest] >= task.task.step_ms] = np.nan
        return Aims(targets, np.zeros(len(windows), np.bool_), np.full(len(windows), np.nan), windows.end_ms)
    series = readings.rows[places, task.target_column].astype(np.float64)
    last = _known(series)[newest]
    if task.window.resample is None:
        return _readings_ahead(task, newest, times_ms, series, last)
    steps = _steps(task, series, times_ms)
    ends = np.rint(windows.end_ms / (task.task.step_ms or 1.0)).astype(np.int64)
    targets = np.array(
        [[steps.get(end + ahead, np.nan) for ahead in _ahead(task)] for end in ends.tolist()]
    ).reshape(len(ends), -1)
    if not task.task.path:
        targets = targets[:, 0]
    now = np.array([steps.get(end, np.nan) for end in ends.tolist()])
    last = np.where(np.isnan(now), last, now)
    until_ms = windows.end_ms + task.task.horizon * (task.task.step_ms or 0.0)
    return Aims(targets, np.zeros(len(windows), np.bool_), last, until_ms)


def are_valid(targets: NDArray[np.float64], task: TaskFile) -> NDArray[np.bool_]:
    """Return which targets, shape (n, any), are a class, or within the valid range of what is forecast."""
    low, high = -np.inf, np.inf
    if task.task.kind is TaskKind.CLASSIFICATION:
        low, high = 0, len(task.task.labels) - 1
        if not (np.isnan(targets) | (targets == np.floor(targets))).all():
            targets = np.where(targets == np.floor(targets), targets, np.inf)
    if task.task.kind is TaskKind.FORECAST:
        value = task.task.values[task.task.target]
        low = low if value.low is None else value.low
        high = high if value.high is None else value.high
    valid: NDArray[np.bool_] = ((targets >= low) & (targets <= high)).all(axis=1)
    return valid


def _newest(task: TaskFile, windows: Recorded, times_ms: Floats) -> NDArray[np.int64]:
    """Return the newest reading of each window; the one that completes it may lie behind it."""
    is_tumbling = task.window.kind is WindowKind.TUMBLING
    if task.window.resample is None and not (is_tumbling and task.window.duration_ms is not None):
        return windows.places
    order = np.argsort(times_ms, kind="stable")
    before = np.searchsorted(times_ms[order], windows.end_ms, side="right") - 1
    newest: NDArray[np.int64] = order[np.maximum(before, 0)]
    return newest


def _known(series: Floats) -> Floats:
    """Return the latest number that is known at each reading; NaN before the first."""
    places = np.where(np.isnan(series), -1, np.arange(len(series)))
    latest = np.maximum.accumulate(places)
    return np.where(latest < 0, np.nan, series[np.maximum(latest, 0)])


def _readings_ahead(
    task: TaskFile, newest: NDArray[np.int64], times_ms: Floats, series: Floats, last: Floats
) -> Aims:
    horizon, limit_ms = task.task.horizon, task.window.max_gap_ms
    ahead = newest + horizon
    is_there = ahead < len(series)
    ahead = np.minimum(ahead, len(series) - 1)
    if task.task.path:
        all_ahead = np.minimum(newest[:, None] + np.array(_ahead(task)), len(series) - 1)
        targets = np.where(is_there[:, None], series[all_ahead], np.nan)
    else:
        targets = np.where(is_there, series[ahead], np.nan)
    has_gap = np.zeros(len(newest), np.bool_)
    if limit_ms is not None:
        gaps = np.concatenate([[0], np.cumsum(np.diff(times_ms) > limit_ms)])
        has_gap = is_there & (gaps[ahead] > gaps[newest])
    return Aims(targets, has_gap, last, times_ms[ahead])


def _ahead(task: TaskFile) -> range:
    return range(1 if task.task.path else task.task.horizon, task.task.horizon + 1)


def _steps(task: TaskFile, series: Floats, times_ms: Floats) -> dict[int, float]:
    """Return the value of a forecast at every step that readings make, by the step's number."""
    steps: dict[int, float] = {}

    def note(step: int, row: bytes) -> None:
        steps[step] = float(np.frombuffer(row, np.float32)[0])

    plain = task.model_copy(update={"feature": []}).manifest()
    spec = plain.window.model_copy(update={"length": 1, "kind": WindowKind.SLIDING, "impute": None})
    grid = GridWindows(spec, 1, [None], Season(plain), max_devices=1, on_step=note)
    for number, time_ms in zip(series.tolist(), times_ms.tolist(), strict=True):
        grid.push("", [number], time_ms)
    return steps
