"""Replay: the rows of a file, published in file order as readings and labels."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from atoll_contract.messages import Label, Reading, encode_reading
from atoll_contract.topics import LabelTopic, ReadingTopic
from atoll_link.csv_columns import Row
from atoll_sim.pace import Pace
from atoll_sim.uplink import Uplink


@dataclass(frozen=True, slots=True)
class Destination:
    """Where the rows go.

    Attributes:
        site: Id of the site.
        stream: Id of the stream.
        qos: Quality of service of the readings; labels always have 1.
        model: Id of the model that the labels are for, if there are any.
        label_source: Id of the writer of the labels; None: the device itself.
    """

    site: str
    stream: str
    qos: int = 1
    model: str | None = None
    label_source: str | None = None


@dataclass(slots=True)
class Progress:
    """How far a replay is.

    Attributes:
        readings: Readings published.
        labels: Labels published.
    """

    readings: int = 0
    labels: int = 0


def replay(
    rows: Iterable[Row],
    uplink: Uplink,
    destination: Destination,
    *,
    boot: str,
    pace: Pace | None,
    progress: Progress,
    on_reading: Callable[[int], None],
) -> None:
    """Publish ``rows`` and wait until all is acknowledged, or until told to stop.

    Args:
        rows: What to publish, in this order.
        uplink: Connected.
        destination: Where the rows go.
        boot: Token of this run, in every reading.
        pace: When each row is due; None: as soon as there is room in flight.
        progress: Is kept up to date.
        on_reading: Is told after every reading how many there have been.

    Raises:
        BrokerUnavailableError: The uplink gave up.
    """
    next_seq: Counter[str] = Counter()
    start = time.monotonic()
    for row in rows:
        if pace is not None and not uplink.rest_until(start + pace.due_s(row.time_ms)):
            break
        reading = Reading(values=dict(row.values), time_ms=row.time_ms, seq=next_seq[row.device], boot=boot)
        topic = ReadingTopic(destination.site, row.device, destination.stream)
        if not uplink.publish(topic, encode_reading(reading), destination.qos):
            break
        next_seq[row.device] += 1
        progress.readings += 1
        on_reading(progress.readings)
        if row.label is not None and destination.model is not None:
            source = destination.label_source or row.device
            label_topic = LabelTopic(destination.site, source, row.device, destination.model)
            label = Label(value=row.label, time_ms=row.time_ms, stream=destination.stream)
            if not uplink.publish(label_topic, label.encode(), qos=1):
                break
            progress.labels += 1
    uplink.settle()
