"""Readings that a device sent twice, told by ``boot`` and ``seq``."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

MEMORY: Final = 1024
"""How far back a device's sequence numbers are remembered."""

_MASK: Final = (1 << MEMORY) - 1


class Repeats:
    """The sequence numbers taken from each device's present run, as one bit each."""

    def __init__(self, max_devices: int) -> None:
        self._max_devices = max_devices
        self._taken: OrderedDict[tuple[str, str], tuple[str, int, int]] = OrderedDict()

    def is_repeat(self, stream: str, device: str, boot: str, seq: int) -> bool:
        """Note the reading ``seq`` of run ``boot``; whether it was taken before.

        A number further back than :data:`MEMORY` counts as new: a device may send what it kept
        while offline after its live readings.
        """
        key = (stream, device)
        known = self._taken.pop(key, None)
        if known is None or known[0] != boot:
            while len(self._taken) >= self._max_devices:
                self._taken.popitem(last=False)
            self._taken[key] = (boot, seq, 1)
            return False
        _, highest, bits = known
        if seq > highest:
            shift = seq - highest
            bits = ((bits << shift) & _MASK) | 1 if shift < MEMORY else 1
            self._taken[key] = (boot, seq, bits)
            return False
        bit = 1 << (highest - seq) if highest - seq < MEMORY else 0
        self._taken[key] = (boot, highest, bits | bit)
        return bool(bits & bit)
