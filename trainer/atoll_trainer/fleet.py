"""Follows the fleet over a session."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from atoll_contract.errors import BrokerUnavailableError, Reason
from atoll_contract.topics import MetadataTopic, SlotTopic, StatusTopic
from atoll_link.broker import Broker
from atoll_link.fleet import Fleet
from atoll_link.session import Delivery, Session, Subscribed, wait_connected

_FILTERS: Final = (StatusTopic.any_of(), SlotTopic.any_of(), str(MetadataTopic("timestamp.json")))
_CONNECT_S: Final = 10.0
_QUIET_S: Final = 1.0
"""MQTT has no end of the retained messages: silence for so long is taken for it."""

_SETTLE_S: Final = 60.0


class FleetWatch:
    """Follows the fleet over one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._subscribed: set[str] = set()
        self.fleet = Fleet()

    def settle(self) -> None:
        """Return once what the broker retains has arrived, as far as that can be told.

        Raises:
            BrokerUnavailableError: The broker does not answer, or refuses the subscription.
        """
        deadline = time.monotonic() + _SETTLE_S
        quiet_since = time.monotonic()
        while time.monotonic() - quiet_since < _QUIET_S or self._subscribed != set(_FILTERS):
            if time.monotonic() > deadline:
                if self._subscribed == set(_FILTERS):
                    return  # a lively fleet is never quiet
                raise BrokerUnavailableError("the broker does not answer a subscription")
            if self.step(_QUIET_S / 4):
                quiet_since = time.monotonic()

    def step(self, timeout_s: float) -> bool:
        """Take what arrives within ``timeout_s`` and return whether anything did.

        Raises:
            BrokerUnavailableError: The broker refuses the subscription.
        """
        has_arrived = False
        for event in self._session.step(timeout_s):
            match event:
                case Delivery():
                    self.fleet.take(event.topic, event.payload)
                    has_arrived = True
                case Subscribed(topic_filter, refused=True):
                    message = f"the broker refuses a subscription to {topic_filter}: its access rules"
                    raise BrokerUnavailableError(message, Reason.BROKER_REFUSED)
                case Subscribed():
                    self._subscribed.add(event.topic_filter)
                    has_arrived = True  # what is retained comes after it
                case _:
                    pass
        return has_arrived


@contextmanager
def watch_fleet(broker: Broker, trainer: str) -> Iterator[FleetWatch]:
    """Connect, subscribe to what agents say and see, and yield what follows them.

    Raises:
        BrokerUnavailableError: Not connected in time.
    """
    session = Session(broker, f"{trainer}-fleet-{secrets.token_hex(8)}")
    try:
        for topic_filter in _FILTERS:
            session.subscribe(topic_filter)
        wait_connected(session, _CONNECT_S)
        yield FleetWatch(session)
    finally:
        session.close()
