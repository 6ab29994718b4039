"""From readings to windows and targets, cut by the code that the device runs.

A reading that the device would refuse is refused here, for the same reason; a window that the device
would flag (``gap``, ``out_of_range``) is left out. Everything is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from atoll_contract.errors import MalformedMessageError, PeerError, Reason
from atoll_contract.manifest import Imputation
from atoll_contract.messages import Value
from atoll_signal.matrix import Samples
from atoll_signal.numbers import Numbers
from atoll_signal.order import StepBack, describe, steps_back
from atoll_signal.recorded import Recorded, recorded
from atoll_trainer.aims import Aims, aims_of
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
        step_ms: Time between the elements of its array values.
    """

    number: int
    device: str
    time_ms: float
    values: dict[str, Value]
    label: float | None = None
    step_ms: float | None = None


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
        rows: The task's values in their order, float32, shape (n, numbers), in their units; NaN for what is
            missing where the task's window can do without.
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
        windows: Feature matrices, float32, shape (n, rows, columns), before normalisation.
        targets: float64, shape (n,), in the unit of the prediction.
        times_ms: Event time of the newest reading (or step) of each window, shape (n,).
        last: Of a forecast: what its value was then, shape (n,).
        samples: What the features are computed from, n of them; none where that is the windows themselves.
    """

    windows: NDArray[np.float32]
    targets: NDArray[np.float64]
    times_ms: NDArray[np.float64]
    last: NDArray[np.float64] | None = None
    samples: Sequence[Samples] = ()

    def __len__(self) -> int:
        return len(self.targets)

    def part(self, start: int, end: int) -> Examples:
        """Return the examples from ``start`` to before ``end``: views."""
        last = None if self.last is None else self.last[start:end]
        return Examples(
            self.windows[start:end],
            self.targets[start:end],
            self.times_ms[start:end],
            last,
            self.samples[start:end],
        )


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
    """Return ``observed`` as rows of numbers; what the device would refuse is counted.

    They serve any task of the same values and rules for missing ones, whatever its features and its window.

    Raises:
        UnsuitableDataError: No reading is left.
    """
    numbers_of = Numbers(task.model_copy(update={"feature": []}).manifest())
    rows, times, numbers, devices, labels = [], [], [], [], []
    for one in observed:
        try:
            rows.append(numbers_of.of(one.values, one.step_ms))
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
        np.array(rows, np.float32),
        np.array(times, np.float64),
        np.array(numbers, np.int64),
        devices,
        np.array(labels, np.float64),
        refusals,
    )


def fills(readings: Readings, task: TaskFile) -> dict[str, float]:
    """Return the mean of each value over the readings that the training part is made of."""
    if task.window.impute is not Imputation.MEAN:
        return {}
    by_time = np.argsort(readings.times_ms, kind="stable")
    rows = readings.rows[by_time[: max(1, int(len(readings) * task.split.train))]].astype(np.float64)
    found = {}
    for column, name in enumerate(task.task.values):  # numbers all of them: arrays are not imputed
        known = rows[:, column][~np.isnan(rows[:, column])]
        if not len(known):
            raise UnsuitableDataError(f"{readings.source}: value {name!r} is missing throughout the training")
        found[name] = float(known.mean())
    return found


def cut(readings: Readings, task: TaskFile) -> tuple[Examples, Counter[LeftOut]]:
    """Return every window of ``readings`` with its target, and how many windows were left out.

    Raises:
        UnsuitableDataError: There is none.
    """
    manifest = task.manifest(fills=fills(readings, task))
    is_forecast = task.task.kind is TaskKind.FORECAST
    columns = task.columns_of(manifest)
    left_out: Counter[LeftOut] = Counter()
    kept: list[tuple[float, str, int, int]] = []
    found: list[tuple[Recorded, Aims]] = []
    for number, (device, places) in enumerate(readings.by_device().items()):
        one = recorded(manifest, readings.rows[places][:, columns], readings.times_ms[places])
        aims = aims_of(task, one, readings, places)
        found.append((one, aims))
        has_gap = one.has_gap | aims.has_gap
        has_none = ~has_gap & np.isnan(aims.targets)
        is_outside = ~has_gap & ~has_none & (one.is_out_of_range | ~_are_valid_targets(aims.targets, task))
        left_out[LeftOut.GAP] += int(has_gap.sum())
        left_out[LeftOut.NO_READING_AHEAD if is_forecast else LeftOut.NO_LABEL] += int(has_none.sum())
        left_out[LeftOut.OUT_OF_RANGE] += int(is_outside.sum())
        good = np.flatnonzero(~(has_gap | has_none | is_outside)).tolist()
        kept += [(float(one.end_ms[place]), device, number, place) for place in good]
    left_out = +left_out
    if not kept:
        raise UnsuitableDataError(_nothing(readings, task, left_out))
    # Readings may come device by device: the parts are cut by time all the same. Where a moment is
    # the same the device decides, so that the order of the rows does not.
    kept.sort(key=lambda example: example[:2])
    chosen = [(number, place) for _, _, number, place in kept]
    examples = Examples(
        np.stack([found[number][0].features[place] for number, place in chosen]),
        np.array([found[number][1].targets[place] for number, place in chosen]),
        np.array([end_ms for end_ms, *_ in kept]),
        np.array([found[number][1].last[place] for number, place in chosen]) if is_forecast else None,
        [] if manifest.is_plain else [found[number][0].samples[place] for number, place in chosen],
    )
    return examples, left_out


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
    if task.task.kind is TaskKind.FORECAST and examples.last is not None:
        return examples.last
    return np.full(len(examples), train.targets.mean())


def _are_valid_targets(targets: NDArray[np.float64], task: TaskFile) -> NDArray[np.bool_]:
    low, high = -np.inf, np.inf
    if task.task.kind is TaskKind.FORECAST:
        value = task.task.values[task.task.target]
        low = low if value.low is None else value.low
        high = high if value.high is None else value.high
    valid: NDArray[np.bool_] = (targets >= low) & (targets <= high)
    return valid


def _nothing(readings: Readings, task: TaskFile, left_out: Counter[LeftOut]) -> str:
    length, horizon = task.manifest().depth, task.task.horizon
    if left_out[LeftOut.NO_LABEL] and left_out.total() == left_out[LeftOut.NO_LABEL]:
        return (
            f"{readings.source}: {len(readings):,} readings and not one label for model "
            f"{task.task.model!r} at their times"
        )
    most = max(len(places) for places in readings.by_device().values())
    needs = length + (horizon if task.task.kind is TaskKind.FORECAST else 0)
    if most < needs and task.window.duration_ms is None and task.window.resample is None:
        found = f"{readings.source}: at most {most:,} readings of a device"
        return f"{found}; a window with its target needs {needs:,}"
    reasons = ", ".join(f"{reason.value} {count:,}" for reason, count in left_out.items())
    return f"{readings.source}: no window can be learnt from: {reasons}"
