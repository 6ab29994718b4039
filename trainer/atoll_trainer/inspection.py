"""What readings look like before anything is learnt from them: spans, gaps, rates, what is suspicious.

Nothing here decides: it tells what a person should look at, and why.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from atoll_trainer.dataset import Readings
from atoll_trainer.leaks import Leak, leaks

Doubles = NDArray[np.float64]

_LONG: Final = 5.0
"""Two readings further apart than so many typical steps make a gap."""
_STUCK: Final = 30
"""So many equal numbers in a row are suspicious where a value otherwise moves."""
_STUCK_SHARE: Final = 0.02
_MOVES: Final = 0.5
"""Share of changes from reading to reading from which on a value is one that moves."""
_FAR: Final = 8.0
"""Quartile ranges from the middle at which a number is an outlier."""
_MARKER_SHARE: Final = 0.005
_APART: Final = 0.5
"""Of the range of all others, so far a marker stands from them."""
_MISSING: Final = 0.05
_FEW: Final = 100
_DISTINCT: Final = 20
"""Of fewer different numbers none is told to stand for missing: they may be classes."""


@dataclass(frozen=True, slots=True)
class DeviceSpan:
    """When one device was heard.

    Attributes:
        device: Its id.
        readings: How many.
        first_ms: Least event time.
        last_ms: Greatest event time.
        step_ms: Typical time between two readings; 0 with fewer than two.
        gaps: How often readings are further apart than five such steps.
        longest_gap_ms: The longest of them.
        steps_back: How often the time steps back.
        repeated: How often a reading has the time of the one before it.
    """

    device: str
    readings: int
    first_ms: float
    last_ms: float
    step_ms: float
    gaps: int
    longest_gap_ms: float
    steps_back: int
    repeated: int


@dataclass(frozen=True, slots=True)
class ValueFacts:
    """One value over all devices.

    Attributes:
        name: Of the value.
        missing: Share of the readings without it.
        distinct: How many different numbers.
        low: The least.
        median: Half are below.
        high: The greatest.
        mean: Of all.
        std: Standard deviation.
        outliers: Numbers more than eight quartile ranges from the middle half.
        longest_stuck: Most equal numbers in a row from one device.
        marker: A number that stands apart from all others again and again, None where there is none.
        marker_count: How often.
    """

    name: str
    missing: float
    distinct: int
    low: float
    median: float
    high: float
    mean: float
    std: float
    outliers: int
    longest_stuck: int
    marker: float | None
    marker_count: int


@dataclass(frozen=True, slots=True)
class Inspection:
    """All of it.

    Attributes:
        devices: In the order of their names.
        values: In the order of the task.
        labels: Readings with a label.
        leaks: Values that give the target away.
        warnings: What a person should look at, most important first.
    """

    devices: list[DeviceSpan]
    values: list[ValueFacts]
    labels: int
    leaks: list[Leak]
    warnings: list[str]


def inspect(readings: Readings, names: list[str], target: int | None = None, horizon: int = 0) -> Inspection:
    """Return what ``readings`` look like.

    Args:
        readings: With NaN for what is missing.
        names: Of their numbers.
        target: The number that is to be forecast; None: what the labels say, if there are any.
        horizon: How many readings ahead.
    """
    places = readings.by_device()
    rows = readings.rows.astype(np.float64)
    spans = [_span(device, readings.times_ms[found]) for device, found in sorted(places.items())]
    values = [_value(name, rows[:, at], list(places.values())) for at, name in enumerate(names)]
    # A marker in several values at once would make each of them explain the others.
    told = np.column_stack([_without(rows[:, at], value.marker) for at, value in enumerate(values)])
    truth = readings.labels
    if (known := truth[~np.isnan(truth)]).size:
        truth = _without(truth, _marker(known)[0])
    found = leaks(told, names, truth, list(places.values()), target, horizon)
    warnings = [
        *(leak.told for leak in found),
        *(text for value in values for text in _about_value(value)),
        *_about_devices(spans, len(readings)),
        *_about_labels(readings.labels, has_target=target is not None),
    ]
    return Inspection(spans, values, int((~np.isnan(readings.labels)).sum()), found, warnings)


def _span(device: str, times_ms: Doubles) -> DeviceSpan:
    steps = np.diff(times_ms)
    ahead = steps[steps > 0]
    typical = float(np.median(ahead)) if len(ahead) else 0.0
    gaps = ahead[ahead > _LONG * typical]
    return DeviceSpan(
        device,
        len(times_ms),
        float(times_ms.min()),
        float(times_ms.max()),
        typical,
        len(gaps),
        float(gaps.max()) if len(gaps) else 0.0,
        int((steps < 0).sum()),
        int((steps == 0).sum()),
    )


def _value(name: str, numbers: Doubles, places: list[NDArray[np.int64]]) -> ValueFacts:
    known = numbers[~np.isnan(numbers)]
    if not len(known):
        nothing = float("nan")
        return ValueFacts(name, 1.0, 0, nothing, nothing, nothing, nothing, nothing, 0, 0, None, 0)
    marker, count = _marker(known)
    real = known if marker is None else known[known != marker]
    low, median, high = np.quantile(real, [0.25, 0.5, 0.75])
    reach = _FAR * max(high - low, 1e-12)
    is_far = (real < low - reach) | (real > high + reach) if high > low else np.zeros(len(real), np.bool_)
    stuck = max(_longest_run(_without(numbers[found], marker)) for found in places)
    return ValueFacts(
        name,
        1 - len(known) / len(numbers),
        len(np.unique(known)),
        float(known.min()),
        float(median),
        float(known.max()),
        float(real.mean()),
        float(real.std()),
        int(is_far.sum()),
        stuck,
        marker,
        count,
    )


def _without(numbers: Doubles, marker: float | None) -> Doubles:
    return numbers if marker is None else np.where(numbers == marker, np.nan, numbers)


def _marker(known: Doubles) -> tuple[float | None, int]:
    """Return the least or greatest number if it stands alone, far off and often; and how often."""
    for sign in (1.0, -1.0):
        numbers = np.sort(sign * known)
        count = int(np.searchsorted(numbers, numbers[0], side="right"))
        rest = numbers[count:]
        if len(np.unique(rest)) < _DISTINCT or count < max(3, _MARKER_SHARE * len(numbers)):
            continue
        low, high = np.quantile(rest, [0.01, 0.99])
        is_only_negative = sign > 0 and numbers[0] < 0 <= rest[0]
        if is_only_negative or rest[0] - numbers[0] > _APART * (high - low):
            return float(sign * numbers[0]), count
    return None, 0


def _longest_run(numbers: Doubles) -> int:
    """Return the most equal numbers in a row, of a value that moves; 0 of one that rarely does."""
    known = numbers[~np.isnan(numbers)]
    if len(known) < 2:  # noqa: PLR2004 - neighbours
        return 0
    changes = np.flatnonzero(np.diff(known) != 0)
    if len(changes) < _MOVES * (len(known) - 1):
        return 0
    return int(np.diff(np.concatenate([[-1], changes, [len(known) - 1]])).max())


def _about_value(value: ValueFacts) -> list[str]:
    name, told = value.name, []
    if value.distinct == 0:
        return [f"{name}: missing throughout: take it out of the task"]
    if value.distinct == 1:
        told.append(f"{name}: always {value.low:g}: a sensor that is stuck or not connected tells nothing")
    if value.missing > _MISSING:
        told.append(
            f"{name}: missing in {value.missing:.0%} of the readings: those are refused unless the task says "
            "impute, and a reading without it is answered on the device in the same way"
        )
    if value.marker is not None:
        told.append(
            f"{name}: {value.marker:.10g} stands {value.marker_count:,} times, apart from everything else: "
            "where it means missing, put it under missing in [[stream]] or in the task's [csv] as it is sent "
            f"(import --missing {value.marker:.10g}), or set low and high in the task"
        )
    elif value.outliers:
        told.append(f"{name}: {value.outliers:,} numbers lie far outside of all others: set low and high")
    if value.longest_stuck >= _STUCK:
        told.append(
            f"{name}: {value.longest_stuck:,} equal numbers in a row, though it moves otherwise: stuck?"
        )
    return told


def _about_devices(spans: list[DeviceSpan], readings: int) -> list[str]:
    told = []
    few = [span for span in spans if span.readings < _FEW]
    if few:
        names = ", ".join(f"{span.device} ({span.readings:,})" for span in few[:5])
        more = f" and {len(few) - 5:,} more" if len(few) > 5 else ""  # noqa: PLR2004 - the first five
        told.append(f"fewer than {_FEW} readings: {names}{more}: too few for a model of their own")
    back, repeated = sum(span.steps_back for span in spans), sum(span.repeated for span in spans)
    if back:
        told.append(f"times step back {back:,} times: summer time, or a clock that was set?")
    if repeated:
        told.append(f"{repeated:,} of {readings:,} readings have the time of the one before: sent twice?")
    return told


def _about_labels(labels: Doubles, *, has_target: bool) -> list[str]:
    known = labels[~np.isnan(labels)]
    if has_target or not len(known):
        return []
    kinds, counts = np.unique(known, return_counts=True)
    if len(kinds) == 1:
        return [f"every label is {kinds[0]:g}: nothing can be learnt from a single class"]
    if len(kinds) <= 20 and counts.min() < 20:  # noqa: PLR2004 - classes, and few of one
        at = int(counts.argmin())
        return [f"label {kinds[at]:g} stands {counts[at]:,} times only: its figures will be uncertain"]
    return []
