"""One request for retained topics: what was asked for, what has arrived, and how long to wait.

MQTT cannot say "not found", so a topic counts as absent once the broker has confirmed the
subscription and nothing that was asked for has arrived for a while.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

from atoll_contract.errors import BrokerUnavailableError, Reason
from atoll_link.session import Connected, Delivery, Disconnected, Session, Subscribed

_MOST_S: Final = 120.0
"""So long a message may take to arrive, a byte now and then."""
_MAX_LOSSES: Final = 3
"""A connection that breaks more often than this is broken by what we ask or send."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """A topic to fetch.

    Attributes:
        topic: Exact topic.
        max_bytes: A longer payload is dropped.
    """

    topic: str
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Fetched:
    """What a topic holds.

    Attributes:
        topic: The topic asked for.
        payload: Its bytes; None when there are none or too many.
        size_bytes: How many bytes arrived, also of a payload that was dropped.
    """

    topic: str
    payload: bytes | None
    size_bytes: int = 0

    @property
    def is_oversized(self) -> bool:
        """Whether there was a payload, longer than allowed."""
        return self.payload is None and self.size_bytes > 0


class Request:
    """Topics that were asked for and have not been answered."""

    def __init__(self, session: Session, timeout_s: float, *, only_retained: bool) -> None:
        self._session = session
        self._only_retained = only_retained
        self._confirmed: set[str] = set()
        self.asked: dict[str, int] = {}
        self.patience = Patience(timeout_s)

    def ask(self, wanted: Wanted) -> None:
        """Subscribe to a topic."""
        self.asked[wanted.topic] = wanted.max_bytes
        self._confirmed.discard(wanted.topic)
        self._session.subscribe(wanted.topic)

    def step(self) -> list[Fetched]:
        """Return what has arrived, or once time is up that nothing has.

        Raises:
            BrokerUnavailableError: There is no connection, it breaks again and again (also since the broker
                does not answer a subscription), or the broker refuses one.
        """
        answers = []
        for event in self._session.step(self.patience.remaining_s):
            match event:
                case Delivery() if event.topic in self.asked:
                    if event.is_retained or not self._only_retained:
                        answers.append(self._answer(event.topic, event.payload))
                    else:  # published just now: ask again whether it was kept
                        self._session.unsubscribe(event.topic)
                        self._session.subscribe(event.topic)
                case Subscribed() if event.topic_filter in self.asked:
                    self._confirm(event)
                case Connected():
                    self._confirmed.clear()
                    self.patience.extend()
                case Disconnected() if self.asked and self.patience.is_lost_with(event):
                    raise _unreadable(next(iter(self.asked)), event.detail)
                case _:
                    pass
        if answers or self.patience.remaining_s > 0 or self.patience.is_extended_by(self._session.grew_at):
            return answers
        if not self._session.is_connected:
            raise BrokerUnavailableError(self.patience.last_failure)
        if self.asked.keys() <= self._confirmed:
            return [self._answer(topic, b"") for topic in list(self.asked)]
        self.patience.extend()  # the session leaves a broker that never confirms them
        return []

    def _confirm(self, event: Subscribed) -> None:
        if event.refused:
            raise _unreadable(event.topic_filter, "the broker refuses the subscription")
        if event.topic_filter not in self._confirmed:
            self._confirmed.add(event.topic_filter)
            self.patience.extend()

    def _answer(self, topic: str, payload: bytes) -> Fetched:
        max_bytes = self.asked.pop(topic)
        self._session.unsubscribe(topic)
        return Fetched(topic, payload if 0 < len(payload) <= max_bytes else None, len(payload))


class Patience:
    """How long to wait for the next sign of progress, and how many broken connections to bear."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self.last_failure = "no answer from the broker"
        self.renew()

    @property
    def remaining_s(self) -> float:
        """How long to wait still."""
        return max(0.0, self._deadline - time.monotonic())

    def renew(self) -> None:
        """Start again: there was progress."""
        self._losses = 0
        self._end = time.monotonic() + max(_MOST_S, self._timeout_s)
        self.extend()

    def extend(self) -> None:
        """Wait as long again; broken connections still count."""
        self._deadline = time.monotonic() + self._timeout_s

    def is_extended_by(self, grew_at: float | None) -> bool:
        """Whether a message has grown meanwhile, on a slow line, so that waiting on makes sense."""
        if grew_at is None or grew_at < self._deadline - self._timeout_s or time.monotonic() >= self._end:
            return False
        self.extend()
        return True

    def is_lost_with(self, event: Disconnected) -> bool:
        """Whether ``event`` is one broken connection too many."""
        self.last_failure = event.detail
        self._losses += event.was_connected
        return self._losses > _MAX_LOSSES


def _unreadable(topic: str, why: str) -> BrokerUnavailableError:
    message = f"{topic} cannot be read: {why}; give this user the right to subscribe to it"
    return BrokerUnavailableError(message, Reason.BROKER_REFUSED)
