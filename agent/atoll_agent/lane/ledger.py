"""Which readings wait for which predictions: the rule of acknowledgement.

A QoS 1 reading is acknowledged when every prediction it completed has its PUBACK or its place in the
spool, or when it completed none. Acknowledgements leave in order of arrival (MQTT-4.6.0-2). After a
reconnect the broker sends again what was not acknowledged, with the DUP flag and the packet id that it
had (MQTT-4.4.0-1): such a reading takes the place of the first one and is not answered a second time.
The id belongs to the key, since a broker may set DUP on a new reading that it wrote into a connection
which was dead already (docs/decisions/0005-redelivery.md).
"""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

from atoll_link.session import Delivery

MAX_REMEMBERED: Final = 16_384
"""Acknowledged readings of a connection that are recognised when their acknowledgement was lost."""


class Entry(msgspec.Struct, gc=False):
    """One reading at QoS 1.

    Attributes:
        outstanding: How many of its predictions lack both a PUBACK and a place in the spool.
    """

    outstanding: int = 0


class Resent(Entry, gc=False):
    """Stands for one prediction that comes from the spool.

    Attributes:
        is_refused: Whether the broker refused it.
        is_put_off: Whether it may take it later.
    """

    is_refused: bool = False
    is_put_off: bool = False


class Ledger:
    """Keeps the order of arrival of the readings at QoS 1. Used by one thread."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[Delivery, Entry]] = deque()
        self._by_prediction: dict[int, Entry] = {}
        self._acknowledged: deque[int] = deque(maxlen=MAX_REMEMBERED)
        self._previous: dict[int, Entry] = {}

    @property
    def outstanding(self) -> int:
        """How many predictions have left and lack a PUBACK."""
        return len(self._by_prediction)

    @property
    def waiting(self) -> int:
        """How many readings lack their acknowledgement."""
        return len(self._waiting)

    def arrive(self, delivery: Delivery) -> Entry | None:
        """Enter a reading; return None if it is one that an earlier connection delivered."""
        if delivery.is_duplicate and (known := self._previous.pop(_key(delivery), None)) is not None:
            self._waiting.append((delivery, known))
            return None
        entry = Entry()
        self._waiting.append((delivery, entry))
        return entry

    def sent(self, entry: Entry, mid: int) -> None:
        """Note that a prediction which ``entry`` waits for left with this message id."""
        self._by_prediction[mid] = entry

    def settle(self, mid: int) -> bool:
        """Note the PUBACK for a prediction; False: it is of none that was sent at QoS 1."""
        entry = self._by_prediction.pop(mid, None)
        if entry is None:
            return False
        entry.outstanding -= 1
        return True

    def refuse(self, mid: int, *, is_passing: bool) -> None:
        """Note that the broker does not take a prediction, not for now at least: nothing waits for it."""
        entry = self._by_prediction.get(mid)
        if isinstance(entry, Resent):
            entry.is_refused, entry.is_put_off = True, is_passing
        self.settle(mid)

    def numbers(self) -> list[int]:
        """Return the message ids of predictions without PUBACK, oldest first; not those from the spool."""
        return [mid for mid, entry in self._by_prediction.items() if not isinstance(entry, Resent)]

    def take_back(self, mid: int) -> Entry:
        """Forget that a prediction was sent: it was taken back from the wire."""
        return self._by_prediction.pop(mid)

    def due(self) -> list[Delivery]:
        """Return the readings to acknowledge now, in order of arrival."""
        ready = []
        waiting = self._waiting
        while waiting and waiting[0][1].outstanding == 0:
            delivery, _ = waiting.popleft()
            self._acknowledged.append(_key(delivery))
            ready.append(delivery)
        return ready

    def reconnect(self, *, session_present: bool) -> None:
        """Begin a new connection: earlier deliveries can no longer be acknowledged on it."""
        if session_present:
            # What waits for redelivery from still earlier connections stays.
            self._previous.update((key, Entry()) for key in self._acknowledged)
            self._previous.update((_key(delivery), entry) for delivery, entry in self._waiting)
            while len(self._previous) > MAX_REMEMBERED + len(self._waiting):
                del self._previous[next(iter(self._previous))]
        else:
            # The broker forgot this client: nothing will be sent again.
            self._previous.clear()
        self._acknowledged.clear()
        self._waiting.clear()


def _key(delivery: Delivery) -> int:
    # A 64-bit hash stands for topic and payload, which may be large.
    return hash((delivery.mid, delivery.topic, delivery.payload))
