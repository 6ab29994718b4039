"""Times for people."""

from __future__ import annotations

from datetime import UTC, datetime


def moment(time_ms: float) -> str:
    """Return ``time_ms`` in UTC.

    >>> moment(1730764800000.0)
    '2024-11-05 00:00:00'
    """
    return datetime.fromtimestamp(time_ms / 1e3, UTC).strftime("%Y-%m-%d %H:%M:%S")


def span(milliseconds: float) -> str:
    """Return how long ``milliseconds`` are.

    >>> [span(time_ms) for time_ms in (250, 90_000, 5_400_000, 432_000_000)]
    ['250 ms', '90 s', '90 min', '5 d']
    """
    for unit, size in (("d", 86_400_000.0), ("h", 3_600_000.0), ("min", 60_000.0), ("s", 1000.0)):
        if milliseconds >= 2 * size:
            return f"{milliseconds / size:.3g} {unit}"
    return f"{milliseconds / 1e3:.3g} s" if milliseconds >= 1000 else f"{milliseconds:.3g} ms"  # noqa: PLR2004
