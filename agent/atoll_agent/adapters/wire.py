"""The lane's connection on a paho session: a persistent one, acknowledged by hand."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from atoll_link.session import Broker, Delivery, Event, Session

_MAX_INFLIGHT: Final = 1000


class PahoWire:
    """Subscribes to ``topic_filters`` at QoS 1 and hands over batches; see ``ports.Wire``.

    ``left_filters`` are those of earlier settings, which the broker is told to forget.
    """

    def __init__(
        self, broker: Broker, client_id: str, topic_filters: Iterable[str], left_filters: Iterable[str] = ()
    ) -> None:
        self._session = Session(
            broker, client_id, is_clean=False, acknowledges_by_hand=True, max_inflight=_MAX_INFLIGHT
        )
        for topic_filter in topic_filters:
            self._session.subscribe(topic_filter, qos=1)
        for topic_filter in left_filters:
            self._session.subscribe(topic_filter)
            self._session.unsubscribe(topic_filter)

    def step(self, timeout_s: float) -> Sequence[Event]:
        """Return what happened, waiting up to ``timeout_s`` for something to happen."""
        return self._session.step(timeout_s)

    def send(self, predictions: Sequence[tuple[str, bytes]]) -> Sequence[int | None]:
        """Queue predictions; the next step writes them."""
        return [self._session.publish(topic, payload, qos=1) for topic, payload in predictions]

    def acknowledge(self, deliveries: Sequence[Delivery]) -> None:
        """Queue acknowledgements in this order; the next step writes them."""
        for delivery in deliveries:
            self._session.acknowledge(delivery)

    def wake(self) -> None:
        """Make a waiting step return; any thread may call it."""
        self._session.wake()

    def close(self) -> None:
        """Write what is queued and end the connection cleanly."""
        self._session.close()
