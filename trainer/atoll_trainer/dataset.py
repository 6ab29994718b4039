"""From readings to windows and targets, cut by the code that the device runs.

A reading that the device would refuse is refused here, for the same reason; a window that the device
would flag (``gap``, ``out_of_range``) is left out. Everything is counted.
"""

from __future__ import annotations

import hashlib
import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from atoll_contract.errors import MalformedMessageError, PeerError, Reason
from atoll_contract.feature import MAX_WINDOW_LENGTH
from atoll_contract.manifest import Imputation
from atoll_contract.messages import Value
from atoll_signal.matrix import Samples
from atoll_signal.numbers import Numbers
from atoll_signal.order import StepBack, describe, steps_back
from atoll_signal.recorded import recorded
from atoll_trainer.aims import aims_of, are_valid
from atoll_trainer.splits import parts
from atoll_trainer.task import InputTable, TaskFile, TaskKind

_LENGTHS: Final = (1, 8, 32, 64)
_DAY_MS: Final = 86_400_000.0
_MOST_LOST: Final = 0.2
"""Share of the windows that a longer one may cost, by gaps and starts."""
_MOST_NUMBERS: Final = 60_000_000
"""In all windows together: 240 MB. Of more an even choice is taken."""
_MOST_WINDOWS: Final = 1_000_000
_MOST_CUT: Final = 500_000_000
"""Numbers in the windows of one device, before the choice: 2 GB."""
MOST_READINGS: Final = 8_000_000
"""Of a file, or of the messages of a recording that are read: some hundred bytes each."""


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
        tests: Which were read from a file kept for the test, shape (n,); None: none. No window holds readings
            of both.
        cut_ms: There was too much: what had arrived before was left out.
    """

    source: str
    sha256: str
    rows: NDArray[np.float32]
    times_ms: NDArray[np.float64]
    numbers: NDArray[np.int64]
    devices: list[str]
    labels: NDArray[np.float64]
    refusals: Refusals
    tests: NDArray[np.bool_] | None = None
    cut_ms: float | None = None

    def __len__(self) -> int:
        return len(self.times_ms)

    def by_device(self) -> dict[str, NDArray[np.int64]]:
        """Return the places of each device's readings, in order of arrival."""
        places: dict[str, list[int]] = {}
        for place, device in enumerate(self.devices):
            places.setdefault(device, []).append(place)
        return {device: np.array(found) for device, found in places.items()}

    def spans(self) -> list[tuple[str, NDArray[np.int64]]]:
        """Return each device with the places of its readings; one that is in both files stands twice."""
        found = list(self.by_device().items())
        if self.tests is None:
            return found
        parted = [
            (device, places[self.tests[places] == is_test])
            for is_test in (False, True)
            for device, places in found
        ]
        return [(device, places) for device, places in parted if len(places)]

    def joined(self, test: Readings) -> Readings:
        """Return these readings and, kept for the test, those of another file."""
        tests = np.concatenate([np.zeros(len(self), np.bool_), np.ones(len(test), np.bool_)])
        return Readings(
            f"{self.source} and {test.source}",
            hashlib.sha256(f"{self.sha256} {test.sha256}".encode()).hexdigest(),
            np.concatenate([self.rows, test.rows]),
            np.concatenate([self.times_ms, test.times_ms]),
            np.concatenate([self.numbers, test.numbers]),
            self.devices + test.devices,
            np.concatenate([self.labels, test.labels]),
            Refusals(
                self.refusals.counts + test.refusals.counts, {**test.refusals.first, **self.refusals.first}
            ),
            tests,
        )

    def steps_back(self) -> list[str]:
        """Return a sentence for every place where a device's times step back."""
        by_device = self.spans()
        steps: list[tuple[str, StepBack]] = []
        for device, places in by_device:
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
    TOO_MANY = "too_many"


@dataclass(frozen=True, slots=True)
class Examples:
    """Windows with what they should give, in order of time.

    Attributes:
        windows: Feature matrices, float32, shape (n, rows, columns), before normalisation.
        targets: float64, shape (n,), in the unit of the prediction; of a path (n, steps); of a classification
            the place of the class; of an anomaly 1 or 0, NaN where nobody knows.
        times_ms: Event time of the newest reading (or step) of each window, shape (n,).
        last: Of a forecast: what its value was then, shape (n,).
        samples: What the features are computed from, n of them; none where that is the windows themselves.
        devices: Number of the device of each, in the order of their names, shape (n,).
        tests: Which are of the file kept for the test, shape (n,).
        until_ms: Event time of the last reading that its target is made of, shape (n,).
    """

    windows: NDArray[np.float32]
    targets: NDArray[np.float64]
    times_ms: NDArray[np.float64]
    last: NDArray[np.float64] | None = None
    samples: Sequence[Samples] = ()
    devices: NDArray[np.int64] | None = None
    tests: NDArray[np.bool_] | None = None
    until_ms: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.targets)

    def take(self, places: NDArray[np.int64]) -> Examples:
        """Return the examples at ``places``."""
        return Examples(
            self.windows[places],
            self.targets[places],
            self.times_ms[places],
            None if self.last is None else self.last[places],
            [self.samples[place] for place in places.tolist()] if self.samples else (),
            None if self.devices is None else self.devices[places],
            None if self.tests is None else self.tests[places],
            None if self.until_ms is None else self.until_ms[places],
        )

    def shortened(self, task: TaskFile) -> Examples:
        """Return the same with the end of each window only, as ``task`` sees it."""
        manifest = task.manifest()
        rows, depth = manifest.rows, manifest.depth
        samples = [
            Samples(one.rows[-depth:], None if one.times_ms is None else one.times_ms[-depth:])
            for one in self.samples
        ]
        return replace(self, windows=self.windows[:, -rows:], samples=samples)


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

    A value that no feature is made of may be missing, as on the device: NaN stands for it. They serve any
    task of the same values and rules for missing ones that uses no more of them, whatever its window.

    Raises:
        UnsuitableDataError: No reading is left.
    """
    plain = task.model_copy(update={"feature": []})
    used = {name: value for name, value in task.task.values.items() if name in task.used}
    numbers_of = Numbers(_of_values(plain, used).manifest())
    columns = plain.columns_of(_of_values(plain, used).manifest())
    width = sum(spec.size for spec in task.specs)
    is_forecast = task.task.kind is TaskKind.FORECAST
    rows, times, numbers, labels = array("f"), array("d"), array("q"), array("d")
    devices: list[str] = []
    for one in observed:
        try:
            row = np.full(width, np.nan, np.float32)
            row[columns] = numbers_of.of(one.values, one.step_ms)
            if is_forecast and isinstance(target := one.values.get(task.task.target), int | float):
                row[task.target_column] = target
        except MalformedMessageError as error:
            refusals.add(one.number, error)
            continue
        rows.frombytes(row.tobytes())
        times.append(one.time_ms)
        numbers.append(one.number)
        devices.append(one.device)
        labels.append(np.nan if one.label is None else one.label)
        if len(devices) > MOST_READINGS:
            raise UnsuitableDataError(
                f"{source}: more than {MOST_READINGS:,} readings do not fit into memory: take fewer"
            )
    if not devices:
        refused = refusals.counts.total()
        why = f": {refused:,} refused, {next(iter(refusals.first.values()))}" if refused else ""
        raise UnsuitableDataError(f"{source}: no reading can be used{why}")
    return Readings(
        source,
        sha256,
        np.array(rows, np.float32).reshape(len(devices), width),
        np.array(times),
        np.array(numbers, np.int64),
        devices,
        np.array(labels),
        refusals,
    )


def _of_values(task: TaskFile, values: dict[str, InputTable]) -> TaskFile:
    return task.model_copy(update={"task": task.task.model_copy(update={"values": values})})


def fills(readings: Readings, task: TaskFile) -> dict[str, float]:
    """Return the mean of each value over the readings that the training part is made of."""
    if task.window.impute is not Imputation.MEAN:
        return {}
    by_time = np.argsort(readings.times_ms, kind="stable")
    names = {name: number for number, name in enumerate(sorted(set(readings.devices)))}
    devices = np.array([names[device] for device in readings.devices])
    train, _, _ = parts(
        task.split,
        readings.times_ms[by_time],
        devices=devices[by_time],
        is_test=None if readings.tests is None else readings.tests[by_time],
    )
    rows = readings.rows[by_time[train]].astype(np.float64)
    found = {}
    for column, name in enumerate(task.task.values):  # numbers all of them: arrays are not imputed
        if name not in task.used:
            continue
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
    size = manifest.rows * manifest.columns
    most = min(_MOST_WINDOWS, max(1, _MOST_NUMBERS // size))
    left_out: Counter[LeftOut] = Counter()
    found: list[Examples] = []
    for device, places in _rooms(readings, size, left_out):
        one = recorded(manifest, readings.rows[places][:, columns], readings.times_ms[places])
        aims = aims_of(task, one, readings, places)
        has_gap = one.has_gap | aims.has_gap
        targets = aims.targets if aims.targets.ndim > 1 else aims.targets[:, None]
        has_none = ~has_gap & np.isnan(targets).any(axis=1)
        is_valid = are_valid(targets, task)
        if task.task.kind is TaskKind.ANOMALY:
            has_none, is_valid = np.zeros_like(has_none), np.ones_like(is_valid)
        is_outside = ~has_gap & ~has_none & (one.is_out_of_range | ~is_valid)
        left_out[LeftOut.GAP] += int(has_gap.sum())
        left_out[LeftOut.NO_READING_AHEAD if is_forecast else LeftOut.NO_LABEL] += int(has_none.sum())
        left_out[LeftOut.OUT_OF_RANGE] += int(is_outside.sum())
        good = np.flatnonzero(~(has_gap | has_none | is_outside))
        share = min(len(good), math.ceil(most * len(places) / len(readings)))
        chosen = good[np.linspace(0, len(good) - 1, share).astype(np.int64)]
        left_out[LeftOut.TOO_MANY] += len(good) - len(chosen)
        tests = None if readings.tests is None else np.repeat(readings.tests[places[:1]], len(chosen))
        found.append(
            Examples(
                one.features[chosen],
                aims.targets[chosen],
                one.end_ms[chosen],
                aims.last[chosen] if is_forecast else None,
                [] if manifest.is_plain else [one.samples[place] for place in chosen.tolist()],
                np.full(len(chosen), device),
                tests,
                aims.until_ms[chosen],
            )
        )
    if not any(len(one) for one in found):
        raise UnsuitableDataError(_nothing(readings, task, +left_out))
    # Readings may come device by device: the parts are cut by time all the same. Where a moment is
    # the same the device decides, so that the order of the rows does not.
    examples = _joined(found)
    devices = np.zeros(len(examples)) if examples.devices is None else examples.devices
    return examples.take(np.lexsort((devices, examples.times_ms))), +left_out


def cut_longest(readings: Readings, task: TaskFile) -> tuple[Examples, Counter[LeftOut], list[int]]:
    """Return the windows of the longest length that is worth it, what was left out, and the lengths to try.

    Raises:
        UnsuitableDataError: There is none.
    """
    if not task.is_auto:
        return *cut(readings, task), [task.length]
    lengths = sorted(set(_LENGTHS) | _day(task))
    shortest, _ = cut(readings, task.with_length(1))
    columns = shortest.windows.shape[2]
    for place in range(len(lengths) - 1, -1, -1):
        longest = lengths[place]
        if len(shortest) * longest * columns > _MOST_NUMBERS:
            continue
        try:
            examples, left_out = cut(readings, task.with_length(longest))
        except UnsuitableDataError:
            continue
        if len(examples) >= (1 - _MOST_LOST) * len(shortest):
            return examples, left_out, lengths[: place + 1]
    return *cut(readings, task.with_length(1)), [1]


def split(examples: Examples, task: TaskFile) -> Split:
    """Return ``examples`` parted as ``task`` asks for.

    Raises:
        UnsuitableDataError: A part would be empty, or every target learnt from is the same.
    """
    count = len(examples)
    is_class = task.task.kind is TaskKind.CLASSIFICATION
    places = parts(
        task.split,
        examples.times_ms,
        classes=examples.targets if is_class else None,
        devices=examples.devices,
        is_test=examples.tests,
        until_ms=examples.until_ms,
    )
    found = Split(*(examples.take(part) for part in places))
    empty = [
        name for name, part in found if not len(part) and (name != "validation" or task.split.validation)
    ]
    if empty:
        raise UnsuitableDataError(f"{count} windows are too few: nothing is left for {', '.join(empty)}")
    if task.task.kind is not TaskKind.ANOMALY and np.ptp(found.train.targets) == 0:
        value = float(found.train.targets.flat[0])
        shown = f"{task.task.labels[int(value)]!r}" if is_class else f"{value:g}"
        raise UnsuitableDataError(
            f"every target of the training part is {shown}: nothing to learn. Record until there are others, "
            'or, if they only come later, take them in with [split] order = "shuffled"'
        )
    return found


def _rooms(
    readings: Readings, size: int, left_out: Counter[LeftOut]
) -> Iterator[tuple[int, NDArray[np.int64]]]:
    """Yield the number of each device, by the order of names, and the newest of its readings that fit."""
    spans = readings.spans()
    names = sorted({device for device, _ in spans})
    room = max(1, _MOST_CUT // size)
    for device, places in spans:
        left_out[LeftOut.TOO_MANY] += max(0, len(places) - room)
        yield names.index(device), places[-room:]


def _joined(found: Sequence[Examples]) -> Examples:
    def all_of(get: Callable[[Examples], NDArray[Any] | None]) -> NDArray[Any] | None:
        arrays = [array for array in map(get, found) if array is not None]
        return np.concatenate(arrays) if arrays else None

    return Examples(
        np.concatenate([one.windows for one in found]),
        np.concatenate([one.targets for one in found]),
        np.concatenate([one.times_ms for one in found]),
        all_of(lambda one: one.last),
        [sample for one in found for sample in one.samples],
        all_of(lambda one: one.devices),
        all_of(lambda one: one.tests),
        all_of(lambda one: one.until_ms),
    )


def _day(task: TaskFile) -> set[int]:
    if task.task.step_ms is None:
        return set()
    day = max(1, round(_DAY_MS / task.task.step_ms))
    return {day} if day <= MAX_WINDOW_LENGTH else set()


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
