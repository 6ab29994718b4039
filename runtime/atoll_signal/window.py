"""Windows per device: the last readings, in order of arrival, counted and not timed.

A step back in time neither drops a reading nor resets a window; two readings further apart than
``max_gap_ms`` make the window say so. Windows are kept for a bounded number of devices: when one
more comes, the device that has been silent longest is forgotten.

Rows are packed: the bytes of float32 numbers, as :class:`atoll_signal.features.FeatureRow` makes
them. To move a few bytes costs a tenth of what an array of numpy does.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterator
from collections.abc import Set as AbstractSet
from copy import copy

import msgspec
import numpy as np
from numpy.typing import NDArray

from atoll_contract.manifest import WindowKind, WindowSpec

_FLOAT32_BYTES = 4
_FLOAT64_BYTES = 8


class WindowState(msgspec.Struct):
    """What survives a restart, of one device: its rows, oldest first."""

    rows: bytes
    times_ms: list[float]
    has_restarted: bool = False


class Window:
    """The last ``length`` rows of one device, contiguous in memory.

    Every row is written twice, ``length`` apart, so that the rows of a window always lie side by
    side, oldest first, without moving anything.
    """

    __slots__ = (
        "_count",
        "_gap_left",
        "_length",
        "_max_gap_ms",
        "_next",
        "_row_bytes",
        "_rows",
        "_times",
        "has_restarted",
    )

    def __init__(self, spec: WindowSpec, columns: int, *, has_restarted: bool = False) -> None:
        self._length = spec.length
        self._max_gap_ms = float("inf") if spec.max_gap_ms is None else spec.max_gap_ms
        self._row_bytes = _FLOAT32_BYTES * columns
        self._rows = bytearray(2 * spec.length * self._row_bytes)
        self._times = array("d", bytes(_FLOAT64_BYTES * spec.length))
        self._next = 0
        self._count = 0
        self._gap_left = 0
        """After how many more rows the gap, if there is one, has left the window."""
        self.has_restarted = has_restarted
        """Whether the window fills anew, so that predictions are missing before its first one."""

    @staticmethod
    def size_bytes(spec: WindowSpec, columns: int) -> int:
        """Return the memory that the rows and times of one window take."""
        return spec.length * (2 * _FLOAT32_BYTES * columns + _FLOAT64_BYTES)

    def push(self, row: bytes, time_ms: float) -> None:
        """Take in the next row."""
        at, length, times = self._next, self._length, self._times
        start = at * self._row_bytes
        end = start + self._row_bytes
        half = length * self._row_bytes
        self._rows[start:end] = row
        self._rows[start + half : end + half] = row
        if self._count and time_ms - times[at - 1] > self._max_gap_ms:
            self._gap_left = length - 1
        elif self._gap_left:
            self._gap_left -= 1
        times[at] = time_ms
        self._next = at + 1 if at + 1 < length else 0
        if self._count < length:
            self._count += 1

    @property
    def is_full(self) -> bool:
        """Whether ``length`` rows are there."""
        return self._count == self._length

    @property
    def packed(self) -> bytearray:
        """The rows so far, oldest first: a copy."""
        end = (self._next + self._length) * self._row_bytes
        return self._rows[end - self._count * self._row_bytes : end]

    @property
    def rows(self) -> NDArray[np.float32]:
        """The rows so far, oldest first, shape (n, columns): a copy."""
        return np.frombuffer(self.packed, np.float32).reshape(-1, self._row_bytes // _FLOAT32_BYTES)

    @property
    def start_ms(self) -> float:
        """Event time of the oldest row of a full window."""
        return self._times[self._next]

    @property
    def times_ms(self) -> list[float]:
        """Event times of :attr:`rows`."""
        in_order = self._times[self._next :] + self._times[: self._next]
        return in_order[self._length - self._count :].tolist()

    def take_gap(self) -> bool:
        """Whether readings are missing inside the window or, told once, predictions before it."""
        has_gap = self._gap_left > 0
        if self.has_restarted:
            self.has_restarted = False
            return self._length > 1
        return has_gap

    def begin_with(self, other: Window) -> None:
        """Take over the latest rows of ``other``, as many as there is room for."""
        self._fill(other.packed, other.times_ms)

    def state(self) -> WindowState:
        """Return what survives a restart."""
        return WindowState(bytes(self.packed), self.times_ms, self.has_restarted)

    def restore(self, state: WindowState) -> None:
        """Begin with the rows that were kept, whose columns must be the same as these.

        Raises:
            ValueError: They are not.
        """
        if len(state.rows) != len(state.times_ms) * self._row_bytes:
            raise ValueError("rows of another width")
        self._fill(state.rows, state.times_ms)
        self.has_restarted = state.has_restarted

    def _fill(self, packed: bytes | bytearray, times: list[float]) -> None:
        times = times[-self._length :]
        keep = len(times)
        packed = packed[len(packed) - keep * self._row_bytes :]
        half = self._length * self._row_bytes
        self._rows[: len(packed)] = self._rows[half : half + len(packed)] = packed
        self._times[:keep] = array("d", times)
        self._next, self._count = keep % self._length, keep
        gaps = np.flatnonzero(np.diff(times) > self._max_gap_ms)
        self._gap_left = self._length - keep + int(gaps[-1]) + 1 if len(gaps) else 0

    def shift(self, step_ms: float) -> None:
        """Move all times by ``step_ms``."""
        self._times = array("d", [time_ms + step_ms for time_ms in self._times])

    def copy(self) -> Window:
        """Return a window that holds the same and goes its own way."""
        twin = copy(self)
        twin._rows, twin._times = self._rows[:], self._times[:]  # noqa: SLF001 - of its own class
        return twin

    def clear(self) -> None:
        """Forget all rows."""
        self._next = self._count = self._gap_left = 0

    def begin_anew(self) -> None:
        """Forget all rows because some are missing; the next full window says so."""
        self.has_restarted = self.has_restarted or self._count > 0
        self.clear()


class Windows:
    """The windows of one model, by device."""

    def __init__(
        self, spec: WindowSpec, columns: int, *, max_devices: int, has_restarted: bool = False
    ) -> None:
        self.spec = spec
        self._columns = columns
        self._is_tumbling = spec.kind is WindowKind.TUMBLING
        self.max_devices = max_devices
        """How many devices have a window at the most."""
        self._has_restarted = has_restarted
        self._windows: OrderedDict[str, Window] = OrderedDict()
        self.forgotten = 0
        """How many devices were forgotten to make room."""

    def __len__(self) -> int:
        return len(self._windows)

    def push(self, device: str, row: bytes, time_ms: float) -> Window | None:
        """Take in the next row of ``device`` and return its window when that completes one.

        The window is valid until the next push of that device.
        """
        window = self._windows.get(device)
        if window is None:
            # Where devices had to go, this one may have been among them.
            window = self._add(device, has_restarted=self._has_restarted or self.forgotten > 0)
        else:
            self._windows.move_to_end(device)
            if self._is_tumbling and window.is_full:
                window.clear()
        window.push(row, time_ms)
        return window if window.is_full else None

    def adopt(self, other: Windows) -> None:
        """Begin with the rows of ``other``, whose columns must be the same as these.

        The windows of a new release so go on where those of the old one are.
        """
        for device, window in other:
            if self.spec == other.spec:
                self._make_room()
                self._windows[device] = window.copy()
                continue
            own = self._add(device, has_restarted=False)
            own.begin_with(window)
            own.has_restarted = window.has_restarted or (
                window.is_full and not own.is_full  # a longer window has to fill first
            )

    def state(self) -> dict[str, WindowState]:
        """Return what survives a restart."""
        return {device: window.state() for device, window in self}

    def restore(self, states: dict[str, WindowState]) -> None:
        """Begin with the rows that were kept.

        Raises:
            ValueError: They are of another width.
        """
        for device, state in states.items():
            self._add(device, has_restarted=False).restore(state)

    def shift(self, step_ms: float, devices: AbstractSet[str]) -> None:
        """Move the times of ``devices``, which came from a clock that has been set by ``step_ms``."""
        for device in devices & self._windows.keys():
            self._windows[device].shift(step_ms)

    def __iter__(self) -> Iterator[tuple[str, Window]]:
        return iter(list(self._windows.items()))

    def _make_room(self) -> None:
        while len(self._windows) >= self.max_devices:
            self._windows.popitem(last=False)
            self.forgotten += 1

    def _add(self, device: str, *, has_restarted: bool) -> Window:
        self._make_room()
        window = Window(self.spec, self._columns, has_restarted=has_restarted)
        self._windows[device] = window
        return window
