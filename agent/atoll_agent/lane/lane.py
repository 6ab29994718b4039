"""The lane itself: socket -> decode -> window -> model -> encode -> send, batch in, batch out.

One thread owns the wire, the windows and the models. The control plane speaks to it only through
:meth:`Lane.swap`, :meth:`Lane.stop` and the reports that it reads.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from typing import Final

import structlog

from atoll_agent.lane.answering import Answering, Origin
from atoll_agent.lane.ledger import Entry, Ledger
from atoll_agent.lane.repeat import Repeats
from atoll_agent.ports import LaneReport, Wire
from atoll_contract.errors import MalformedMessageError, PeerError, Reason
from atoll_contract.messages import Reading
from atoll_infer.predictor import Predictor
from atoll_ingest.stream import Stream
from atoll_link.session import Connected, Delivery, Disconnected, Event, Published, Subscribed

log = structlog.get_logger()

MAX_OUTSTANDING: Final = 20_000
"""Predictions on their way without PUBACK. Beyond that they wait here, and a QoS 0 reading is refused
as overload. A QoS 1 reading is not: the broker stops by itself at its in-flight limit, which is
65,535 at the most."""
MAX_ROUTES: Final = 65_536
_STEP_S: Final = 1.0
_REPORT_EVERY_NS: Final = 500_000_000
_STOP_AFTER_S: Final = 5.0


class Lane:
    """Answers the readings of all streams with the models that are swapped in."""

    def __init__(
        self,
        wire: Wire,
        streams: Sequence[Stream],
        stream_of: Mapping[str, str],
        *,
        site: str,
        agent: str,
        max_devices: int,
    ) -> None:
        self._wire = wire
        self._streams = {stream.name: stream for stream in streams}
        self._stream_of = dict(stream_of)
        self._site = site
        self._agent = agent
        self._max_devices = max_devices
        self._answering: dict[str, dict[str, Answering]] = {stream.name: {} for stream in streams}
        self._routes: dict[str, list[tuple[Stream, str]]] = {}
        self._retained: dict[tuple[str, str], int] = {}
        self._refused_filters: set[str] = set()
        self._ledger = Ledger()
        self._repeats = Repeats(max_devices)
        self._orders: deque[Callable[[], None]] = deque()
        self._stopping = threading.Event()
        self._counts: Counter[str] = Counter()
        self._refusals: Counter[tuple[str, Reason]] = Counter()
        self._last_refusal: dict[tuple[str, Reason], str] = {}
        self._backlog: deque[tuple[str, bytes, Entry]] = deque()
        self._is_connected = False
        self._turns = 0
        self._reported_ns = 0
        self.report = LaneReport()

    # Called by other threads

    def swap(self, predictor: Predictor, *, has_restarted: bool) -> Future[None]:
        """Let ``predictor`` answer for its model from the next reading on; done when it does.

        The windows of its predecessor are taken over. ``has_restarted``: it was the champion before
        this process began, so that predictions are missing before its first window.
        """
        answering = Answering(
            predictor,
            site=self._site,
            agent=self._agent,
            max_devices=self._max_devices,
            has_restarted=has_restarted,
        )
        done: Future[None] = Future()

        def order() -> None:
            if not done.set_running_or_notify_cancel():
                return
            models = self._answering[self._stream_of[answering.model]]
            if (champion := models.get(answering.model)) is not None:
                answering.succeed(champion)
            models[answering.model] = answering
            self._counts["swaps"] += 1
            done.set_result(None)

        self._orders.append(order)
        self._wire.wake()
        return done

    def stop(self) -> None:
        """End the lane: no new readings, outstanding predictions get 5 s to be acknowledged."""
        self._stopping.set()
        self._wire.wake()

    # The lane's thread

    def run(self) -> None:
        """Work until stopped."""
        while not self._stopping.is_set():
            self.turn(_STEP_S)
        deadline = time.monotonic() + _STOP_AFTER_S
        while (
            (self._ledger.outstanding or self._backlog) and self._is_connected and time.monotonic() < deadline
        ):
            self.turn(0.1)
        self._make_report(time.monotonic_ns())
        self._wire.close()

    def turn(self, timeout_s: float) -> None:
        """Do once all that is due: orders, what arrived, predictions out, acknowledgements out."""
        while self._orders:
            self._orders.popleft()()
        for event in self._wire.step(timeout_s):
            self._heed(event)
        self._send()
        due = self._ledger.due()
        if due:
            self._wire.acknowledge(due)
            self._counts["readings_acknowledged"] += len(due)
        self._turns += 1
        now_ns = time.monotonic_ns()
        if now_ns - self._reported_ns > _REPORT_EVERY_NS:
            self._make_report(now_ns)

    def _heed(self, event: Event) -> None:
        match event:
            case Delivery():
                self._take(event)
            case Published(mid):
                self._ledger.settle(mid)
                self._counts["predictions_acknowledged"] += 1
            case Connected(_, session_present):
                self._connected(session_present=session_present)
            case Disconnected():
                self._disconnected(event)
            case Subscribed(topic_filter, refused):
                self._refused_filters.discard(topic_filter)
                if refused:
                    self._refused_filters.add(topic_filter)
                    log.error("subscription.refused", topic_filter=topic_filter, plane="lane")

    def _take(self, delivery: Delivery) -> None:
        if self._stopping.is_set():
            return  # not acknowledged: the broker keeps it for the next start
        entry = self._ledger.arrive(delivery)
        if entry is None:
            self._counts["redelivered"] += 1
            return
        self._counts["messages"] += 1
        if delivery.qos == 0 and len(self._backlog) + self._ledger.outstanding >= MAX_OUTSTANDING:
            self._refuse("lane", Reason.OVERLOAD, "more readings than the broker takes predictions")
            return
        try:
            routes = self._route(delivery.topic)
        except MalformedMessageError as error:
            self._refuse("lane", error.reason, error.detail)
            return
        for stream, device in routes:
            self._answer(stream, device, delivery, entry)

    def _route(self, topic: str) -> list[tuple[Stream, str]]:
        routes = self._routes.get(topic)
        if routes is None:
            routes = [
                (stream, device)
                for stream in self._streams.values()
                if (device := stream.device(topic)) is not None
            ]
            if not routes:
                raise MalformedMessageError(f"topic {topic!r} belongs to no stream", Reason.MALFORMED_TOPIC)
            if len(self._routes) >= MAX_ROUTES:
                self._routes.clear()
            self._routes[topic] = routes
        return routes

    def _answer(self, stream: Stream, device: str, delivery: Delivery, entry: Entry) -> None:
        if delivery.is_retained and not self._is_wanted_retained(stream, delivery):
            return
        try:
            readings = stream.dialect.decode(delivery.payload)
        except MalformedMessageError as error:
            self._refuse(stream.name, error.reason, f"{delivery.topic}: {error.detail}")
            return
        origin = Origin(stream.name, device, delivery.arrival_ms, delivery.arrival_ns, delivery.is_retained)
        for reading in readings:
            self._answer_reading(reading, origin, entry)

    def _is_wanted_retained(self, stream: Stream, delivery: Delivery) -> bool:
        """Whether a retained reading is to be used: once, though every connect brings it again."""
        if not stream.use_retained:
            self._refuse(stream.name, Reason.RETAINED, f"a retained reading on {delivery.topic}")
            return False
        key, digest = (stream.name, delivery.topic), hash(delivery.payload)
        if self._retained.get(key) == digest:
            self._counts["repeated"] += 1
            return False
        if len(self._retained) >= MAX_ROUTES:
            self._retained.clear()
        self._retained[key] = digest
        return True

    def _answer_reading(self, reading: Reading, origin: Origin, entry: Entry) -> None:
        self._counts["readings"] += 1
        if (
            reading.boot is not None
            and reading.seq is not None
            and self._repeats.is_repeat(origin.stream, origin.device, reading.boot, reading.seq)
        ):
            self._counts["repeated"] += 1
            return
        models = self._answering[origin.stream]
        if not models:
            self._counts["readings_without_model"] += 1
        for answering in models.values():
            try:
                outgoing = answering.answer(reading, origin)
            except PeerError as error:
                self._refuse(answering.model, error.reason, f"{origin.device}: {error.detail}")
                continue
            if outgoing is not None:
                self._ledger.promise(entry)
                self._backlog.append((*outgoing, entry))

    def _send(self) -> None:
        room = min(len(self._backlog), MAX_OUTSTANDING - self._ledger.outstanding)
        if room <= 0:
            return
        batch = [self._backlog.popleft() for _ in range(room)]
        mids = self._wire.send([(topic, payload) for topic, payload, _ in batch])
        unsent = []
        for item, mid in zip(batch, mids, strict=True):
            if mid is None:
                unsent.append(item)  # the wire keeps no more: again when it does
            else:
                self._counts["predictions"] += 1
                self._ledger.sent(item[2], mid)
        self._backlog.extendleft(reversed(unsent))

    def _refuse(self, where: str, reason: Reason, detail: str) -> None:
        key = (where, reason)
        self._refusals[key] += 1
        self._last_refusal[key] = detail[:200]
        log.debug("reading.refused", where=where, reason=reason.value, detail=detail[:200])

    def _connected(self, *, session_present: bool) -> None:
        self._is_connected = True
        self._counts["connections"] += 1
        self._ledger.reconnect(session_present=session_present)
        log.info("lane.connected", session_present=session_present)
        self._make_report(time.monotonic_ns())

    def _disconnected(self, event: Disconnected) -> None:
        self._is_connected = False
        if event.was_connected:
            log.warning("lane.disconnected", detail=event.detail)
        elif event.was_refused:
            log.warning("broker.refused", detail=event.detail, plane="lane")
        self._make_report(time.monotonic_ns())

    def _make_report(self, now_ns: int) -> None:
        self._reported_ns = now_ns
        counts = dict(self._counts)
        counts["devices"] = sum(
            answering.devices for models in self._answering.values() for answering in models.values()
        )
        counts["windows_forgotten"] = sum(
            answering.forgotten for models in self._answering.values() for answering in models.values()
        )
        self.report = LaneReport(
            self._is_connected,
            counts,
            dict(self._refusals),
            dict(self._last_refusal),
            self._turns,
            tuple(sorted(self._refused_filters)),
        )
