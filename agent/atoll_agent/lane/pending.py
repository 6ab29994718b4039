"""Readings that wait for their answer, and which of them are left out when too many do."""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

from atoll_agent.lane.ledger import Entry
from atoll_contract.messages import Reading, WindowBounds
from atoll_ingest.stream import Overload
from atoll_link.session import Delivery

MAX_BYTES: Final = 64 * 1024 * 1024
"""Windows that wait for one model; beyond it readings are left out whatever the policy says."""


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

    ``block`` leaves out no QoS 1 reading below :data:`MAX_BYTES`: the broker sends no more messages
    than its limit in flight without an acknowledgement.
    """

    def __init__(self, policy: Overload, limit: int | None = None) -> None:
        self.policy = policy
        """Who is left out."""
        self.limit = limit
        """How many may wait; None: as many as come."""
        self._queue: deque[Pending] = deque()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._queue)

    def put(self, pending: Pending) -> Pending | None:
        """Take in ``pending`` and return who is left out for it, if anybody is."""
        left_out = None
        if self._bytes >= MAX_BYTES:
            return pending
        if self.limit is not None and len(self._queue) >= self.limit:
            if self.policy is Overload.SAMPLE or (self.policy is Overload.BLOCK and pending.entry is None):
                return pending
            if self.policy is Overload.NEWEST:
                left_out = self._older(pending.device)
                self._queue.remove(left_out)
                self._bytes -= len(left_out.samples)
        self._queue.append(pending)
        self._bytes += len(pending.samples)
        return left_out

    def take(self, most: int) -> list[Pending]:
        """Return up to ``most`` of those that have waited longest."""
        queue = self._queue
        taken = [queue.popleft() for _ in range(min(most, len(queue)))]
        self._bytes -= sum([len(pending.samples) for pending in taken])
        return taken

    def _older(self, device: str) -> Pending:
        """Return the reading of ``device`` that waits, or, if none does, the one that waits longest."""
        for waiting in self._queue:
            if waiting.device == device:
                return waiting
        return self._queue[0]
