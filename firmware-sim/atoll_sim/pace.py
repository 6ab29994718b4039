"""When the rows of a file are due, by the file's own times. Pure."""

from __future__ import annotations


class Pace:
    """Turns event times, in file order, into seconds since the first of them.

    Time that passes in the file passes here, ``speed`` times as fast; a step back in time takes none.
    """

    def __init__(self, speed: float) -> None:
        self._speed = speed
        self._previous_ms: float | None = None
        self._due_s = 0.0

    def due_s(self, time_ms: float) -> float:
        """Return when the next row, whose time is ``time_ms``, is due."""
        if self._previous_ms is not None:
            self._due_s += max(0.0, time_ms - self._previous_ms) / 1e3 / self._speed
        self._previous_ms = time_ms
        return self._due_s
