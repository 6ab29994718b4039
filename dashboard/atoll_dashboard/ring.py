"""The newest samples of a series, bounded. Pure."""

from __future__ import annotations

from array import array
from collections.abc import Iterator

CAPACITY = 480
"""Samples that a series keeps: two minutes at four a second, longer where they are rarer."""

SPACING_MS = 250.0
"""Samples of a series stand at least so far apart: a page shows no more."""


class Ring:
    """Times and values, the oldest out first; grows up to its capacity.

    >>> ring = Ring(capacity=2)
    >>> for time_ms in (0.0, 100.0, 250.0, 500.0):
    ...     ring.append(time_ms, time_ms / 100)
    >>> list(ring)
    [(250.0, 2.5), (500.0, 5.0)]
    """

    __slots__ = ("_capacity", "_start", "_times", "_values", "newest_ms")

    def __init__(self, capacity: int = CAPACITY) -> None:
        self._capacity = capacity
        self._start = 0
        self._times = array("d")
        self._values = array("d")
        self.newest_ms = float("-inf")

    def __len__(self) -> int:
        return len(self._times)

    def __iter__(self) -> Iterator[tuple[float, float]]:
        """Yield the samples, the oldest first."""
        times, values, start = self._times, self._values, self._start
        yield from zip(times[start:], values[start:], strict=True)
        yield from zip(times[:start], values[:start], strict=True)

    def wants(self, time_ms: float) -> bool:
        """Whether a sample at ``time_ms`` is kept: it is the first in its quarter of a second.

        Quarters, not distances: series that are sampled at the same instants keep the same ones. Time
        that runs back is kept too; a chart shows it as it is.
        """
        return time_ms // SPACING_MS != self.newest_ms // SPACING_MS

    def append(self, time_ms: float, value: float) -> None:
        """Keep a sample, unless one of its quarter of a second is there."""
        if not self.wants(time_ms):
            return
        self.newest_ms = time_ms
        if len(self._times) < self._capacity:
            self._times.append(time_ms)
            self._values.append(value)
            return
        self._times[self._start] = time_ms
        self._values[self._start] = value
        self._start = (self._start + 1) % self._capacity

    def values(self) -> list[float]:
        """Return the values, in no order."""
        return self._values.tolist()

    def at(self, time_ms: float) -> float | None:
        """Return the newest value at exactly ``time_ms``, if it was kept."""
        count = len(self._times)
        for back in range(count):
            place = (self._start - 1 - back) % count
            if self._times[place] == time_ms:
                return self._values[place]
            if self._times[place] < time_ms:
                return None
        return None


class Rate:
    """How many a second, over the last five to ten.

    >>> rate = Rate()
    >>> for second in range(20):
    ...     rate.add(second, 3)
    >>> rate.per_s(20.0)
    3.0
    """

    __slots__ = ("_before", "_count", "_slot")

    _SPAN_S = 5.0

    def __init__(self) -> None:
        self._slot = 0
        self._count = 0
        self._before = 0

    def add(self, now_s: float, count: int = 1) -> None:
        """Note ``count`` of them; ``now_s`` never runs back."""
        slot = int(now_s / self._SPAN_S)
        if slot != self._slot:
            self._turn(slot)
        self._count += count

    def per_s(self, now_s: float) -> float:
        """Return the mean rate."""
        slot = int(now_s / self._SPAN_S)
        if slot != self._slot:
            self._turn(slot)
        passed = now_s / self._SPAN_S - slot
        return (self._before * (1 - passed) + self._count) / self._SPAN_S

    def _turn(self, slot: int) -> None:
        self._before = self._count if slot == self._slot + 1 else 0
        self._slot = slot
        self._count = 0
