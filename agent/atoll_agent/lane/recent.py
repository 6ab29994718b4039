"""What was predicted lately, so that a label that arrives finds it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import msgspec

from atoll_contract.messages import Label

MAX_PER_DEVICE: Final = 1024
MAX_IN_ALL: Final = 262_144


class Predicted(msgspec.Struct, gc=False, eq=False):
    """What was said of one window.

    Attributes:
        time_ms: Event time of the reading that completed it.
        champion: The champion's value; None where it said nothing.
        challenger: The challenger's value; None where it said nothing.
    """

    time_ms: float
    champion: float | None = None
    challenger: float | None = None


class Recent:
    """The last predictions of each device; the oldest goes first when there are too many."""

    def __init__(self) -> None:
        self._devices: OrderedDict[str, OrderedDict[float, Predicted]] = OrderedDict()
        self._count = 0
        self.forgotten = 0
        """How many went to make room before any label came for them."""

    def of(self, device: str, time_ms: float) -> Predicted:
        """Return the note on the window of ``device`` that ended at ``time_ms``; a new one if need be."""
        windows = self._devices.get(device)
        if windows is None:
            windows = self._devices[device] = OrderedDict()
        else:
            self._devices.move_to_end(device)
        noted = windows.get(time_ms)
        if noted is None:
            self._make_room(windows)
            noted = windows[time_ms] = Predicted(time_ms)
            self._count += 1
        return noted

    def labelled(self, device: str, label: Label, tolerance_ms: float) -> list[Predicted]:
        """Return the windows that ``label`` speaks of, and forget them.

        A label of a moment belongs to the window that ended then, else to the latest one before it
        within the tolerance; a label of a span to all windows that ended in it.
        """
        windows = self._devices.get(device)
        if windows is None:
            return []
        if label.time_ms is not None:
            found = _at(windows, label.time_ms, tolerance_ms)
            times = [] if found is None else [found]
        else:
            start_ms, end_ms = label.start_ms or 0.0, label.end_ms or 0.0
            times = [time_ms for time_ms in windows if start_ms <= time_ms < end_ms]
        self._count -= len(times)
        spoken_of = [windows.pop(time_ms) for time_ms in times]
        if not windows:
            del self._devices[device]
        return spoken_of

    def _make_room(self, windows: OrderedDict[float, Predicted]) -> None:
        if len(windows) >= MAX_PER_DEVICE:
            windows.popitem(last=False)
        elif self._count >= MAX_IN_ALL:
            silent = next(iter(self._devices))
            self._devices[silent].popitem(last=False)
            if not self._devices[silent]:
                del self._devices[silent]
        else:
            return
        self._count -= 1
        self.forgotten += 1


def _at(windows: OrderedDict[float, Predicted], time_ms: float, tolerance_ms: float) -> float | None:
    if time_ms in windows:
        return time_ms
    before = [other for other in windows if time_ms - tolerance_ms <= other < time_ms]
    return max(before, default=None)
