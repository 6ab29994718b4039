"""Windows of a time, which hold as many readings as came in it.

A sliding window ends at each reading and holds what is younger than ``duration_ms`` before it. A tumbling
one holds ``start <= event time < end``, its ends at multiples of the duration since the epoch, and is
closed by the first reading that lies ``lateness_ms`` behind its end. A window that began before the first
reading of its device is not answered. Later than ``lateness_ms`` behind the newest reading, or
after its tumbling window was closed, a reading is late: it is counted and changes nothing.
"""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from typing import Final

import msgspec
import numpy as np

from atoll_contract.manifest import WindowKind, WindowSpec
from atoll_signal.cut import SET_BACK_AFTER, Cut
from atoll_signal.devices import Devices

_TRIM_AFTER: Final = 64
"""Rows that have left all windows are let go so many at once."""


class TimedState(msgspec.Struct):
    """The readings of one device, in order of time.

    Attributes:
        first_ms: From when on nothing is missing before.
        newest_ms: Time of the newest reading.
        number: Of a tumbling window: the first that is not closed.
        times_ms: Event times.
        rows: Packed rows.
        imputed: Which rows hold a number that stands for a missing one: 1, else 0.
        is_anew: Whether the next window says ``gap``.
        late_in_a_row: Readings that came too late since the last that did not.
        is_late_untold: Whether the next window says so.
    """

    first_ms: float
    newest_ms: float
    number: int
    is_anew: bool
    times_ms: list[float] = []
    rows: list[bytes] = []
    imputed: bytearray = msgspec.field(default_factory=bytearray)
    late_in_a_row: int = 0
    is_late_untold: bool = False


class TimedWindows:
    """The windows of one model, by device; ``spec`` has a ``duration_ms``."""

    def __init__(self, spec: WindowSpec, *, max_devices: int, has_restarted: bool = False) -> None:
        if spec.duration_ms is None:
            raise ValueError("windows of a time need duration_ms")
        self.late = 0
        """How many readings came too late."""
        self.skipped = 0
        """How many tumbling windows were closed together with a newer one, and not returned."""
        self._duration_ms = spec.duration_ms
        self._lateness_ms = spec.lateness_ms or 0.0
        self._max_gap_ms = math.inf if spec.max_gap_ms is None else spec.max_gap_ms
        self._most = spec.length
        self._is_tumbling = spec.kind is WindowKind.TUMBLING
        self._has_restarted = has_restarted
        self._devices: Devices[TimedState] = Devices(max_devices)

    @property
    def forgotten(self) -> int:
        """How many devices were forgotten to make room."""
        return self._devices.forgotten

    def limit(self, max_devices: int) -> None:
        """Keep windows for so many devices at the most; those that go are forgotten as others come."""
        self._devices.most = max_devices

    def push(self, device: str, row: bytes, time_ms: float, *, is_imputed: bool = False) -> Cut | None:
        """Take in the next row of ``device``; return the newest window that it completes."""
        kept = self._devices.get(device)
        if kept is None:
            kept = self._begin(device, time_ms, is_anew=self._has_restarted or self.forgotten > 0)
        if self._is_late(kept, time_ms):
            self.late += 1
            kept.late_in_a_row += 1
            kept.is_late_untold = True
            if kept.late_in_a_row < SET_BACK_AFTER:
                return None
            kept = self._begin(device, time_ms, is_anew=True)
        kept.late_in_a_row = 0
        is_behind = time_ms < kept.newest_ms
        place = bisect_right(kept.times_ms, time_ms)
        kept.times_ms.insert(place, time_ms)
        kept.rows.insert(place, row)
        kept.imputed.insert(place, is_imputed)
        kept.newest_ms = max(kept.newest_ms, time_ms)
        made = self._closed(kept) if self._is_tumbling else self._ended(kept, place, is_behind=is_behind)
        self._trim(kept)
        return made

    def adopt(self, other: TimedWindows) -> bool:
        """Begin with the readings of ``other``, if its windows are alike; return whether they are."""
        mine, theirs = ((one._duration_ms, one._is_tumbling) for one in (self, other))  # noqa: SLF001
        if mine != theirs:
            return False
        self.restore(other.state())
        return True

    def state(self) -> dict[str, TimedState]:
        """Return what survives a restart."""
        copied = msgspec.msgpack.encode(dict(self._devices))
        return msgspec.msgpack.decode(copied, type=dict[str, TimedState])

    def restore(self, states: dict[str, TimedState]) -> None:
        """Begin with what was kept."""
        for device, state in states.items():
            self._devices.put(device, state)

    def _begin(self, device: str, time_ms: float, *, is_anew: bool) -> TimedState:
        number = math.floor(time_ms / self._duration_ms)
        # Of a tumbling window that is under way the beginning is missing.
        is_whole = number * self._duration_ms == time_ms
        kept = TimedState(time_ms, time_ms, number if is_whole else number + 1, is_anew)
        self._devices.put(device, kept)
        return kept

    def _is_late(self, kept: TimedState, time_ms: float) -> bool:
        if not self._is_tumbling:
            return time_ms < kept.newest_ms - self._lateness_ms
        # Before the first window is nothing to be late for: there the readings are left out.
        return time_ms < min(kept.number * self._duration_ms, kept.newest_ms - self._lateness_ms)

    def _ended(self, kept: TimedState, place: int, *, is_behind: bool) -> Cut | None:
        """Return the sliding window that ends at the reading at ``place``."""
        end_ms = kept.times_ms[place]
        start_ms = end_ms - self._duration_ms
        if kept.first_ms > start_ms:
            return None
        first = bisect_right(kept.times_ms, start_ms)
        made = self._cut(kept, first, place + 1, start_ms, end_ms)
        made.is_late = made.is_late or is_behind
        return made

    def _closed(self, kept: TimedState) -> Cut | None:
        """Return the newest tumbling window that is closed now and holds a reading."""
        due = math.floor((kept.newest_ms - self._lateness_ms) / self._duration_ms)
        if due <= kept.number:
            return None
        start_ms, end_ms = kept.number * self._duration_ms, due * self._duration_ms
        kept.number = due
        end = bisect_left(kept.times_ms, end_ms)
        if end == 0 or kept.times_ms[end - 1] < start_ms:
            return None
        begin_ms = math.floor(kept.times_ms[end - 1] / self._duration_ms) * self._duration_ms
        first = bisect_left(kept.times_ms, begin_ms)
        if begin_ms > start_ms:
            before = kept.times_ms[bisect_left(kept.times_ms, start_ms) : first]
            self.skipped += len({math.floor(time_ms / self._duration_ms) for time_ms in before})
        return self._cut(kept, first, end, begin_ms, begin_ms + self._duration_ms)

    def _cut(self, kept: TimedState, first: int, end: int, start_ms: float, end_ms: float) -> Cut:
        has_gap, kept.is_anew = kept.is_anew, False
        is_late, kept.is_late_untold = kept.is_late_untold, False
        if end - first > self._most:
            first, has_gap = end - self._most, True
        times = kept.times_ms[first:end]
        if not has_gap and self._max_gap_ms < math.inf:
            has_gap = float(np.diff([start_ms, *times, end_ms]).max()) > self._max_gap_ms
        is_imputed = any(kept.imputed[first:end])
        samples = b"".join(kept.rows[first:end])
        return Cut(samples, times[0], times[-1], end - first, has_gap, is_late, is_imputed, times)

    def _trim(self, kept: TimedState) -> None:
        """Let go what no window will hold any more, and what is more than is kept."""
        if self._is_tumbling:
            old = bisect_left(kept.times_ms, kept.number * self._duration_ms)
        else:
            old = bisect_right(kept.times_ms, kept.newest_ms - self._lateness_ms - self._duration_ms)
        old = max(old, len(kept.rows) - 2 * self._most)
        if old >= min(_TRIM_AFTER, self._most):
            del kept.times_ms[:old], kept.rows[:old], kept.imputed[:old]
