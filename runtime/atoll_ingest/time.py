"""Event times as devices write them, to milliseconds since the epoch."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from enum import StrEnum
from typing import Final

from atoll_contract.errors import MalformedMessageError, Reason
from atoll_contract.messages import MAX_TIME_MS, MIN_TIME_MS, Reading, Value


class TimeUnit(StrEnum):
    """How a stream writes its event time."""

    SECONDS = "s"
    MILLISECONDS = "ms"
    MICROSECONDS = "us"
    NANOSECONDS = "ns"
    ISO8601 = "iso8601"
    AUTO = "auto"
    """A number by its size, text as ISO 8601 or as a number."""


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)
_DAY_MS: Final = 86_400_000.0
_MOST_SHOWN: Final = 10**18
_PER_MS: Final = {
    TimeUnit.SECONDS: 1e-3,
    TimeUnit.MILLISECONDS: 1.0,
    TimeUnit.MICROSECONDS: 1e3,
    TimeUnit.NANOSECONDS: 1e6,
}
_BY_SIZE: Final = (
    (1e11, TimeUnit.SECONDS),
    (1e14, TimeUnit.MILLISECONDS),
    (1e17, TimeUnit.MICROSECONDS),
    (math.inf, TimeUnit.NANOSECONDS),
)
"""Below each limit; 1e11 is the year 5138 in seconds and 1973 in milliseconds."""
_NUMBER: Final = re.compile(r"\s*[+-]?\d{1,25}(\.\d{1,20})?\s*", re.ASCII)
EARLIEST_MS: Final = 946_771_200_000.0
"""2000-01-02: a clock that says less was never set, since those without a battery begin in 1970 or 2000."""


class UndatedReading(Reading, frozen=True, omit_defaults=True):
    """A reading whose device wrote a time that its clock cannot know: the time of arrival counts."""


def is_undated(reading: Reading) -> bool:
    """Whether the clock of the reading's device was never set."""
    return isinstance(reading, UndatedReading)


@dataclass(frozen=True, slots=True)
class TimeForm:
    """How the event time of a stream is written.

    Attributes:
        unit: Unit or form.
        zone: Of a time that names none.
        formats: Of ``strptime``, tried in turn where text is no ISO 8601.
        earliest_ms: A clock that says less has not been set.
    """

    unit: TimeUnit = TimeUnit.MILLISECONDS
    zone: tzinfo = UTC
    formats: tuple[str, ...] = ()
    earliest_ms: float = EARLIEST_MS

    def reading(self, values: Mapping[str, Value], written: object) -> Reading:
        """Return the reading of ``values`` at the time that is ``written``; None: that of its arrival.

        Raises:
            MalformedMessageError: What is written is no time.
        """
        if written is None:
            return Reading(values=values)  # type: ignore[arg-type]  # a dict, and not changed any more
        # A local clock that was never set shows the evening before the epoch, in some zones.
        time_ms = _to_time_ms(written, self.unit, self.zone, self.formats, MIN_TIME_MS - _DAY_MS)
        if time_ms < self.earliest_ms:
            return UndatedReading(values=values)  # type: ignore[arg-type]
        return Reading(values=values, time_ms=time_ms)  # type: ignore[arg-type]


def to_time_ms(written: object, unit: TimeUnit) -> float:
    """Return milliseconds since the epoch; a time without a zone is UTC.

    >>> to_time_ms("2013-12-02T21:15:00", TimeUnit.ISO8601)
    1386018900000.0

    Raises:
        MalformedMessageError: ``written`` is no time in that form, or outside the years 1970-9999.
    """
    return _to_time_ms(written, unit, UTC, (), MIN_TIME_MS)


def _to_time_ms(
    written: object, unit: TimeUnit, zone: tzinfo, formats: tuple[str, ...], least_ms: float
) -> float:
    match written:
        case bool():
            raise MalformedMessageError(f"time {_shown(written)} is not a number", Reason.BAD_TIME)
        case int() | float():
            time_ms = _from_number(written, unit)
        case str() if unit is not TimeUnit.ISO8601 and _NUMBER.fullmatch(written):
            time_ms = _from_number(float(written) if "." in written else int(written), unit)
        case str() if unit in {TimeUnit.ISO8601, TimeUnit.AUTO} or formats:
            time_ms = _from_text(written, zone, formats)
        case datetime():
            time_ms = _since_epoch(written, zone)
        case _:
            wanted = "text in ISO 8601" if unit is TimeUnit.ISO8601 else "a number"
            raise MalformedMessageError(f"time {_shown(written)} is not {wanted}", Reason.BAD_TIME)
    if not math.isfinite(time_ms) or not least_ms <= time_ms <= MAX_TIME_MS:
        raise MalformedMessageError(f"time {_shown(written)} is outside 1970-9999", Reason.BAD_TIME)
    return time_ms


def _from_number(written: float, unit: TimeUnit) -> float:
    if unit is TimeUnit.ISO8601:
        raise MalformedMessageError(f"time {_shown(written)} is not text in ISO 8601", Reason.BAD_TIME)
    if unit is TimeUnit.AUTO:
        unit = next((found for limit, found in _BY_SIZE if abs(written) < limit), TimeUnit.NANOSECONDS)
    try:
        return written / _PER_MS[unit] if unit is not TimeUnit.SECONDS else written * 1e3
    except OverflowError as error:  # an integer of hundreds of digits
        raise MalformedMessageError("time is too large a number", Reason.BAD_TIME) from error


def _from_text(written: str, zone: tzinfo, formats: tuple[str, ...]) -> float:
    text = written.strip()
    try:
        return _since_epoch(datetime.fromisoformat(text), zone)
    except ValueError as error:
        for form in formats:
            try:
                return _since_epoch(datetime.strptime(text, form), zone)  # noqa: DTZ007 - the zone follows
            except ValueError:
                continue
        what = f"ISO 8601 nor {' or '.join(formats)}" if formats else "ISO 8601"
        message = f"time {_shown(written)} is {'neither' if formats else 'not'} {what}"
        raise MalformedMessageError(message, Reason.BAD_TIME) from error


def _since_epoch(moment: datetime, zone: tzinfo) -> float:
    try:
        return ((moment if moment.tzinfo else moment.replace(tzinfo=zone)) - _EPOCH) / _MS
    except OverflowError as error:  # the zone leads out of the years 1-9999
        raise MalformedMessageError("time is outside 1970-9999", Reason.BAD_TIME) from error


def _shown(written: object) -> str:
    # Not str() of everything: it raises for integers of thousands of digits, and for what holds one.
    match written:
        case str():
            return repr(written[:40])
        case float():
            return f"{written:g}"
        case int() if abs(written) < _MOST_SHOWN:
            return str(written)
        case _:
            return f"of type {type(written).__name__}"
