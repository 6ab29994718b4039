"""The ports behind which every payload format stands, and our own dialect.

A :class:`Dialect` is for the usual case: the topic names the device, and a payload can be read by
itself. It has no state and no clock, and one call reads a message. A :class:`Decoder` is for all
others: the payload names the devices, values have names of their own, or a message can be read only
after another one. What it finds is made readings of by :class:`atoll_ingest.reader.StreamReader`.
Agent, recorder and trainer read the same bytes alike.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import msgspec.structs

from atoll_contract.messages import Reading, decode_readings


class Dialect(Protocol):
    """How the payloads of a stream are read whose topics name the device."""

    def decode(self, payload: bytes) -> list[Reading]:
        """Return the readings in ``payload``, values always by name.

        A reading without ``time_ms`` counts from the time of its arrival.

        Raises:
            MalformedMessageError: ``payload`` cannot be read; the reason code says why.
        """


class Told(NamedTuple):
    """A reading and the device that it is of."""

    device: str
    reading: Reading


class Record(NamedTuple):
    """What a message says of one device at one time, as it is written there.

    Attributes:
        values: What was found for the stream's values, by their names; what is not there is left out.
        time: The event time as it is written, or None: that of arrival.
        parts: What else the name of the device may be made of, besides the parts of the topic.
        units: The units that the message tells, by value.
        first_register: Number of the first register, where values stand in registers.
        step_ms: Between the elements of arrays.
        is_end: The device is gone: what is known of it holds no more.
        after_arrival_ms: How long after arrival it was, where no time is written; negative: before.
    """

    values: Mapping[str, object]
    time: object = None
    parts: Mapping[str, str] = {}
    units: Mapping[str, object] = {}
    first_register: int = 0
    step_ms: float | None = None
    is_end: bool = False
    after_arrival_ms: float = 0.0


class Decoder(Protocol):
    """How the payloads of a stream are taken apart; it may remember what earlier messages said.

    Attributes:
        counts: What it counts, by name.
        max_devices: How many devices it remembers something of at the most, if anything.
    """

    counts: Counter[str]
    max_devices: int

    def records(self, parts: Mapping[str, str], payload: bytes) -> Sequence[Record]:
        """Return what ``payload`` says; nothing at all if it is meant for others.

        Args:
            parts: The named parts of its topic.
            payload: The message.

        Raises:
            MalformedMessageError: ``payload`` cannot be read; the reason code says why.
        """


class Format(Protocol):
    """A dialect that is read by a decoder."""

    def decoder(self, max_devices: int) -> Decoder:
        """Return a new decoder, which remembers at most ``max_devices`` devices."""


@dataclass(frozen=True, slots=True)
class AtollDialect:
    """Our own JSON: :class:`atoll_contract.messages.Reading`, alone or as a list."""

    def decode(self, payload: bytes) -> list[Reading]:
        """Return the readings in ``payload``; a lone number is the value named ``value``."""
        readings = decode_readings(payload)
        for place, reading in enumerate(readings):
            if not isinstance(reading.values, dict):
                readings[place] = msgspec.structs.replace(reading, values={"value": reading.values})
        return readings
