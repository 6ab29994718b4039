"""A wire whose events a test scripts, and which notes what the lane sends."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Collection, Mapping, Sequence

from atoll_agent.ports import LanePlan
from atoll_link.session import Connected, Delivery, Disconnected, Event, Published


class ScriptedWire:
    """Implements ``ports.Wire``. ``room`` limits how many predictions are taken."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.sent: list[tuple[int, str, bytes]] = []
        self.qos: list[int] = []
        self.acknowledged: list[Delivery] = []
        self.room = 1_000_000
        self.is_closed = False
        self._mids = itertools.count(1)
        self._connection = 0

    # What a test does

    def connect(self, *, session_present: bool = False) -> None:
        self._connection += 1
        self.events.append(Connected(self._connection, session_present))

    def disconnect(self) -> None:
        self.events.append(Disconnected("gone", was_connected=True, was_refused=False))

    def deliver(
        self,
        topic: str,
        payload: bytes,
        *,
        mid: int = 1,
        qos: int = 1,
        is_duplicate: bool = False,
        is_retained: bool = False,
        arrival_ms: float = 1000.0,
        arrival_ns: int = 0,
    ) -> None:
        self.events.append(
            Delivery(
                topic, payload, qos, mid, is_duplicate, is_retained, self._connection, arrival_ms, arrival_ns
            )
        )

    def puback(self, *mids: int) -> None:
        self.events += [Published(mid) for mid in mids]

    # What the lane does

    def step(self, timeout_s: float) -> list[Event]:
        events, self.events = self.events, []
        return events

    def publish(self, topic: str, payload: bytes, *, qos: int) -> int | None:
        if self.room <= 0:
            return None
        self.room -= 1
        mid = next(self._mids)
        self.sent.append((mid, topic, payload))
        self.qos.append(qos)
        return mid

    def take_back(self, numbers: Collection[int]) -> list[tuple[int, str, bytes]]:
        taken = [message for message in self.sent if message[0] in numbers]
        self.sent = [message for message in self.sent if message not in taken]
        return taken

    def acknowledge(self, delivery: Delivery) -> None:
        self.acknowledged.append(delivery)

    def flush(self) -> None:
        pass

    def close(self, timeout_s: float) -> None:
        self.is_closed = True


class ScriptedWaiter:
    """Implements ``ports.Waiter``: every wire needs a step; ``wait`` waits for a wake at the most.

    Attributes:
        wires: A wire for each stream that is subscribed or still at work.
        filters: What each stream is subscribed to.
        ended: Streams whose sessions were ended.
    """

    def __init__(self, **wires: ScriptedWire) -> None:
        self.wires = wires
        self.filters: dict[str, list[str]] = {}
        self.ended: list[str] = []
        self._woken = threading.Event()

    def rewire(self, plan: LanePlan) -> Mapping[str, ScriptedWire]:
        self.filters = {stream: list(filters) for stream, filters in plan.filters.items()}
        for stream in plan.filters:
            self.wires.setdefault(stream, ScriptedWire())
        return {stream: self.wires[stream] for stream in plan.filters}

    def end(self, stream: str) -> None:
        assert self.wires.pop(stream).is_closed
        self.ended.append(stream)

    def wait(self, timeout_s: float) -> Sequence[ScriptedWire]:
        if not any(wire.events for wire in self.wires.values()):
            self._woken.wait(timeout_s)
        self._woken.clear()
        return list(self.wires.values())

    def wake(self) -> None:
        self._woken.set()
