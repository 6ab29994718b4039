"""Event times as devices write them, to milliseconds since the epoch."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from atoll_contract.errors import MalformedMessageError, Reason
from atoll_contract.messages import MAX_TIME_MS, MIN_TIME_MS


class TimeUnit(StrEnum):
    """How a stream writes its event time."""

    SECONDS = "s"
    MILLISECONDS = "ms"
    MICROSECONDS = "us"
    NANOSECONDS = "ns"
    ISO8601 = "iso8601"


_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MS: Final = timedelta(milliseconds=1)
_MOST_SHOWN: Final = 10**18
_PER_MS: Final = {
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
        raise MalformedMessageError(f"time {_shown(written)} is not a number", Reason.BAD_TIME)
    else:
        time_ms = _from_number(written, unit)
    if not math.isfinite(time_ms) or not MIN_TIME_MS <= time_ms <= MAX_TIME_MS:
        raise MalformedMessageError(f"time {_shown(written)} is outside 1970-9999", Reason.BAD_TIME)
    return time_ms


def _from_number(written: float, unit: TimeUnit) -> float:
    try:
        return written / _PER_MS[unit] if unit is not TimeUnit.SECONDS else written * 1e3
    except OverflowError as error:  # an integer of hundreds of digits
        raise MalformedMessageError("time is too large a number", Reason.BAD_TIME) from error


def _from_iso8601(written: object) -> float:
    if not isinstance(written, str):
        raise MalformedMessageError(f"time {_shown(written)} is not text in ISO 8601", Reason.BAD_TIME)
    try:
        moment = datetime.fromisoformat(written)
    except ValueError as error:
        raise MalformedMessageError(f"time {_shown(written)} is not ISO 8601", Reason.BAD_TIME) from error
    return ((moment if moment.tzinfo else moment.replace(tzinfo=UTC)) - _EPOCH) / _MS


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
