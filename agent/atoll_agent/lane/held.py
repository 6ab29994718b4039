"""Readings at QoS 1 that wait unread until there is room for their predictions: one may bring thousands."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

from atoll_link.session import Connected, Delivery, Event


class Held(deque[Delivery]):
    """They, oldest first. The broker stops at its limit in flight, the session at so many bytes."""

    def hold(self, events: Sequence[Event]) -> list[Event]:
        """Hold back what arrived at QoS 1, and return the rest of ``events``."""
        others: list[Event] = []
        for event in events:
            if isinstance(event, Delivery) and event.qos > 0:
                self.append(event)
                continue
            if isinstance(event, Connected) and event.session_present:
                self.clear()  # they come again
            others.append(event)
        return others
