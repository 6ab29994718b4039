"""Recording: readings, labels and predictions of a site, acknowledged once they are on disk."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

import structlog

from atoll_contract.errors import BrokerUnavailableError, MalformedMessageError, PeerError, Reason
from atoll_contract.messages import Label, decode_prediction, decode_readings
from atoll_contract.topics import LabelTopic, PredictionTopic, ReadingTopic, parse
from atoll_ingest.reader import StreamReader
from atoll_ingest.stream import Stream
from atoll_ingest.topic import without_overlaps
from atoll_link.recording import Kind, Recording, Row
from atoll_link.session import Connected, Delivery, Disconnected, Event, Session, Subscribed

_MAX_UNACKNOWLEDGED: Final = 10
"""Flush at once: a broker may send no more than 20 before the first is acknowledged."""
_QUIET_S: Final = 0.02
"""Flush what waits for acknowledgement when nothing more has come for so long."""
_MAX_UNFLUSHED_S: Final = 1.0
_STEP_S: Final = 0.5
_MAX_DEVICES: Final = 65_536
"""Devices that a stream's reader remembers."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Site:
    """What is recorded.

    Attributes:
        name: Level 3 of the topics of labels and predictions.
        streams: Whose readings.
        trusted_writers: Whose labels count, besides those of a device about itself.
        takes_all_ours: Whether readings of our own dialect are recorded that are of none of ``streams``.
    """

    name: str
    streams: tuple[Stream, ...]
    trusted_writers: frozenset[str] = frozenset()
    takes_all_ours: bool = False

    @property
    def filters(self) -> list[str]:
        """The MQTT subscriptions that this needs."""
        readings = [pattern.filter for stream in self.streams for pattern in stream.patterns]
        kinds = (
            (ReadingTopic, LabelTopic, PredictionTopic)
            if self.takes_all_ours
            else (LabelTopic, PredictionTopic)
        )
        return without_overlaps([*readings, *(kind.any_of(site=self.name) for kind in kinds)])


@dataclass(slots=True)
class Tally:
    """What has been recorded so far.

    Attributes:
        messages: Messages.
        readings: Readings, each of a batch counted.
        labels: Labels.
        predictions: Predictions.
        refused: Messages that were not recorded, by reason.
        details: The last refusal of each reason, for people.
    """

    messages: int = 0
    readings: int = 0
    labels: int = 0
    predictions: int = 0
    refused: Counter[Reason] = field(default_factory=Counter)
    details: dict[Reason, str] = field(default_factory=dict)


def rows_of(
    delivery: Delivery, site: Site, readers: Mapping[str, StreamReader]
) -> tuple[list[Row], int, list[PeerError]]:
    """Return the rows to record for a delivery, how many readings it completes, and what is refused of it.

    Streams may share topics: what one cannot read may be another's reading.

    Args:
        delivery: What arrived.
        site: Where.
        readers: What reads each stream, by its name; they have read what arrived before.

    Raises:
        PeerError: It is none of ``site``, cannot be read, or is not to be trusted.
    """
    rows = []
    readings = 0
    refusals: list[PeerError] = []
    for stream in site.streams:
        if not stream.matches(delivery.topic):
            continue
        if delivery.is_retained and not stream.use_retained:
            raise PeerError("a retained reading of a stream that does not use them", Reason.RETAINED)
        try:
            told = readers[stream.name].read(delivery.topic, delivery.payload, delivery.arrival_ms)
        except PeerError as error:
            refusals.append(error)
            continue
        readings += len(told)
        # A message that completes no reading is needed all the same to read those that follow.
        device, time_ms = (told[0].device, told[0].reading.time_ms) if told else ("", None)
        rows.append(_row(delivery, Kind.READING, stream.name, device, time_ms))
    if not rows and not refusals:
        row, readings = _of_site(delivery, site)
        rows.append(row)
    return rows, readings, refusals


def _of_site(delivery: Delivery, site: Site) -> tuple[Row, int]:
    """Return the row of a message of our own, and how many readings it brings."""
    match parse(delivery.topic):
        case ReadingTopic() as topic if topic.site == site.name and site.takes_all_ours:
            if delivery.is_retained:
                raise PeerError("a retained reading, of no stream that uses them", Reason.RETAINED)
            own = decode_readings(delivery.payload)
            return _row(delivery, Kind.READING, topic.stream, topic.device, own[0].time_ms), len(own)
        case LabelTopic() as topic if topic.site == site.name:
            if topic.source != topic.device and topic.source not in site.trusted_writers:
                message = f"label: {topic.source!r} is not in trusted_writers"
                raise PeerError(message, Reason.UNTRUSTED_WRITER)
            label = Label.decode(delivery.payload)
            time_ms = label.start_ms if label.time_ms is None else label.time_ms
            return _row(delivery, Kind.LABEL, topic.model, topic.device, time_ms), 0
        case PredictionTopic() as topic if topic.site == site.name:
            prediction = decode_prediction(delivery.payload)
            return _row(delivery, Kind.PREDICTION, topic.model, topic.device, prediction.time_ms), 0
        case _:
            raise MalformedMessageError("not a topic that is recorded", Reason.MALFORMED_TOPIC)


def _row(delivery: Delivery, kind: Kind, name: str, device: str, time_ms: float | None) -> Row:
    return Row(
        arrival_ms=delivery.arrival_ms,
        time_ms=time_ms,
        kind=kind,
        name=name,
        device=device,
        topic=delivery.topic,
        payload=delivery.payload,
        qos=delivery.qos,
        is_retained=delivery.is_retained,
        is_duplicate=delivery.is_duplicate,
    )


class Recorder:
    """Moves messages from a session that acknowledges by hand into a recording.

    Attributes:
        tally: What has been recorded so far.
    """

    def __init__(self, session: Session, recording: Recording, site: Site) -> None:
        self.tally = Tally()
        self._session = session
        self._recording = recording
        self._site = site
        self._readers = {stream.name: stream.reader(_MAX_DEVICES) for stream in site.streams}
        self._unacknowledged: list[Delivery] = []
        self._flushed_s = 0.0
        self._last_failure = "no answer from the broker"
        self._unconfirmed: set[str] = set()

    def run(self, is_over: Callable[[], bool], on_step: Callable[[Tally], None]) -> None:
        """Record until ``is_over``, asked at least every half second; all is on disk at the end.

        Raises:
            BrokerUnavailableError: The broker refuses a subscription, or was never reached.
            StorageError: The disk is full or broken. What was not stored is not acknowledged.
        """
        for topic_filter in self._site.filters:
            self._session.subscribe(topic_filter)
        self._flushed_s = time.monotonic()
        while not is_over():
            events = self._session.step(_QUIET_S if self._unacknowledged else _STEP_S)
            for event in events:
                self._take(event)
            now_s = time.monotonic()
            is_quiet = not any(isinstance(event, Delivery) for event in events)
            if (
                len(self._unacknowledged) >= _MAX_UNACKNOWLEDGED
                or (self._unacknowledged and is_quiet)
                or now_s - self._flushed_s >= _MAX_UNFLUSHED_S
            ):
                self._flush(now_s)
            on_step(self.tally)
        self._flush(time.monotonic())
        if self._session.connection == 0:
            raise BrokerUnavailableError(self._last_failure)

    def _take(self, event: Event) -> None:
        match event:
            case Delivery():
                self._record(event)
            case Connected(connection=connection, session_present=is_present):
                self._unconfirmed = set(self._site.filters)
                _log.info("broker.connected", connection=connection, session_present=is_present)
            case Disconnected(detail=detail):
                self._last_failure = detail
                _log.warning("broker.disconnected", detail=detail)
            case Subscribed(topic_filter=topic_filter, refused=True):
                message = (
                    f"the broker refuses the subscription to {topic_filter!r}: allow this user to read it"
                )
                raise BrokerUnavailableError(message, Reason.BROKER_REFUSED)
            case Subscribed(topic_filter=topic_filter):
                self._unconfirmed.discard(topic_filter)
                if not self._unconfirmed:
                    _log.info("recording.subscribed", filters=self._site.filters)
            case _:
                pass

    def _record(self, delivery: Delivery) -> None:
        if delivery.qos > 0:
            self._unacknowledged.append(delivery)
        try:
            rows, readings, refusals = rows_of(delivery, self._site, self._readers)
        except PeerError as error:
            self._refuse(delivery, error)
            return
        for refusal in refusals:
            self._refuse(delivery, refusal)
        for row in rows:
            self._recording.append(row, time.monotonic())
        self.tally.messages += bool(rows)
        self.tally.readings += readings
        self.tally.labels += sum(row.kind is Kind.LABEL for row in rows)
        self.tally.predictions += sum(row.kind is Kind.PREDICTION for row in rows)

    def _refuse(self, delivery: Delivery, error: PeerError) -> None:
        # A message of each reason tells enough; the summary has the counts.
        if error.reason not in self.tally.refused:
            _log.warning(
                "message.refused", topic=delivery.topic, reason=error.reason.value, detail=error.detail[:300]
            )
        self.tally.refused[error.reason] += 1
        self.tally.details[error.reason] = f"{delivery.topic}: {error.detail}"[:300]

    def _flush(self, now_s: float) -> None:
        self._recording.flush(now_s)
        for delivery in self._unacknowledged:
            self._session.acknowledge(delivery)
        self._unacknowledged.clear()
        self._flushed_s = now_s
