"""QoS 1 messages on their way out: kept from publish until the broker acknowledges them. Pure.

A message has a number, which the owner knows and which is never used again, and from its first
sending on a packet id, which it keeps over reconnects and which is free again afterwards.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection
from typing import Final

import msgspec

from atoll_link.events import Refused
from atoll_link.limits import BrokerLimits
from atoll_link.packets import NO_PROPERTIES, Level, pack_publish

MOST_IDS: Final = 61_439
"""The highest packet id of a message; those above, to 65,535, are for SUBSCRIBE and UNSUBSCRIBE."""


class _Kept(msgspec.Struct, gc=False):
    number: int
    topic: bytes
    payload: bytes
    retain: bool
    mid: int = 0


class Outflow:
    r"""What is kept, in the order of publishing, with at most ``max_inflight`` messages under way.

    >>> outflow = Outflow(max_inflight=1, max_kept=10)
    >>> outflow.open(Level.MQTT_311, BrokerLimits(), session_present=False)
    >>> outflow.publish(1, b"\0\1a", b"", retain=False).hex(" ")
    '32 05 00 01 61 00 01'
    >>> outflow.publish(2, b"\0\1a", b"", retain=False)
    >>> outflow.acknowledge(1)
    1
    >>> [packet.hex(" ") for packet in outflow.due()]
    ['32 05 00 01 61 00 02']

    Attributes:
        refused: What the broker's limits kept from being sent; whoever looks clears it.
    """

    def __init__(self, max_inflight: int, max_kept: int) -> None:
        if not 1 <= max_inflight <= MOST_IDS:
            raise ValueError(f"max_inflight is {max_inflight}, not 1 to {MOST_IDS}")
        self._max_inflight = max_inflight
        self._max_kept = max_kept
        self._window = 0
        """How many may be under way now: none without a connection."""
        self._waiting: deque[_Kept] = deque()
        self._inflight: dict[int, _Kept] = {}
        self._last_mid = 0
        self._sent_before = 0
        """How many of those waiting, from the left, were sent before in the broker's present session."""
        self._limits = BrokerLimits()
        self._properties = b""
        self.refused: list[Refused] = []

    @property
    def has_room(self) -> bool:
        """Whether one more message can be kept."""
        return len(self._waiting) + len(self._inflight) < self._max_kept

    @property
    def holds_any(self) -> bool:
        """Whether there is a message that the broker has not acknowledged."""
        return bool(self._waiting or self._inflight)

    def open(self, level: Level, limits: BrokerLimits, *, session_present: bool) -> None:
        """Begin a connection. Without a session the broker knows of nothing that was sent before."""
        self._limits = limits
        self._properties = NO_PROPERTIES[level]
        self._window = min(self._max_inflight, limits.max_inflight)
        if not session_present:
            self._sent_before = 0

    def close(self) -> None:
        """End the connection: all that was under way has to be sent again, first and in order."""
        self._window = 0
        self._waiting.extendleft(reversed(self._inflight.values()))
        self._sent_before += len(self._inflight)
        self._inflight.clear()

    def publish(self, number: int, topic: bytes, payload: bytes, *, retain: bool) -> bytes | None:
        """Take a message over, and return its packet if it leaves now."""
        kept = _Kept(number, topic, payload, retain)
        if self._waiting or len(self._inflight) >= self._window:
            self._waiting.append(kept)
            return None
        return self._send(kept)

    def due(self) -> list[bytes]:
        """Return the packets that have waited and leave now; each counts as sent.

        They leave by half a window at least: one by one, each acknowledgement would cost a turn.
        """
        packets: list[bytes] = []
        if len(self._inflight) > self._window // 2:
            return packets
        while self._waiting and len(self._inflight) < self._window:
            kept = self._waiting.popleft()
            is_again = self._sent_before > 0
            if is_again:
                self._sent_before -= 1
            packet = self._send(kept, is_again=is_again)
            if packet is not None:
                packets.append(packet)
        return packets

    def acknowledge(self, mid: int) -> int | None:
        """Return the number of the message with this packet id, and forget it; None: there is none."""
        kept = self._inflight.pop(mid, None)
        return None if kept is None else kept.number

    def take_back(self, numbers: Collection[int]) -> list[tuple[int, bytes, bytes]]:
        """Forget messages that were not acknowledged; return number, topic and payload, in their order.

        The broker may have taken some of them: what it says of them is ignored.
        """
        wanted = frozenset(numbers)
        taken = [kept for kept in self._inflight.values() if kept.number in wanted]
        for kept in taken:
            del self._inflight[kept.mid]
        left: deque[_Kept] = deque()
        sent_before = self._sent_before
        for place, kept in enumerate(self._waiting):
            if kept.number not in wanted:
                left.append(kept)
                continue
            taken.append(kept)
            self._sent_before -= place < sent_before
        self._waiting = left
        return [(kept.number, kept.topic, kept.payload) for kept in taken]

    def _send(self, kept: _Kept, *, is_again: bool = False) -> bytes | None:
        mid = kept.mid if is_again else self._free_mid()
        packet = pack_publish(
            kept.topic, kept.payload, self._properties, mid, retain=kept.retain, dup=is_again
        )
        refusal = self._limits.refusal(len(packet), qos=1, retain=kept.retain)
        if refusal is not None:
            self.refused.append(Refused(kept.number, refusal))
            return None
        kept.mid = mid
        self._inflight[mid] = kept
        return packet

    def _free_mid(self) -> int:
        # Only those under way have an id: what was sent before stands in front of what was not.
        mid = self._last_mid % MOST_IDS + 1
        while mid in self._inflight:
            mid = mid % MOST_IDS + 1
        self._last_mid = mid
        return mid
