"""The way to the broker: publishes with a bounded number of messages in flight.

Readings and labels go through :class:`Uplink`, which waits for room, for the connection, and in the
end for every acknowledgement, and gives up when nothing moves for too long. All devices share one
session; :class:`atoll_sim.swarm.Swarm`, with a connection per device, can take its place.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

import structlog

from atoll_contract.errors import BrokerUnavailableError
from atoll_contract.topics import LabelTopic, ReadingTopic
from atoll_link.session import (
    Connected,
    Delivery,
    Disconnected,
    Event,
    Published,
    Refused,
    Session,
    Subscribed,
)
from atoll_link.stop import Stop

_STEP_S: Final = 0.5
_LAST_WAIT_S: Final = 5.0
"""How long acknowledgements are waited for once the process was told to stop."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


def ignore(_delivery: Delivery) -> None:
    """Do nothing."""
    return


class Uplink:
    """Publishes over one session, of which it is the only owner from now on.

    Args:
        session: Not yet connected.
        stop: Ends every wait.
        window: Most messages in flight; the session must allow as many.
        give_up_after_s: Longest time without a connection, or without an acknowledgement that is due.
        on_delivery: Is told of every message that arrives while this waits.
    """

    def __init__(
        self,
        session: Session,
        stop: Stop,
        *,
        window: int,
        give_up_after_s: float = 60.0,
        on_delivery: Callable[[Delivery], None] = ignore,
    ) -> None:
        self.acknowledged = 0
        self.lost = 0
        self._session = session
        self._stop = stop
        self._window = window
        self._give_up_after_s = give_up_after_s
        self._on_delivery = on_delivery
        self._in_flight: dict[int, int] = {}
        self._moved = time.monotonic()
        self._last_failure = "no answer"
        self._last_refusal = ""

    @property
    def in_flight(self) -> int:
        """How many messages are not acknowledged, or with QoS 0 not sent."""
        return len(self._in_flight)

    def connect(self) -> bool:
        """Wait for the connection; False: told to stop meanwhile.

        Raises:
            BrokerUnavailableError: Given up.
        """
        self._moved = time.monotonic()
        return self._wait_until(lambda: self._session.is_connected)

    def hold(self, writer: str, *, is_offline: bool) -> None:
        """Do nothing: what a device is to keep it does not publish, and the connection is everybody's."""

    def publish(
        self,
        topic: ReadingTopic | LabelTopic | str,
        payload: bytes,
        qos: int,
        writer: str = "",  # noqa: ARG002 - all share one session
    ) -> bool:
        """Publish as soon as there is a connection and room in flight; False: told to stop meanwhile.

        Raises:
            BrokerUnavailableError: Given up.
        """
        mid = None
        while mid is None:
            if not self._wait_until(self._has_room):
                return False
            mid = self._session.publish(str(topic), payload, qos=qos)
            if mid is None:  # the connection broke just now, or the socket takes no more
                self._step(_STEP_S)
        self._in_flight[mid] = qos
        return True

    def rest_until(self, due: float) -> bool:
        """Serve the connection until ``due`` on the monotonic clock; False: told to stop meanwhile.

        Raises:
            BrokerUnavailableError: Given up.
        """
        while not self._stop.is_requested:
            rest_s = due - time.monotonic()
            self._step(min(max(rest_s, 0.0), _STEP_S))
            if rest_s <= 0:
                return True
        return False

    def wait_for(self, fact: Callable[[], bool], due: float) -> bool:
        """Serve the connection until ``fact`` or, on the monotonic clock, ``due``; whether ``fact`` holds.

        Raises:
            BrokerUnavailableError: Given up.
        """
        while not fact():
            rest_s = due - time.monotonic()
            if rest_s <= 0 or self._stop.is_requested:
                return False
            self._step(min(rest_s, _STEP_S))
        return True

    def settle(self) -> None:
        """Wait until nothing is in flight; once told to stop, for a few seconds at most.

        Raises:
            BrokerUnavailableError: Given up.
        """
        last_wait_ends = math.inf
        while self._in_flight:
            now = time.monotonic()
            if self._stop.is_requested:
                last_wait_ends = min(last_wait_ends, now + _LAST_WAIT_S)
                if now >= last_wait_ends or not self._session.is_connected:
                    return
            self._step(_STEP_S)

    def _has_room(self) -> bool:
        return self._session.is_connected and len(self._in_flight) < self._window

    def _wait_until(self, is_true: Callable[[], bool]) -> bool:
        while not is_true():
            if self._stop.is_requested:
                return False
            self._step(_STEP_S)
        return True

    def _step(self, timeout_s: float) -> None:
        for event in self._session.step(timeout_s):
            self._note(event)
        now = time.monotonic()
        if self._session.is_connected and not self._in_flight:
            self._moved = now
        elif now - self._moved > self._give_up_after_s:
            connection = "no acknowledgement" if self._session.is_connected else "no connection"
            raise BrokerUnavailableError(
                f"{connection} for {self._give_up_after_s:g} s, {self.in_flight} messages in flight; "
                f"last failure: {self._last_failure}"
            )

    def _note(self, event: Event) -> None:
        match event:
            case Published(mid):
                if self._in_flight.pop(mid, 0):
                    self.acknowledged += 1
                self._moved = time.monotonic()
            case Refused(mid, detail):
                self.lost += self._in_flight.pop(mid, None) is not None
                self._moved = time.monotonic()
                if detail != self._last_refusal:  # once tells enough
                    self._last_refusal = detail
                    _log.error("publication.refused", detail=detail)
            case Delivery():
                self._on_delivery(event)
            case Connected(connection):
                _log.info("broker.connected", connection=connection)
            case Disconnected(detail, was_connected):
                self._last_failure = detail
                _log.warning(
                    "broker.disconnected",
                    detail=detail,
                    was_connected=was_connected,
                    in_flight=self.in_flight,
                )
                self._forget_unsent()
            case Subscribed(topic_filter, refused=True):
                _log.error("subscription.refused", topic=topic_filter)
            case Subscribed():
                pass

    def _forget_unsent(self) -> None:
        """Count as lost what was to be sent with QoS 0: paho forgets it at the next connect."""
        unsent = [mid for mid, qos in self._in_flight.items() if qos == 0]
        for mid in unsent:
            del self._in_flight[mid]
        self.lost += len(unsent)
