"""What a broker carries, recorded as the trainer's recorder does: readings, labels and predictions."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final

import structlog

from atoll_contract.errors import BrokerUnavailableError, MalformedMessageError, PeerError, Reason
from atoll_contract.messages import Label, decode_prediction, decode_readings
from atoll_contract.topics import LabelTopic, PredictionTopic, ReadingTopic, parse
from atoll_ingest.stream import Stream
from atoll_ingest.topic import without_overlaps
from atoll_link.recording import Kind, Recording, Row
from atoll_link.session import Connected, Delivery, Disconnected, Event, Session, Subscribed

_FLUSH_S: Final = 1.0
_STEP_S: Final = 0.5
_MAX_DEVICES: Final = 65_536

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


@dataclass(slots=True)
class CaptureCounts:
    """What was recorded.

    Attributes:
        readings: Messages with readings.
        labels: Labels.
        predictions: Predictions.
        refused: Messages that were not, by reason.
    """

    readings: int = 0
    labels: int = 0
    predictions: int = 0
    refused: Counter[str] = field(default_factory=Counter)

    @property
    def messages(self) -> int:
        """All that were recorded."""
        return self.readings + self.labels + self.predictions


class Capture:
    """Records what arrives on a session.

    A message is acknowledged as it arrives and is on disk within a second: who must not lose one uses
    ``atoll-trainer record``.

    Args:
        session: Not yet connected.
        recording: Entered.
        site: Whose readings, labels and predictions.
        streams: Streams of other dialects; all readings of our own are recorded anyway.
    """

    def __init__(self, session: Session, recording: Recording, site: str, streams: Sequence[Stream]) -> None:
        self.counts = CaptureCounts()
        self._session = session
        self._recording = recording
        self._site = site
        self._streams = [(stream, stream.reader(_MAX_DEVICES)) for stream in streams]
        self._last_failure = "no answer from the broker"
        self._unconfirmed: set[str] = set()

    @property
    def filters(self) -> list[str]:
        """What is subscribed to."""
        foreign = [pattern.filter for stream, _ in self._streams for pattern in stream.patterns]
        ours = [kind.any_of(site=self._site) for kind in (ReadingTopic, LabelTopic, PredictionTopic)]
        return without_overlaps([*foreign, *ours])

    def run(self, is_over: Callable[[], bool]) -> None:
        """Record until ``is_over``, asked at least every half second; all is on disk at the end.

        Raises:
            BrokerUnavailableError: It refuses a subscription, or was never reached.
            StorageError: The disk is full or broken.
        """
        for topic_filter in self.filters:
            self._session.subscribe(topic_filter)
        flushed_s = time.monotonic()
        while not is_over():
            for event in self._session.step(_STEP_S):
                self._take(event)
            if (now_s := time.monotonic()) - flushed_s >= _FLUSH_S:
                self._recording.flush(now_s)
                flushed_s = now_s
        self._recording.flush(time.monotonic())
        if self._session.connection == 0:
            raise BrokerUnavailableError(self._last_failure)

    def _take(self, event: Event) -> None:
        match event:
            case Delivery():
                self._record(event)
            case Connected(connection=connection):
                self._unconfirmed = set(self.filters)
                _log.info("broker.connected", connection=connection)
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
                    _log.info("recording.subscribed", filters=self.filters)
            case _:
                pass

    def _record(self, delivery: Delivery) -> None:
        try:
            rows = self._rows(delivery)
        except PeerError as error:
            if error.reason not in self.counts.refused:  # one of each reason tells enough
                _log.warning(
                    "message.refused", topic=delivery.topic, reason=error.reason, detail=error.detail[:300]
                )
            self.counts.refused[error.reason] += 1
            return
        for row in rows:
            self._recording.append(row, time.monotonic())

    def _rows(self, delivery: Delivery) -> list[Row]:
        rows = []
        for stream, reader in self._streams:
            if stream.matches(delivery.topic):
                told = reader.read(delivery.topic, delivery.payload, delivery.arrival_ms)
                device, time_ms = (told[0].device, told[0].reading.time_ms) if told else ("", None)
                rows.append(_row(delivery, Kind.READING, stream.name, device, time_ms))
        if not rows:
            rows.append(self._own(delivery))
        for row in rows:
            self.counts.readings += row.kind is Kind.READING
            self.counts.labels += row.kind is Kind.LABEL
            self.counts.predictions += row.kind is Kind.PREDICTION
        return rows

    def _own(self, delivery: Delivery) -> Row:
        payload = delivery.payload
        match parse(delivery.topic):
            case ReadingTopic(device=device, stream=stream):
                return _row(delivery, Kind.READING, stream, device, decode_readings(payload)[0].time_ms)
            case LabelTopic(device=device, model=model):
                label = Label.decode(payload)
                time_ms = label.start_ms if label.time_ms is None else label.time_ms
                return _row(delivery, Kind.LABEL, model, device, time_ms)
            case PredictionTopic(device=device, model=model):
                return _row(delivery, Kind.PREDICTION, model, device, decode_prediction(payload).time_ms)
            case _:
                raise MalformedMessageError("not a topic that is recorded", Reason.MALFORMED_TOPIC)


def _row(delivery: Delivery, kind: Kind, name: str, device: str, time_ms: float | None) -> Row:
    return Row(
        delivery.arrival_ms,
        time_ms,
        kind,
        name,
        device,
        delivery.topic,
        delivery.payload,
        delivery.qos,
        delivery.is_retained,
        delivery.is_duplicate,
    )
