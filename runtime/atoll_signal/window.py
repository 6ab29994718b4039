"""Windows per device: the last readings, in order of arrival, counted and not timed.

A step back in time neither drops a reading nor resets a window; two readings further apart than
``max_gap_ms`` make the window say so. Windows are kept for a bounded number of devices: when one
more comes, the device that has been silent longest is forgotten.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from atoll_contract.manifest import WindowKind, WindowSpec


class Window:
    """The last ``length`` rows of one device, contiguous in memory.

    Every row is written twice, ``length`` apart, so that the rows of a window always lie side by
    side, oldest first, without moving anything.
    """

    __slots__ = ("_count", "_length", "_next", "_rows", "_times", "has_restarted")

    def __init__(self, length: int, columns: int, *, has_restarted: bool = False) -> None:
        self._length = length
        self._rows = np.zeros((2 * length, columns), np.float32)
        self._times = np.zeros(2 * length, np.float64)
        self._next = 0
        self._count = 0
        self.has_restarted = has_restarted
        """Whether the window fills anew, so that predictions are missing before its first one."""

    def push(self, row: NDArray[np.float32], time_ms: float) -> None:
        """Take in the next row, float32, shape (columns,)."""
        at = self._next
        self._rows[at] = row
        self._rows[at + self._length] = row
        self._times[at] = self._times[at + self._length] = time_ms
        self._next = (at + 1) % self._length
        self._count = min(self._count + 1, self._length)

    def fill(self, other: Window) -> None:
        """Begin with the latest rows of ``other``."""
        keep = min(len(other.rows), self._length)
        if keep == 0:
            return
        for start in (0, self._length):
            self._rows[start : start + keep] = other.rows[-keep:]
            self._times[start : start + keep] = other.times_ms[-keep:]
        self._next = keep % self._length
        self._count = keep

    @property
    def is_full(self) -> bool:
        """Whether ``length`` rows are there."""
        return self._count == self._length

    @property
    def rows(self) -> NDArray[np.float32]:
        """The rows so far, oldest first, shape (n, columns): a view, valid until the next push."""
        end = self._next + self._length
        return self._rows[end - self._count : end]

    @property
    def times_ms(self) -> NDArray[np.float64]:
        """Event times of :attr:`rows`: a view, valid until the next push."""
        end = self._next + self._length
        return self._times[end - self._count : end]

    def clear(self) -> None:
        """Forget all rows."""
        self._next = self._count = 0


class Windows:
    """The windows of one model, by device."""

    def __init__(
        self, spec: WindowSpec, columns: int, *, max_devices: int, has_restarted: bool = False
    ) -> None:
        self.spec = spec
        self.columns = columns
        self._max_devices = max_devices
        self._has_restarted = has_restarted
        self._windows: OrderedDict[str, Window] = OrderedDict()
        self.forgotten = 0
        """How many devices were forgotten to make room."""

    def __len__(self) -> int:
        return len(self._windows)

    def push(self, device: str, row: NDArray[np.float32], time_ms: float) -> Window | None:
        """Take in the next row of ``device`` and return its window when that completes one.

        The window is valid until the next push of that device.
        """
        window = self._windows.get(device)
        if window is None:
            window = self._add(device, has_restarted=self._has_restarted)
        else:
            self._windows.move_to_end(device)
            if self.spec.kind is WindowKind.TUMBLING and window.is_full:
                window.clear()
        window.push(row, time_ms)
        return window if window.is_full else None

    def has_gap(self, window: Window) -> bool:
        """Whether readings are missing inside ``window``, or predictions before it."""
        if window.has_restarted and self.spec.length > 1:
            window.has_restarted = False
            return True
        limit = self.spec.max_gap_ms
        return limit is not None and self.spec.length > 1 and bool((np.diff(window.times_ms) > limit).any())

    def adopt(self, other: Windows) -> None:
        """Take over the rows of ``other``, whose columns must be the same as these.

        The windows of a new release so go on where those of the old one ended.
        """
        if self.spec.length == other.spec.length and self._max_devices >= len(other):
            self._windows = other._windows.copy()  # the predecessor is not used any more
            return
        for device, window in other:
            own = self._add(device, has_restarted=False)
            own.fill(window)
            own.has_restarted = window.has_restarted or (
                window.is_full and not own.is_full  # a longer window has to fill first
            )

    def __iter__(self) -> Iterator[tuple[str, Window]]:
        return iter(list(self._windows.items()))

    def _add(self, device: str, *, has_restarted: bool) -> Window:
        while len(self._windows) >= self._max_devices:
            self._windows.popitem(last=False)
            self.forgotten += 1
        window = Window(self.spec.length, self.columns, has_restarted=has_restarted)
        self._windows[device] = window
        return window
