"""Event times as devices write them, to milliseconds since the epoch."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from enum import StrEnum

from atoll_contract.errors import MalformedMessageError, Reason
from atoll_contract.messages import MAX_TIME_MS, MIN_TIME_MS


class TimeUnit(StrEnum):
    """How a stream writes its event time."""

    SECONDS = "s"
    MILLISECONDS = "ms"
    MICROSECONDS = "us"
    NANOSECONDS = "ns"
    ISO8601 = "iso8601"


_PER_MS = {
    TimeUnit.SECONDS: 1e-3,
    TimeUnit.MILLISECONDS: 1.0,
    TimeUnit.MICROSECONDS: 1e3,
    TimeUnit.NANOSECONDS: 1e6,
}


def to_time_ms(written: object, unit: TimeUnit) -> float:
    """Return milliseconds since the epoch; a time without a zone is UTC.

    >>> to_time_ms("2013-12-02T21:15:00", TimeUnit.ISO8601)
    1386018900000.0

    Raises:
        MalformedMessageError: ``written`` is no time in that form, or outside the years 1970-9999.
    """
    if unit is TimeUnit.ISO8601:
        time_ms = _from_iso8601(written)
    elif isinstance(written, bool) or not isinstance(written, int | float):
        raise MalformedMessageError(f"time {str(written)[:40]!r} is not a number", Reason.BAD_TIME)
    else:
        time_ms = _from_number(written, unit)
    if not math.isfinite(time_ms) or not MIN_TIME_MS <= time_ms <= MAX_TIME_MS:
        raise MalformedMessageError(f"time {str(written)[:40]} is outside 1970-9999", Reason.BAD_TIME)
    return time_ms


def _from_number(written: float, unit: TimeUnit) -> float:
    try:
        return written / _PER_MS[unit] if unit is not TimeUnit.SECONDS else written * 1e3
    except OverflowError as error:  # an integer of hundreds of digits
        raise MalformedMessageError("time is too large a number", Reason.BAD_TIME) from error


def _from_iso8601(written: object) -> float:
    try:
        moment = datetime.fromisoformat(str(written))
    except ValueError as error:
        message = f"time {str(written)[:40]!r} is not ISO 8601"
        raise MalformedMessageError(message, Reason.BAD_TIME) from error
    try:
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1e3
    except (OverflowError, ValueError) as error:
        raise MalformedMessageError(f"time {written} is out of range", Reason.BAD_TIME) from error
