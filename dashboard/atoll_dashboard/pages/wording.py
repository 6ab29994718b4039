"""Figures and times as people read them. Pure."""

from __future__ import annotations

import time
from typing import Final

from atoll_dashboard.parts.grid import Tone

HEALTH_TONES: Final = {
    "ready": Tone.GOOD,
    "degraded": Tone.WARN,
    "faulted": Tone.BAD,
    "offline": Tone.OFF,
    "unknown": Tone.OFF,
}
NONE: Final = "\u2013"
"""What stands where there is nothing to say."""
BACK: Final = "\u2039"
ON: Final = "\u203a"
_STEPS: Final = ((86_400, "d"), (3600, "h"), (60, "min"))
_TICK_S: Final = 5


def ago(then_ms: float | None, now_ms: float) -> str:
    """Return how long ago something was.

    >>> ago(1000.0, 66_000.0)
    '1 min ago'
    """
    if then_ms is None:
        return "never"
    seconds = max(0.0, (now_ms - then_ms) / 1e3)
    for step, unit in _STEPS:
        if seconds >= step:
            return f"{seconds / step:.0f} {unit} ago"
    return "now" if seconds < _TICK_S else f"{seconds // _TICK_S * _TICK_S:.0f} s ago"


def clock(time_ms: float) -> str:
    """Return a time of this machine's day; with the date unless it is today's."""
    then = time.localtime(time_ms / 1e3)
    is_today = time.strftime("%F", then) == time.strftime("%F")
    return time.strftime("%H:%M:%S" if is_today else "%F %H:%M", then)


def number(value: float | None, digits: int = 4) -> str:
    """Return a number with so many digits, or all before the point.

    >>> number(1234567.0), number(0.00012345), number(2.0)
    ('1,234,567', '0.0001234', '2')
    """
    if value is None:
        return NONE
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.{digits}g}"


def rate(per_s: float) -> str:
    """Return a rate.

    >>> rate(0.04), rate(3.14), rate(2013.4)
    ('0.04', '3.1', '2,013')
    """
    if per_s == 0:
        return "0"
    return f"{per_s:,.0f}" if per_s >= 20 else f"{per_s:.1f}" if per_s >= 1 else f"{per_s:.2f}"


def milliseconds(value: float) -> str:
    """Return a time with three digits.

    >>> milliseconds(0.4137), milliseconds(12.0)
    ('0.41', '12')
    """
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}"
