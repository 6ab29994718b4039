"""When the wall clock of this machine is set: what came by its old time moves along."""

from __future__ import annotations

from typing import Final

_LEAST_MS: Final = 1000.0
"""A time server turns a clock that is nearly right slowly; less than that is no step."""


class ClockStep:
    """Compares the wall clock with one that only runs."""

    def __init__(self) -> None:
        self._offset_ms: float | None = None

    def look(self, wall_ms: float, monotonic_ms: float) -> float:
        """Return by how much the wall clock has been set since the last look; 0: it was not.

        >>> step = ClockStep()
        >>> step.look(5000.0, 100.0), step.look(6000.5, 1100.0), step.look(1730794500000.5, 1100.0)
        (0.0, 0.0, 1730794494000.0)
        """
        before_ms, self._offset_ms = self._offset_ms, wall_ms - monotonic_ms
        step_ms = 0.0 if before_ms is None else self._offset_ms - before_ms
        return step_ms if abs(step_ms) >= _LEAST_MS else 0.0
