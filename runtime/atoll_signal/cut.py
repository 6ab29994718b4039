"""What cutting windows out of a device's readings gives."""

from __future__ import annotations

from typing import Final

import msgspec

SET_BACK_AFTER: Final = 16
"""So many readings in a row that come too late mean that the device's clock was set back: its windows
begin anew. Fewer are stragglers."""


class Cut(msgspec.Struct, gc=False, eq=False):
    """The samples of a window.

    Attributes:
        samples: Rows, packed float32, oldest first.
        start_ms: Event time of its first reading or step, lags not counted.
        end_ms: Event time of its newest reading or step.
        count: How many readings or steps it holds, lags not counted.
        has_gap: Whether readings are missing in it or, told once, before it.
        is_late: Whether a reading came too late for it.
        is_imputed: Whether it holds a number that stands for a missing one.
        times_ms: Event times of the rows; None: they are equal steps up to ``end_ms``.
    """

    samples: bytes | bytearray
    start_ms: float
    end_ms: float
    count: int
    has_gap: bool = False
    is_late: bool = False
    is_imputed: bool = False
    times_ms: list[float] | None = None
