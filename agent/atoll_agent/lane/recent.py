"""Windows that were asked about lately, so that a label that arrives finds them."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import msgspec

from atoll_contract.messages import Label, Reading

MAX_PER_DEVICE: Final = 1024
MAX_IN_ALL: Final = 65_536
"""Windows that one trial remembers."""


class Asked(msgspec.Struct, gc=False, eq=False):
    """A window that a release on trial was asked about.

    Attributes:
        reading: The reading that completed it, as long as an answer is waited for.
        challenger: What the release on trial predicted.
        champion: What the champion did.
        label: The truth, once it is known.
        is_closed: Whether its error has been noted.
        asked_s: When it was asked, on the clock of its trial.
    """

    reading: Reading | None
    challenger: float | None = None
    champion: float | None = None
    label: float | None = None
    is_closed: bool = False
    asked_s: float = 0.0


class Recent:
    """The last windows of each device; the oldest goes first when there are too many."""

    def __init__(self) -> None:
        self._devices: OrderedDict[str, OrderedDict[float, Asked]] = OrderedDict()
        self._count = 0

    def add(self, device: str, time_ms: float, asked: Asked) -> None:
        """Remember a window of ``device`` that ended at ``time_ms``."""
        windows = self._devices.setdefault(device, OrderedDict())
        self._devices.move_to_end(device)
        if time_ms not in windows:
            self._make_room(windows)
            self._count += 1
        windows[time_ms] = asked

    def labelled(self, device: str, label: Label, tolerance_ms: float) -> list[Asked]:
        """Return the windows that ``label`` is the first to speak of, with the label in them.

        A label of a moment belongs to the window that ended then, else to the latest one before it
        within the tolerance; a label of a span to all windows that ended in it.
        """
        windows = self._devices.get(device, OrderedDict())
        if label.time_ms is not None:
            found = _at(windows, label.time_ms, tolerance_ms)
            spoken_of = [] if found is None else [windows[found]]
        else:
            start_ms, end_ms = label.start_ms or 0.0, label.end_ms or 0.0
            spoken_of = [asked for time_ms, asked in windows.items() if start_ms <= time_ms < end_ms]
        new = [asked for asked in spoken_of if asked.label is None]
        for asked in new:
            asked.label = label.value
        return new

    def _make_room(self, windows: OrderedDict[float, Asked]) -> None:
        if len(windows) >= MAX_PER_DEVICE:
            windows.popitem(last=False)
        elif self._count >= MAX_IN_ALL:
            silent, oldest = next(iter(self._devices.items()))
            oldest.popitem(last=False)
            if not oldest:
                del self._devices[silent]
        else:
            return
        self._count -= 1


def _at(windows: OrderedDict[float, Asked], time_ms: float, tolerance_ms: float) -> float | None:
    if time_ms in windows:
        return time_ms
    before = [other for other in windows if time_ms - tolerance_ms <= other < time_ms]
    return max(before, default=None)
