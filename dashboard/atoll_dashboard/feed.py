"""The connection to the broker: a thread that feeds the scene."""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, Self

import structlog

from atoll_contract.errors import BrokerUnavailableError, MalformedMessageError
from atoll_contract.topics import (
    DecisionTopic,
    DriftTopic,
    LabelTopic,
    PredictionTopic,
    ReadingTopic,
    SlotTopic,
    StatusTopic,
)
from atoll_dashboard.asking import Asking
from atoll_dashboard.scene import Scene
from atoll_ingest.stream import Stream
from atoll_ingest.topic import without_overlaps
from atoll_link.broker import Broker
from atoll_link.session import Connected, Delivery, Disconnected, Event, Refused, Session, Subscribed

_STEP_S: Final = 0.5
_MOST_OUTGOING: Final = 16
_JOIN_S: Final = 10.0

log: structlog.stdlib.BoundLogger = structlog.get_logger()


def filters(site: str | None, foreign: Sequence[Stream]) -> list[tuple[str, int]]:
    """Return what to subscribe to, with the QoS: what only draws a line needs none.

    Args:
        site: The one that is shown; None: all.
        foreign: Streams on other topics.
    """
    levels = {} if site is None else {"site": site}
    drawn = [kind.any_of(**levels) for kind in (PredictionTopic, ReadingTopic, LabelTopic)]
    drawn += [pattern.filter for stream in foreign for pattern in stream.patterns]
    told = [kind.any_of(**levels) for kind in (StatusTopic, SlotTopic, DriftTopic, DecisionTopic)]
    return [(name, 0) for name in without_overlaps(drawn)] + [(name, 1) for name in told]


class Feed:
    """Feeds a scene from a broker. A context with a thread of its own.

    Args:
        broker: Where the broker is.
        writer: The id of this dashboard.
        scene: What is fed.
        asking: Requests to the trainer.
        filters: What to subscribe to.
        on_failure: Called from the thread when a bug has ended it.

    Attributes:
        failure: The bug.
        steps: Grows all the time, until the thread ends or hangs.
    """

    def __init__(
        self,
        broker: Broker,
        writer: str,
        scene: Scene,
        asking: Asking,
        filters: Sequence[tuple[str, int]],
        on_failure: Callable[[], None],
    ) -> None:
        self._session = Session(broker, f"{writer}-{secrets.token_hex(8)}")
        self._broker = str(broker)
        self._scene = scene
        self._asking = asking
        self._filters = filters
        self._on_failure = on_failure
        self._publication: set[str] = set()
        self._outgoing: deque[tuple[str, bytes]] = deque()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self.failure: BaseException | None = None
        self.steps = 0

    def __enter__(self) -> Self:
        for topic_filter, qos in self._filters:
            self._session.subscribe(topic_filter, qos)
        if self._asking.topic_filter is not None:
            self._session.subscribe(self._asking.topic_filter)
        self._follow_publication()
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stopping.set()
        self._session.wake()
        self._thread.join(_JOIN_S)

    def publish(self, topic: str, payload: bytes) -> None:
        """Send a request; may be called from any thread.

        Raises:
            BrokerUnavailableError: There is no connection, or too much waits to be sent.
        """
        if not self._session.is_connected:
            raise BrokerUnavailableError("there is no connection to the broker now: nothing was asked")
        if len(self._outgoing) >= _MOST_OUTGOING:
            raise BrokerUnavailableError("too many requests wait to be sent")
        self._outgoing.append((topic, payload))
        self._session.wake()

    def _run(self) -> None:
        try:
            while not self._stopping.is_set():
                while self._outgoing:
                    topic, payload = self._outgoing.popleft()
                    self._session.publish(topic, payload)
                events = self._session.step(_STEP_S)
                self.steps += 1
                if events:
                    with self._scene.lock:
                        for event in events:
                            self._heed(event)
                    self._follow_publication()
            self._session.close()
        except BaseException as error:  # noqa: BLE001 - a bug here must end the process, not only this thread
            self.failure = error
            self._on_failure()

    def _heed(self, event: Event) -> None:
        match event:
            case Delivery():
                self._take(event)
            case Connected(connection=connection):
                self._scene.connect(time.time() * 1e3)
                log.info("broker.connected", connection=connection)
            case Disconnected(detail, was_connected, was_refused):
                self._scene.disconnect(time.time() * 1e3, detail)
                if was_connected:
                    log.warning("broker.disconnected", detail=detail)
                elif was_refused:
                    log.warning("broker.refused", detail=detail, plane="dashboard")
                else:
                    log.info("broker.unavailable", detail=detail)
            case Subscribed(topic_filter, refused=True, detail=detail):
                self._scene.refused_filters[topic_filter] = detail
                log.error("subscription.refused", topic_filter=topic_filter, plane="dashboard")
            case Subscribed(topic_filter):
                self._scene.refused_filters.pop(topic_filter, None)
            case Refused(_, detail):
                log.error("publication.refused", detail=detail, plane="dashboard")
            case _:
                pass

    def _take(self, delivery: Delivery) -> None:
        if not self._asking.matches(delivery.topic):
            self._scene.take(delivery)
            return
        try:
            asked = self._asking.take(delivery.payload)
        except MalformedMessageError as error:
            log.warning("response.malformed", topic=delivery.topic, detail=error.detail)
            return
        if asked is not None and asked.response is not None:
            log.info(
                "request.answered",
                request=asked.name,
                model=asked.model,
                release=asked.release,
                is_done=asked.response.done,
                detail=asked.response.detail,
            )

    def _follow_publication(self) -> None:
        """Subscribe to the files of the metadata that have come to light, and leave the former ones."""
        wanted = set(self._scene.publication.topics)
        if wanted == self._publication:
            return
        for topic in wanted - self._publication:
            self._session.subscribe(topic)
        for topic in self._publication - wanted:
            self._session.unsubscribe(topic)
        self._publication = wanted
