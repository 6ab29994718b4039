"""Readings that a device sent twice, told by ``boot`` and ``seq``."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

MEMORY: Final = 1024
"""How far back a device's sequence numbers are remembered."""

_MASK: Final = (1 << MEMORY) - 1


class _Run:
    """One run of a device: its highest number, and one bit for each of the last ones, newest lowest."""

    __slots__ = ("bits", "boot", "highest")

    def __init__(self, boot: str, seq: int) -> None:
        self.boot = boot
        self.highest = seq
        self.bits = 1

    def is_repeat(self, seq: int) -> bool:
        ahead = seq - self.highest
        if ahead > 0:
            self.bits = ((self.bits << ahead) & _MASK) | 1 if ahead < MEMORY else 1
            self.highest = seq
            return False
        if ahead <= -MEMORY:
            return False
        bit = 1 << -ahead
        was_taken = bool(self.bits & bit)
        self.bits |= bit
        return was_taken


class Repeats:
    """The sequence numbers taken from each device's present run."""

    def __init__(self, max_devices: int) -> None:
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
        self._runs[device] = _Run(boot, seq)
        return False
