"""QoS 1 messages on their way out: kept from publish until the broker acknowledges them. Pure.

A message has a number, which the owner knows and which is never used again, and from its first
sending on a packet id, which it keeps over reconnects and which is free again afterwards.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from atoll_link.packets import pack_publish

_MOST_IDS = 65_535


@dataclass(slots=True)
class _Kept:
    number: int
    topic: str
    payload: bytes
    retain: bool
    mid: int = 0


class Outflow:
    """What is kept, in the order of publishing, with at most ``max_inflight`` messages under way.

    >>> outflow = Outflow(max_inflight=1, max_kept=10)
    >>> for number in (1, 2):
    ...     outflow.keep(number, "a", b"", retain=False)
    >>> [packet.hex(" ") for packet in outflow.due()]
    ['32 05 00 01 61 00 01']
    >>> outflow.acknowledge(1)
    1
    >>> [packet.hex(" ") for packet in outflow.due()]
    ['32 05 00 01 61 00 02']
    """

    def __init__(self, max_inflight: int, max_kept: int) -> None:
        if not 1 <= max_inflight <= _MOST_IDS:
            raise ValueError(f"max_inflight is {max_inflight}, not 1 to {_MOST_IDS}")
        self._max_inflight = max_inflight
        self._max_kept = max_kept
        self._waiting: deque[_Kept] = deque()
        self._inflight: dict[int, _Kept] = {}
        self._last_mid = 0
        self._sent_before = 0
        """How many of those waiting, from the left, were sent on an earlier connection."""

    @property
    def has_room(self) -> bool:
        """Whether one more message can be kept."""
        return len(self._waiting) + len(self._inflight) < self._max_kept

    def keep(self, number: int, topic: str, payload: bytes, *, retain: bool) -> None:
        """Take a message over."""
        self._waiting.append(_Kept(number, topic, payload, retain))

    def start_over(self) -> None:
        """On a new connection: all that was under way has to be sent again, first and in order."""
        self._waiting.extendleft(reversed(self._inflight.values()))
        self._sent_before += len(self._inflight)
        self._inflight.clear()

    def due(self) -> Iterator[bytes]:
        """Yield the packets that may leave now; each counts as sent."""
        while self._waiting and len(self._inflight) < self._max_inflight:
            kept = self._waiting.popleft()
            is_again = self._sent_before > 0
            if is_again:
                self._sent_before -= 1
            else:
                kept.mid = self._free_mid()
            self._inflight[kept.mid] = kept
            yield pack_publish(kept.topic, kept.payload, mid=kept.mid, retain=kept.retain, dup=is_again)

    def acknowledge(self, mid: int) -> int | None:
        """Return the number of the message with this packet id, and forget it; None: there is none."""
        kept = self._inflight.pop(mid, None)
        return None if kept is None else kept.number

    def _free_mid(self) -> int:
        # Only those under way have an id: what was sent before stands in front of what was not.
        while True:
            self._last_mid = self._last_mid % _MOST_IDS + 1
            if self._last_mid not in self._inflight:
                return self._last_mid
