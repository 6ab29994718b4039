"""Readings that go on all the time, each with a number of its own, from a thread."""

from __future__ import annotations

import json
import threading
import time
from types import TracebackType
from typing import Self

from atoll_link.session import Broker, Published, Session

_MOST_LATE_S = 0.1
"""What was not sent for longer is not made up for."""


class Feeder:
    """Publishes readings at QoS 1 once told to; ``acknowledged`` are those that the broker has taken."""

    def __init__(self, port: int, topic: str, *, interval_s: float = 0.05, client_id: str = "feeder") -> None:
        self._session = Session(Broker(host="127.0.0.1", port=port), client_id, max_inflight=100)
        self._topic = topic
        self._interval_s = interval_s
        self._is_going = threading.Event()
        self._stopping = threading.Event()
        self._waiting: dict[int, int] = {}
        self.sent = 0
        self.acknowledged: set[int] = set()
        self._thread = threading.Thread(target=self._run, name="feeder", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join(10)

    def pause(self) -> None:
        """Send no more, and return when all that was sent is acknowledged."""
        self._is_going.clear()
        deadline = time.monotonic() + 30
        while len(self.acknowledged) < self.sent:
            assert time.monotonic() < deadline, "the broker takes no readings"
            self._stopping.wait(0.01)

    def go_on(self) -> None:
        """Send, again."""
        self._is_going.set()

    def _run(self) -> None:
        next_s = 0.0
        while not self._stopping.is_set():
            now_s = time.monotonic()
            next_s = max(next_s, now_s - _MOST_LATE_S)
            while now_s >= next_s and self._is_going.is_set():
                next_s += self._interval_s  # by the clock: who wakes late keeps the rate
                self._send()
            for event in self._session.step(self._interval_s / 2):
                if isinstance(event, Published):
                    self.acknowledged.add(self._waiting.pop(event.mid))
        self._session.close()

    def _send(self) -> None:
        number = self.sent + 1
        reading = {"time_ms": time.time() * 1e3, "values": {"x": 3.0}, "seq": number, "boot": "b"}
        mid = self._session.publish(self._topic, json.dumps(reading).encode(), qos=1)
        if mid is not None:
            self._waiting[mid] = number
            self.sent = number
