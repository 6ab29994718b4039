"""From readings to windows and targets, cut by the code that the device runs.

A reading that the device would refuse is refused here, for the same reason; a window that the device
would flag (``gap``, ``out_of_range``) is left out. Everything is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from atoll_contract.errors import MalformedMessageError, PeerError, Reason
from atoll_contract.messages import Value
from atoll_signal.features import FeatureRow, Normaliser
from atoll_signal.order import StepBack, describe, steps_back
from atoll_signal.window import Windows
from atoll_trainer.task import TaskFile, TaskKind


class UnsuitableDataError(PeerError):
    """The readings are not what the task needs."""

    default_reason = Reason.UNSUITABLE_DATA


@dataclass(frozen=True, slots=True)
class Observed:
    """One reading as it came, with its label if there is one.

    Attributes:
        number: Line of the file, or count of the message.
        device: Id of the device.
        time_ms: Event time.
        values: By name.
        label: The truth about it.
    """

    number: int
    device: str
    time_ms: float
    values: dict[str, Value]
    label: float | None = None


@dataclass(slots=True)
class Refusals:
    """Readings that were not used, by reason, with the first of each told."""

    counts: Counter[Reason] = field(default_factory=Counter)
    first: dict[Reason, str] = field(default_factory=dict)

    def add(self, number: int, error: MalformedMessageError) -> None:
        """Count one more."""
        self.counts[error.reason] += 1
        self.first.setdefault(error.reason, f"row {number:,}: {error.detail}")


@dataclass(frozen=True, slots=True)
class Readings:
    """Readings of a task in order of arrival.

    Attributes:
        source: Where they are from, for people.
        sha256: Digest of what was read.
        rows: Features, float32, shape (n, columns), in the values' units.
        times_ms: Event times, shape (n,).
        numbers: Lines of the file or counts of the messages, shape (n,).
        devices: Whose they are, n of them.
        labels: The truth, NaN where there is none, shape (n,).
        refusals: What was not used.
    """

    source: str
    sha256: str
    rows: NDArray[np.float32]
    times_ms: NDArray[np.float64]
    numbers: NDArray[np.int64]
    devices: list[str]
    labels: NDArray[np.float64]
    refusals: Refusals

    def __len__(self) -> int:
        return len(self.times_ms)

    def by_device(self) -> dict[str, NDArray[np.int64]]:
        """Return the places of each device's readings, in order of arrival."""
        places: dict[str, list[int]] = {}
        for place, device in enumerate(self.devices):
            places.setdefault(device, []).append(place)
        return {device: np.array(found) for device, found in places.items()}

    def steps_back(self) -> list[str]:
        """Return a sentence for every place where a device's times step back."""
        by_device = self.by_device()
        steps: list[tuple[str, StepBack]] = []
        for device, places in by_device.items():
            for step in steps_back(self.times_ms[places].tolist()):
                number = int(self.numbers[places[step.row - 1]])
                steps.append((device, replace(step, row=number)))
        steps.sort(key=lambda found: found[1].row)
        return [
            describe(step) if len(by_device) == 1 else f"{device}: {describe(step)}" for device, step in steps
        ]


class LeftOut(StrEnum):
    """Why a full window was not learnt from."""

    GAP = "gap"
    OUT_OF_RANGE = "out_of_range"
    NO_LABEL = "no_label"
    NO_READING_AHEAD = "no_reading_ahead"


@dataclass(frozen=True, slots=True)
class Examples:
    """Windows with what they should give, in order of time.

    Attributes:
        windows: float32, shape (n, length, columns), in the values' units.
        targets: float64, shape (n,), in the unit of the prediction.
        times_ms: Event time of the reading that completed each window, shape (n,).
    """

    windows: NDArray[np.float32]
    targets: NDArray[np.float64]
    times_ms: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.targets)

    def part(self, start: int, end: int) -> Examples:
        """Return the examples from ``start`` to before ``end``: views."""
        return Examples(self.windows[start:end], self.targets[start:end], self.times_ms[start:end])


@dataclass(frozen=True, slots=True)
class Split:
    """Examples cut by time; the test part is touched by nothing but the evaluation."""

    train: Examples
    validation: Examples
    test: Examples

    def __iter__(self) -> Iterator[tuple[str, Examples]]:
        return iter([("train", self.train), ("validation", self.validation), ("test", self.test)])


def collect(
    observed: Iterable[Observed], task: TaskFile, source: str, sha256: str, refusals: Refusals
) -> Readings:
    """Return ``observed`` as rows of features; what the device would refuse is counted.

    Raises:
        UnsuitableDataError: No reading is left.
    """
    features = FeatureRow(task.manifest())
    rows, times, numbers, devices, labels = [], [], [], [], []
    for one in observed:
        try:
            rows.append(features.row(one.values))
        except MalformedMessageError as error:
            refusals.add(one.number, error)
            continue
        times.append(one.time_ms)
        numbers.append(one.number)
        devices.append(one.device)
        labels.append(np.nan if one.label is None else one.label)
    if not rows:
        refused = refusals.counts.total()
        why = f": {refused:,} refused, {next(iter(refusals.first.values()))}" if refused else ""
        raise UnsuitableDataError(f"{source}: no reading can be used{why}")
    return Readings(
        source,
        sha256,
        np.frombuffer(b"".join(rows), np.float32).reshape(len(rows), -1),
        np.array(times, np.float64),
        np.array(numbers, np.int64),
        devices,
        np.array(labels, np.float64),
        refusals,
    )


def cut(readings: Readings, task: TaskFile) -> tuple[Examples, Counter[LeftOut]]:
    """Return every window of ``readings`` with its target, and how many windows were left out.

    Raises:
        UnsuitableDataError: There is none.
    """
    by_device = readings.by_device()
    manifest = task.manifest()
    windows = Windows(manifest.window, manifest.columns, max_devices=len(by_device))
    valid = Normaliser(manifest)
    targets, spans_gap = _targets(readings, task)
    left_out: Counter[LeftOut] = Counter()
    kept, places = [], []
    for place, (device, row) in enumerate(zip(readings.devices, readings.rows, strict=True)):
        window = windows.push(device, row.tobytes(), float(readings.times_ms[place]))
        if window is None:
            continue
        rows = window.rows
        is_out_of_range = valid.is_out_of_range(rows[None]) is not None
        if window.take_gap() or spans_gap[place]:
            left_out[LeftOut.GAP] += 1
        elif np.isnan(targets[place]):
            is_forecast = task.task.kind is TaskKind.FORECAST
            left_out[LeftOut.NO_READING_AHEAD if is_forecast else LeftOut.NO_LABEL] += 1
        elif is_out_of_range or not _is_valid_target(float(targets[place]), task):
            left_out[LeftOut.OUT_OF_RANGE] += 1
        else:
            kept.append(rows)
            places.append(place)
    if not kept:
        raise UnsuitableDataError(_nothing(readings, task, left_out))
    # Readings may come device by device: the parts are cut by time all the same. Where a moment is
    # the same the device decides, so that the order of the rows does not.
    moments = [(float(readings.times_ms[place]), readings.devices[place]) for place in places]
    order = sorted(range(len(kept)), key=moments.__getitem__)
    windows_in_order = np.stack([kept[number] for number in order])
    in_order = np.array(places)[order]
    return Examples(windows_in_order, targets[in_order], readings.times_ms[in_order]), left_out


def split(examples: Examples, task: TaskFile) -> Split:
    """Return ``examples`` cut by time into the parts that ``task`` asks for.

    Raises:
        UnsuitableDataError: A part would be empty, or every target learnt from is the same.
    """
    count = len(examples)
    # A share of 0.7 + 0.1 is a little less than 0.8.
    first, second = (
        int(count * share + 1e-6) for share in (task.split.train, task.split.train + task.split.validation)
    )
    parts = Split(examples.part(0, first), examples.part(first, second), examples.part(second, count))
    empty = [
        name for name, part in parts if not len(part) and (name != "validation" or task.split.validation)
    ]
    if empty:
        raise UnsuitableDataError(f"{count} windows are too few: nothing is left for {', '.join(empty)}")
    if np.ptp(parts.train.targets) == 0:
        value = float(parts.train.targets[0])
        raise UnsuitableDataError(f"every target of the training part is {value:g}: nothing to learn")
    return parts


def naive(task: TaskFile, train: Examples, examples: Examples) -> NDArray[np.float64]:
    """Return the guess to beat for each of ``examples``: the last value, or the training mean."""
    if task.task.kind is TaskKind.FORECAST:
        return examples.windows[:, -1, task.target_column].astype(np.float64)
    return np.full(len(examples), train.targets.mean())


def _targets(readings: Readings, task: TaskFile) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the target of each reading, NaN for none, and whether there is a gap before it."""
    has_gap = np.zeros(len(readings), np.bool_)
    if task.task.kind is TaskKind.REGRESSION:
        return readings.labels, has_gap
    targets = np.full(len(readings), np.nan)
    horizon, limit = task.task.horizon, task.window.max_gap_ms
    for places in readings.by_device().values():
        now, ahead = places[:-horizon], places[horizon:]
        targets[now] = readings.rows[ahead, task.target_column]
        if limit is not None:
            gaps = np.diff(readings.times_ms[places]) > limit
            before = np.concatenate([[0], np.cumsum(gaps)])
            has_gap[now] = before[horizon:] > before[:-horizon]
    return targets, has_gap


def _is_valid_target(target: float, task: TaskFile) -> bool:
    if task.task.kind is TaskKind.REGRESSION:
        return True
    value = task.task.values[task.task.target]
    return (value.low is None or target >= value.low) and (value.high is None or target <= value.high)


def _nothing(readings: Readings, task: TaskFile, left_out: Counter[LeftOut]) -> str:
    length, horizon = task.window.length, task.task.horizon
    if left_out[LeftOut.NO_LABEL] and left_out.total() == left_out[LeftOut.NO_LABEL]:
        return (
            f"{readings.source}: {len(readings):,} readings and not one label for model "
            f"{task.task.model!r} at their times"
        )
    most = max(len(places) for places in readings.by_device().values())
    needs = length + (horizon if task.task.kind is TaskKind.FORECAST else 0)
    if most < needs:
        found = f"{readings.source}: at most {most:,} readings of a device"
        return f"{found}; a window with its target needs {needs:,}"
    reasons = ", ".join(f"{reason.value} {count:,}" for reason, count in left_out.items())
    return f"{readings.source}: no window can be learnt from: {reasons}"
