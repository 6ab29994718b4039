"""From parts of readings to whole ones: values that come one by one, and values that come only when changed.

Pure: the time of arrival is given. What is kept is bounded: of the devices the longest silent one goes.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Collection, Iterator
from typing import NamedTuple, Protocol

import msgspec

from atoll_contract.messages import Reading, Value
from atoll_ingest.time import UndatedReading


class Overdue(NamedTuple):
    """A reading of which not all values came, and when the last of them did."""

    device: str
    reading: Reading
    arrival_ms: float


class Joining(Protocol):
    """How parts become readings.

    Attributes:
        max_devices: Of how many devices something is kept at the most.
    """

    max_devices: int

    def add(self, device: str, part: Reading, arrival_ms: float) -> list[Reading]:
        """Take in what a message said of ``device``; return the readings that are whole with it."""

    def forget(self, device: str) -> list[Reading]:
        """Forget what is known of ``device``; return what is left of it."""

    def overdue(self, now_ms: float) -> list[Overdue]:
        """Return what has waited too long, as far as it came."""

    def shift(self, step_ms: float) -> None:
        """Move all stamps that are times of arrival: the clock was set by ``step_ms``."""

    def state(self) -> bytes:
        """Return what survives a restart; empty: nothing."""

    def restore(self, kept: bytes) -> None:
        """Begin with what was kept; raises ValueError or MsgspecError, and then has changed nothing."""


class _Stamped(NamedTuple):
    """A value and its event time, or that of its arrival."""

    value: Value
    stamp_ms: float
    is_arrival: bool

    def shifted(self, step_ms: float) -> _Stamped:
        return self._replace(stamp_ms=self.stamp_ms + step_ms) if self.is_arrival else self


class _Group(msgspec.Struct):
    """What came so far."""

    values: dict[str, _Stamped] = {}
    is_undated: bool | None = None
    time_ms: float | None = None
    arrival_ms: float = 0.0


class Join:
    """Joins values that arrive in messages of their own, at most ``tolerance_ms`` apart.

    A reading is whole when each of the stream's values is there, missing ones (``nan``) too. A value
    that comes twice before that replaces its predecessor, counted. What is not whole when a value
    comes that is too far from the oldest, or after that time, is a reading with what is there, dated
    by the latest of it. Where :meth:`overdue` is called before each message, it does not matter to
    what is joined when else it is.
    """

    def __init__(
        self,
        values: Collection[str],
        tolerance_ms: float,
        max_devices: int,
        counts: Counter[str],
        *,
        needs_time: bool = False,
    ) -> None:
        self._names = frozenset(values)
        self._tolerance_ms = tolerance_ms
        self.max_devices = max_devices
        self._counts = counts
        self._needs_time = needs_time
        self._groups: OrderedDict[str, _Group] = OrderedDict()
        # Before that nothing is overdue: most looks end here.
        self._due_ms = math.inf
        self._latest_ms = -math.inf

    def add(self, device: str, part: Reading, arrival_ms: float) -> list[Reading]:
        """See :class:`Joining`. A part without values tells the event time of the others."""
        told = []
        is_arrival = part.time_ms is None or self._needs_time
        stamp_ms = arrival_ms if part.time_ms is None or is_arrival else part.time_ms
        group = self._groups.get(device)
        if group is not None and self._is_apart(group, stamp_ms):
            told.append(_dated(self._close(device, group), group.arrival_ms))
            self._counts["joins_incomplete"] += 1
            group = None
        if group is None:
            group = self._open(device)
        values: dict[str, Value] = part.values if isinstance(part.values, dict) else {}
        for name, value in values.items():
            self._counts["values_replaced"] += name in group.values
            group.values[name] = _Stamped(value, stamp_ms, is_arrival)
        if self._needs_time:
            if not values:
                group.time_ms = part.time_ms
        elif part.time_ms is not None:
            group.time_ms = part.time_ms if group.time_ms is None else max(part.time_ms, group.time_ms)
        if values or group.is_undated is None:
            group.is_undated = isinstance(part, UndatedReading)
        group.arrival_ms = arrival_ms
        self._due_ms = min(self._due_ms, arrival_ms + self._tolerance_ms)
        self._latest_ms = max(self._latest_ms, arrival_ms)
        if group.values.keys() >= self._names and not (self._needs_time and group.time_ms is None):
            told.append(self._close(device, group))
        return told

    def forget(self, device: str) -> list[Reading]:
        """See :class:`Joining`."""
        group = self._groups.get(device)
        return [self._close(device, group)] if group is not None and group.values else []

    def overdue(self, now_ms: float) -> list[Overdue]:
        """See :class:`Joining`."""
        if self._latest_ms - self._tolerance_ms <= now_ms <= self._due_ms:
            return []
        late = [
            (device, group)
            for device, group in self._groups.items()
            if now_ms - _oldest_ms(group) > self._tolerance_ms
            or group.arrival_ms - now_ms > self._tolerance_ms
        ]
        self._counts["joins_incomplete"] += len(late)
        told = [
            Overdue(device, reading, group.arrival_ms)
            for device, group in late
            if (reading := self._close(device, group)).values
        ]
        waiting = self._groups.values()
        self._due_ms = min(map(_oldest_ms, waiting), default=math.inf) + self._tolerance_ms
        self._latest_ms = max((group.arrival_ms for group in waiting), default=-math.inf)
        return told

    def shift(self, step_ms: float) -> None:
        """See :class:`Joining`."""
        self._due_ms += step_ms
        self._latest_ms += step_ms
        for group in self._groups.values():
            group.arrival_ms += step_ms
            group.values = {name: value.shifted(step_ms) for name, value in group.values.items()}

    def state(self) -> bytes:
        """See :class:`Joining`."""
        return msgspec.msgpack.encode(dict(self._groups)) if self._groups else b""

    def restore(self, kept: bytes) -> None:
        """See :class:`Joining`."""
        self._groups = OrderedDict(msgspec.msgpack.decode(kept, type=dict[str, _Group]))
        self._due_ms = -math.inf

    def _is_apart(self, group: _Group, stamp_ms: float) -> bool:
        return any(abs(stamp_ms - known.stamp_ms) > self._tolerance_ms for known in group.values.values())

    def _open(self, device: str) -> _Group:
        while len(self._groups) >= self.max_devices:
            self._groups.popitem(last=False)
            self._counts["joins_forgotten"] += 1
        group = self._groups[device] = _Group()
        return group

    def _close(self, device: str, group: _Group) -> Reading:
        del self._groups[device]
        values = {name: known.value for name, known in group.values.items()}
        if group.time_ms is None and group.is_undated:
            return UndatedReading(values=values)
        return Reading(values=values, time_ms=group.time_ms)


def _oldest_ms(group: _Group) -> float:
    """Return when the oldest came of what counts by its arrival, else the latest."""
    stamps = (known.stamp_ms for known in group.values.values() if known.is_arrival)
    return min(stamps, default=group.arrival_ms)


def _dated(reading: Reading, arrival_ms: float) -> Reading:
    """Return ``reading`` at its own arrival: another one's message tells it."""
    if reading.time_ms is not None or isinstance(reading, UndatedReading):
        return reading
    return msgspec.structs.replace(reading, time_ms=arrival_ms)


class Hold:
    """Lets a value that a message leaves out keep what it was, for at most ``hold_ms``.

    A value that a message says is missing (null, ``nan``, a bad status) is missing from then on.
    """

    def __init__(
        self, values: Collection[str], hold_ms: float, max_devices: int, counts: Counter[str]
    ) -> None:
        self._names = tuple(values)
        self._hold_ms = hold_ms
        self.max_devices = max_devices
        self._counts = counts
        self._held: OrderedDict[str, dict[str, _Stamped]] = OrderedDict()

    def add(self, device: str, part: Reading, arrival_ms: float) -> list[Reading]:
        """See :class:`Joining`."""
        stamp_ms = arrival_ms if part.time_ms is None else part.time_ms
        held = self._held.get(device)
        if held is None:
            while len(self._held) >= self.max_devices:
                self._held.popitem(last=False)
                self._counts["held_forgotten"] += 1
            held = self._held[device] = {}
        self._held.move_to_end(device)
        values: dict[str, Value] = part.values if isinstance(part.values, dict) else {}
        for name, value in values.items():
            known = held.get(name)
            ahead_ms = 0.0 if known is None else known.stamp_ms - stamp_ms
            # An older one may come after a newer; one that is far ahead was dated by a clock that erred.
            if ahead_ms <= 0 or ahead_ms > self._hold_ms:
                held[name] = _Stamped(value, stamp_ms, part.time_ms is None)
        if not values:
            return []
        whole = dict(self._filled(held, values, stamp_ms))
        return [msgspec.structs.replace(part, values=whole)]

    def forget(self, device: str) -> list[Reading]:
        """See :class:`Joining`."""
        self._held.pop(device, None)
        return []

    def overdue(self, now_ms: float) -> list[Overdue]:  # noqa: ARG002 - every message is answered at once
        """See :class:`Joining`: nothing waits."""
        return []

    def shift(self, step_ms: float) -> None:
        """See :class:`Joining`."""
        for held in self._held.values():
            held.update({name: known.shifted(step_ms) for name, known in held.items()})

    def state(self) -> bytes:
        """See :class:`Joining`."""
        return msgspec.msgpack.encode(dict(self._held)) if self._held else b""

    def restore(self, kept: bytes) -> None:
        """See :class:`Joining`."""
        self._held = OrderedDict(msgspec.msgpack.decode(kept, type=dict[str, dict[str, _Stamped]]))

    def _filled(
        self, held: dict[str, _Stamped], values: dict[str, Value], stamp_ms: float
    ) -> Iterator[tuple[str, Value]]:
        for name in self._names:
            if name in values:
                yield name, values[name]
            elif name in held and 0 <= stamp_ms - held[name].stamp_ms <= self._hold_ms:
                yield name, held[name].value
