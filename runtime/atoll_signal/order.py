"""Where event times step back, found and named; nothing is dropped because of it.

A clock that is set back (the end of summer time, a dead battery) makes times repeat. Windows are
counted in order of arrival, so such readings are used all the same; but whoever replays or learns
from them is told where it happened, in these words.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

_MINUTE_S: Final = 60


@dataclass(frozen=True, slots=True)
class StepBack:
    """A reading whose time lies before the time of the reading that arrived just before it.

    Attributes:
        row: Number of that reading: a line of a file, or a count of messages.
        from_ms: Time of the reading before it.
        to_ms: Its own time.
        readings: How many readings from here on lie within the span already seen.
    """

    row: int
    from_ms: float
    to_ms: float
    readings: int


def steps_back(times_ms: Iterable[float], first_row: int = 1) -> list[StepBack]:
    """Return every step back in ``times_ms``, which are one device's, in order of arrival.

    Args:
        times_ms: Milliseconds since the epoch.
        first_row: Number of the first time; 2 for a CSV file with a header, so that the rows are
            lines of the file.

    >>> steps_back([1.0, 2.0, 1.0, 2.0, 3.0], first_row=2)
    [StepBack(row=4, from_ms=2.0, to_ms=1.0, readings=2)]
    """
    steps: list[StepBack] = []
    open_steps: list[tuple[int, float, float]] = []
    previous = highest = -math.inf
    row = first_row - 1

    def close(end: int) -> None:
        steps.extend(StepBack(at, start, to, end - at) for at, start, to in open_steps)
        open_steps.clear()

    for row, time_ms in enumerate(times_ms, start=first_row):
        if time_ms > highest:
            close(row)
            highest = time_ms
        elif time_ms < previous:
            open_steps.append((row, previous, time_ms))
        previous = time_ms
    close(row + 1)
    return steps


def describe(step: StepBack) -> str:
    """Return ``step`` as a sentence for people, times in UTC.

    >>> print(describe(StepBack(row=7, from_ms=3_600_000.0, to_ms=300_000.0, readings=12)))
    row 7: time steps back from 1970-01-01 01:00 to 00:05 (55 min): 12 readings repeat times already seen
    """
    start, end = _moment(step.from_ms), _moment(step.to_ms)
    fraction = "milliseconds" if start.microsecond or end.microsecond else "seconds"
    precision = fraction if fraction != "seconds" or start.second or end.second else "minutes"
    shown_start, shown_end = (
        moment.replace(tzinfo=None).isoformat(sep=" ", timespec=precision) for moment in (start, end)
    )
    if start.date() == end.date():
        shown_end = shown_end.split(" ")[1]
    repeat = "reading repeats" if step.readings == 1 else "readings repeat"
    return (
        f"row {step.row:,}: time steps back from {shown_start} to {shown_end} "
        f"({_duration(step.from_ms - step.to_ms)}): {step.readings:,} {repeat} times already seen"
    )


def _moment(time_ms: float) -> datetime:
    return datetime.fromtimestamp(time_ms / 1e3, UTC)


def _duration(span_ms: float) -> str:
    """Return ``span_ms`` in its two largest units: 55 min, 1 h 5 min, 2 d, 0.25 s."""
    seconds = span_ms / 1e3
    if seconds < _MINUTE_S:
        return f"{seconds:g} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:  # noqa: PLR2004 - an hour
        return _join(minutes, "min", rest, "s")
    hours, rest = divmod(round(seconds / _MINUTE_S), 60)
    if hours < 24:  # noqa: PLR2004 - a day
        return _join(hours, "h", rest, "min")
    days, rest = divmod(round(seconds / 3600), 24)
    return _join(days, "d", rest, "h")


def _join(whole: int, unit: str, rest: int, smaller: str) -> str:
    return f"{whole} {unit} {rest} {smaller}" if rest else f"{whole} {unit}"
