"""Stepping sessions until a fact holds, with a deadline."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from atoll_link.session import Broker, Delivery, Event, Session, Subscribed, wait_connected

T = TypeVar("T")


def step_until(
    session: Session, fact: Callable[[list[Event]], object], timeout_s: float = 10.0, step_s: float = 0.2
) -> list[Event]:
    """Step ``session`` until ``fact`` of all events so far holds; fail, showing them, when it does not."""
    deadline = time.monotonic() + timeout_s
    seen: list[Event] = []
    while not fact(seen):
        if time.monotonic() > deadline:
            shown = "\n".join(str(event)[:200] for event in seen[-20:])
            raise AssertionError(f"not within {timeout_s} s; {len(seen)} events, the last:\n{shown}")
        seen += session.step(step_s)
    return seen


def has(kind: type[Any], count: int = 1) -> Callable[[list[Event]], bool]:
    """The fact that ``count`` events of this kind have been seen, for one list that only grows."""
    looked_at = found = 0

    def fact(events: list[Event]) -> bool:
        nonlocal looked_at, found
        found += sum(isinstance(event, kind) for event in events[looked_at:])
        looked_at = len(events)
        return found >= count

    return fact


def of_kind(kind: type[T], events: list[Event]) -> list[T]:
    """Return the events of this kind."""
    return [event for event in events if isinstance(event, kind)]


@contextmanager
def connected(
    broker: Broker, client_id: str, *filters: str, qos: int = 1, **options: Any
) -> Iterator[Session]:
    """A session that is connected and whose subscriptions are acknowledged.

    It is waited for longer than a session waits for an answer: the next attempt is to count, too.
    """
    session = Session(broker, client_id, **options)
    try:
        for topic_filter in filters:
            session.subscribe(topic_filter, qos)
        seen = wait_connected(session, 30.0)
        missing = len(filters) - len(of_kind(Subscribed, seen))
        if missing:
            step_until(session, has(Subscribed, missing), timeout_s=30.0)
        yield session
    finally:
        session.close()


def payloads(events: list[Event]) -> list[bytes]:
    """Return the payloads of all deliveries, in their order."""
    return [event.payload for event in events if isinstance(event, Delivery)]
