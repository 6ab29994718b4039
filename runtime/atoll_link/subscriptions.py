"""What is subscribed to, and which requests the broker has not answered yet. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from atoll_link.events import Subscribed


class Subscriptions:
    """The wishes outlast connections, the requests do not.

    A filter that is no longer wanted is known until the broker has forgotten it, too: in a persistent
    session it lives on.
    """

    def __init__(self) -> None:
        self._wanted: dict[str, int] = {}
        self._forgotten: set[str] = set()
        self._leaving: list[str] = []
        self._subscribing: dict[int, tuple[str, ...]] = {}
        self._unsubscribing: dict[int, tuple[str, ...]] = {}
        self._asked_at = 0.0

    @property
    def wanted(self) -> list[tuple[str, int]]:
        """Filters and their QoS."""
        return list(self._wanted.items())

    @property
    def forgotten(self) -> list[str]:
        """Filters that the broker may still know and shall not."""
        return sorted(self._forgotten)

    @property
    def waiting_since(self) -> float | None:
        """When the last SUBSCRIBE left, if one lacks its answer."""
        return self._asked_at if self._subscribing else None

    def want(self, topic_filter: str, qos: int) -> None:
        """Note a wish."""
        self._wanted[topic_filter] = qos
        self._forgotten.discard(topic_filter)
        self._leaving = [leaving for leaving in self._leaving if leaving != topic_filter]

    def forget(self, topic_filter: str) -> bool:
        """Drop a wish; whether there was one."""
        if self._wanted.pop(topic_filter, None) is None:
            return False
        self._forgotten.add(topic_filter)
        return True

    def leave(self, topic_filter: str) -> None:
        """Note a wish that is dropped once the broker has answered for the others."""
        self._leaving.append(topic_filter)

    def take_leaving(self) -> list[str]:
        """Return the wishes to drop now, and drop their note."""
        leaving: list[str] = []
        if not self._subscribing:
            leaving, self._leaving = self._leaving, leaving
        return leaving

    def connect(self, *, session_present: bool) -> None:
        """Begin a connection."""
        self._subscribing.clear()
        self._unsubscribing.clear()
        if not session_present:
            self._forgotten.clear()

    def ask(self, mid: int, topic_filters: Iterable[str], now: float) -> None:
        """Note that a SUBSCRIBE left."""
        self._subscribing[mid] = tuple(topic_filters)
        self._asked_at = now

    def answer(self, mid: int, refusals: Iterable[str | None]) -> list[Subscribed]:
        """Take the answer to a SUBSCRIBE: for each filter why it was refused, or None."""
        return [
            Subscribed(topic_filter, refused=refusal is not None, detail=refusal or "")
            for topic_filter, refusal in zip(self._subscribing.pop(mid, ()), refusals, strict=False)
        ]

    def ask_to_forget(self, mid: int, topic_filters: Iterable[str]) -> None:
        """Note that an UNSUBSCRIBE left."""
        self._unsubscribing[mid] = tuple(topic_filters)

    def answer_forgotten(self, mid: int) -> None:
        """Take the answer to an UNSUBSCRIBE."""
        self._forgotten.difference_update(self._unsubscribing.pop(mid, ()))
