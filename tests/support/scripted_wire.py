"""A wire whose events a test scripts, and which notes what the lane sends."""

from __future__ import annotations

import itertools

from atoll_link.session import Connected, Delivery, Event, Published


class ScriptedWire:
    """Implements ``ports.Wire``. ``room`` limits how many predictions are taken."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.sent: list[tuple[int, str, bytes]] = []
        self.acknowledged: list[Delivery] = []
        self.room = 1_000_000
        self.is_closed = False
        self._mids = itertools.count(1)
        self._connection = 0

    # What a test does

    def connect(self, *, session_present: bool = False) -> None:
        self._connection += 1
        self.events.append(Connected(self._connection, session_present))

    def deliver(
        self,
        topic: str,
        payload: bytes,
        *,
        mid: int = 1,
        qos: int = 1,
        is_duplicate: bool = False,
        is_retained: bool = False,
        arrival_ns: int = 0,
    ) -> None:
        self.events.append(
            Delivery(
                topic, payload, qos, mid, is_duplicate, is_retained, self._connection, 1000.0, arrival_ns
            )
        )

    def puback(self, *mids: int) -> None:
        self.events += [Published(mid) for mid in mids]

    # What the lane does

    def step(self, timeout_s: float) -> list[Event]:
        events, self.events = self.events, []
        return events

    def send(self, predictions):
        mids: list[int | None] = []
        for topic, payload in predictions:
            if self.room <= 0:
                mids.append(None)
                continue
            self.room -= 1
            mid = next(self._mids)
            self.sent.append((mid, topic, payload))
            mids.append(mid)
        return mids

    def acknowledge(self, deliveries):
        self.acknowledged += deliveries

    def wake(self) -> None:
        pass

    def close(self) -> None:
        self.is_closed = True
