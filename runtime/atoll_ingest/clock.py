"""Doubts about the clocks of devices: never set, running backwards, or ahead of ours.

Nothing is changed here: a doubt is counted and told. What a device wrote stays its event time, unless its
clock was never set (:class:`atoll_ingest.time.UndatedReading`).
"""

from __future__ import annotations

from collections import OrderedDict
from enum import StrEnum
from typing import Final

from atoll_contract.messages import Reading
from atoll_ingest.time import EARLIEST_MS, UndatedReading

AHEAD_MS: Final = 60_000.0
"""No reading can be younger than its arrival; clocks that are set by a time server differ by far less."""


class Doubt(StrEnum):
    """What is wrong with a device's clock; also the name of its counter."""

    UNSET = "clock_unset"
    """Its time is before 2000: it was never set."""
    BACK = "clock_back"
    """Its time is before that of an earlier message: the clock was set back, or it sends what it had kept."""
    AHEAD = "clock_ahead"
    """Its time is more than a minute after the arrival: it has jumped ahead, or our clock is wrong."""


class ClockWatch:
    """The latest event time of each device, for at most ``max_devices``: the one that came first goes.

    Attributes:
        latest_ms: By device. Who sees that a time is between this and the arrival may set
            it, and need not look.
    """

    def __init__(self, max_devices: int) -> None:
        self._max_devices = max_devices
        self.latest_ms: dict[str, float] = {}
        self._doubted: OrderedDict[str, dict[Doubt, int]] = OrderedDict()

    def look(self, device: str, reading: Reading, arrival_ms: float) -> Doubt | None:
        """Return, and note, what is doubtful about the time of ``reading``, the next one of ``device``."""
        time_ms = reading.time_ms
        if time_ms is None:
            return self._note(device, Doubt.UNSET) if type(reading) is UndatedReading else None
        latest = self.latest_ms
        before_ms = latest.get(device)
        latest[device] = time_ms
        if before_ms is None:
            if len(latest) > self._max_devices:
                del latest[next(iter(latest))]
        elif time_ms < before_ms:
            return self._note(device, Doubt.BACK)
        if time_ms > arrival_ms + AHEAD_MS and arrival_ms > EARLIEST_MS:
            return self._note(device, Doubt.AHEAD)
        if time_ms < EARLIEST_MS:
            return self._note(device, Doubt.UNSET)
        return None

    def doubts(self, device: str) -> dict[Doubt, int]:
        """Return how often there was which doubt about ``device``."""
        return dict(self._doubted.get(device, {}))

    @property
    def doubted(self) -> int:
        """How many devices there were doubts about, of those that are remembered."""
        return len(self._doubted)

    def _note(self, device: str, doubt: Doubt) -> Doubt:
        counts = self._doubted.setdefault(device, {})
        self._doubted.move_to_end(device)
        counts[doubt] = counts.get(doubt, 0) + 1
        if len(self._doubted) > self._max_devices:
            self._doubted.popitem(last=False)
        return doubt
