"""Predictions that wait for their truth."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, NamedTuple

from atoll_contract.messages import Label

MAX_PER_DEVICE: Final = 1024
MAX_IN_ALL: Final = 65_536
"""Predictions of one model that are remembered."""


class Found(NamedTuple):
    """A prediction that has found its truth."""

    time_ms: float
    value: float


class Remembered:
    """The last predictions for each device; the oldest goes first when there are too many."""

    def __init__(self) -> None:
        self._devices: OrderedDict[str, OrderedDict[float, float]] = OrderedDict()
        self._count = 0
        self.forgotten = 0
        """Those that went without a truth."""

    def add(self, device: str, time_ms: float, value: float) -> None:
        """Remember a prediction for ``device``."""
        known = self._devices.setdefault(device, OrderedDict())
        self._devices.move_to_end(device)
        if time_ms not in known:
            self._make_room(known)
            self._count += 1
        known[time_ms] = value

    def take(self, device: str, label: Label, tolerance_ms: float) -> list[Found]:
        """Return the predictions that ``label`` is the truth about, and forget them.

        A label of a moment belongs to the prediction of that time, else to the latest one before it within
        the tolerance; a label of a span to all in it.
        """
        known = self._devices.get(device)
        if known is None:
            return []
        if label.time_ms is None:
            start_ms, end_ms = label.start_ms or 0.0, label.end_ms or 0.0
            times = [time_ms for time_ms in known if start_ms <= time_ms < end_ms]
        elif label.time_ms in known:
            times = [label.time_ms]
        else:
            before = (time_ms for time_ms in known if label.time_ms - tolerance_ms <= time_ms < label.time_ms)
            times = [latest] if tolerance_ms and (latest := max(before, default=None)) is not None else []
        return self._taken(known, times)

    def take_near(self, device: str, time_ms: float, tolerance_ms: float) -> list[Found]:
        """Return the prediction nearest to ``time_ms`` within the tolerance, and forget it."""
        known = self._devices.get(device)
        if known is None:
            return []
        if time_ms in known:
            return self._taken(known, [time_ms])
        near = (other for other in known if abs(other - time_ms) <= tolerance_ms)
        nearest = min(near, key=lambda other: abs(other - time_ms), default=None)
        return [] if nearest is None else self._taken(known, [nearest])

    def _taken(self, known: OrderedDict[float, float], times: list[float]) -> list[Found]:
        self._count -= len(times)
        return [Found(time_ms, known.pop(time_ms)) for time_ms in times]

    def _make_room(self, known: OrderedDict[float, float]) -> None:
        if len(known) >= MAX_PER_DEVICE:
            known.popitem(last=False)
        elif self._count >= MAX_IN_ALL:
            while not (oldest := next(iter(self._devices.values()))):
                self._devices.popitem(last=False)
            oldest.popitem(last=False)
        else:
            return
        self.forgotten += 1
        self._count -= 1
