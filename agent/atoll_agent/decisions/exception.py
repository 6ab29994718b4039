"""Report by exception: which predictions are worth telling."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Collection
from dataclasses import dataclass

import msgspec


@dataclass(frozen=True, slots=True)
class Band:
    """How far and how long a prediction may be from the last one that was told.

    Attributes:
        absolute: A change of the value by more is told.
        relative: The same, as a part of the last value told; the larger of the two counts.
        at_least_every_ms: After so much event time the next prediction is told anyway.
    """

    absolute: float = 0.0
    relative: float = 0.0
    at_least_every_ms: float = math.inf

    def holds(self, value: float, told: float) -> bool:
        """Whether ``value`` is as good as the one that was told."""
        return abs(value - told) <= max(self.absolute, self.relative * abs(told))


class _Told(msgspec.Struct, gc=False, frozen=True):
    """What was told last: beside time and value all that makes a change whatever the value is."""

    time_ms: float
    value: float
    kind: tuple[object, ...]


class Exceptions:
    """The last predictions told, by device; the device that was told of longest ago goes first."""

    def __init__(self, band: Band, max_devices: int) -> None:
        self._band = band
        self._max_devices = max_devices
        self._told: OrderedDict[str, _Told] = OrderedDict()

    def is_worth_telling(
        self, device: str, time_ms: float, value: float, kind: tuple[object, ...], flags: Collection[object]
    ) -> bool:
        """Whether a prediction says something new; if so it is the one told last.

        ``kind`` and ``flags`` are what makes it another prediction though its value is near: its
        release, its label, whether it is an anomaly; its quality.
        """
        told = self._told.get(device)
        kind = (*kind, *sorted(map(str, flags)))
        if (
            told is not None
            and told.kind == kind
            and 0 <= time_ms - told.time_ms < self._band.at_least_every_ms
            and self._band.holds(value, told.value)
        ):
            return False
        if told is not None:
            self._told.move_to_end(device)
        elif len(self._told) >= self._max_devices:
            self._told.popitem(last=False)
        self._told[device] = _Told(time_ms, value, kind)
        return True
