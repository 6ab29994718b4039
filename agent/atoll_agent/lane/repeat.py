"""Readings that a device sent twice, and those that never came, told by ``boot`` and ``seq``."""

from __future__ import annotations

from collections import Counter, OrderedDict
from typing import Final

MEMORY: Final = 1024
"""How far back a device's sequence numbers are remembered."""

_MASK: Final = (1 << MEMORY) - 1


class _Run:
    """One run of a device: its highest number, and one bit for each of the last ones, newest lowest."""

    __slots__ = ("_counts", "bits", "boot", "first", "highest", "missing")

    def __init__(self, boot: str, seq: int, counts: Counter[str]) -> None:
        self._counts = counts
        self.boot = boot
        self.first = self.highest = seq
        self.missing = 0
        self.bits = 1

    def is_repeat(self, seq: int) -> bool:
        ahead = seq - self.highest
        if ahead > 0:
            if ahead > 1:
                self._miss(ahead - 1)
            self.bits = ((self.bits << ahead) & _MASK) | 1 if ahead < MEMORY else 1
            self.highest = seq
            return False
        if ahead <= -MEMORY:
            # Which ones are missing so far back is forgotten, but not how many.
            if seq > self.first and self.missing > MEMORY - self.bits.bit_count():
                self._miss(-1)
            return False
        bit = 1 << -ahead
        was_taken = bool(self.bits & bit)
        self.bits |= bit
        if not was_taken and seq > self.first:
            self._miss(-1)
        return was_taken

    def _miss(self, more: int) -> None:
        self.missing += more
        self._counts["readings_missing"] += more


class Repeats:
    """The sequence numbers taken from each device's present run.

    Numbers left out after the first one of a run count as ``readings_missing`` in ``counts`` until they come.
    """

    def __init__(self, max_devices: int, counts: Counter[str]) -> None:
        self._counts = counts
        self.max_devices = max_devices
        """How many devices are remembered."""
        self._runs: OrderedDict[str, _Run] = OrderedDict()

    def is_repeat(self, device: str, boot: str, seq: int) -> bool:
        """Note the reading ``seq`` of run ``boot``; whether it was taken before.

        A number further back than :data:`MEMORY` counts as new: a device may send what it kept
        while offline after its live readings.
        """
        run = self._runs.get(device)
        if run is not None and run.boot == boot:
            self._runs.move_to_end(device)
            return run.is_repeat(seq)
        self._runs.pop(device, None)
        while len(self._runs) >= self.max_devices:
            self._runs.popitem(last=False)
        self._runs[device] = _Run(boot, seq, self._counts)
        return False
