"""Readings that wait for their answer, and which of them are left out when too many do."""

from __future__ import annotations

from collections import deque

import msgspec

from atoll_agent.lane.ledger import Entry
from atoll_contract.messages import Reading, WindowBounds
from atoll_ingest.stream import Overload
from atoll_link.session import Delivery


class Pending(msgspec.Struct, gc=False, eq=False):
    """A reading that completed a window.

    Attributes:
        device: Its device.
        reading: What it says.
        delivery: The message that brought it.
        entry: What holds back its acknowledgement; None at QoS 0.
        time_ms: Its event time, or the time of its arrival.
        samples: The window: packed float32 numbers, row after row.
        bounds: For windows longer than one reading.
        has_gap: Whether readings are missing in the window.
        is_heard: Whether the answer is published; not that of a release in shadow.
    """

    device: str
    reading: Reading
    delivery: Delivery
    entry: Entry | None
    time_ms: float
    samples: bytes | bytearray
    bounds: WindowBounds | None
    has_gap: bool
    is_heard: bool = True


class PendingQueue:
    """First in, first out; beyond its limit the stream's policy decides who is left out.

    ``block`` leaves out no QoS 1 reading: those are bounded by what the broker sends without an
    acknowledgement.
    """

    def __init__(self, policy: Overload, limit: int | None = None) -> None:
        self._policy = policy
        self.limit = limit
        """How many may wait; None: as many as come."""
        self._queue: deque[Pending] = deque()

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, pending: Pending) -> Pending | None:
        """Take in ``pending`` and return who is left out for it, if anybody is."""
        queue = self._queue
        left_out = None
        if self.limit is not None and len(queue) >= self.limit:
            if self._policy is Overload.SAMPLE or (self._policy is Overload.BLOCK and pending.entry is None):
                return pending
            if self._policy is Overload.NEWEST:
                left_out = self._older(pending.device)
                queue.remove(left_out)
        queue.append(pending)
        return left_out

    def take(self, most: int) -> list[Pending]:
        """Return up to ``most`` of those that have waited longest."""
        queue = self._queue
        return [queue.popleft() for _ in range(min(most, len(queue)))]

    def _older(self, device: str) -> Pending:
        """Return the reading of ``device`` that waits, or, if none does, the one that waits longest."""
        for waiting in self._queue:
            if waiting.device == device:
                return waiting
        return self._queue[0]
