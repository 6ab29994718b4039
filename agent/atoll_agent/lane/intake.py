"""From messages to readings of devices: whose they are, what they say, whether they were there before."""

from __future__ import annotations

import math
from collections import Counter
from typing import Final

import structlog

from atoll_agent.lane.repeat import Repeats
from atoll_contract.errors import MalformedMessageError, Reason
from atoll_contract.messages import Reading, Value
from atoll_ingest.clock import ClockWatch
from atoll_ingest.dialect import Told
from atoll_ingest.join import Overdue
from atoll_ingest.stream import Stream
from atoll_ingest.time import EARLIEST_MS
from atoll_link.session import Delivery
from atoll_signal.units import conversion

log = structlog.get_logger()

MAX_TOPICS: Final = 65_536
"""Topics whose device is remembered; then they are looked up anew."""
_NEVER_MS: Final = math.inf
_MAX_TOLD: Final = 100
"""Devices with a doubtful clock that the log names; the counters know them all."""


class Intake:
    """Reads the messages of one stream. ``counts`` are those of its track.

    Attributes:
        is_plain: Whether the topic names the device and the payload says the rest: the short way.
        units: The unit that each value is sent in.
    """

    def __init__(self, stream: Stream, counts: Counter[str], max_devices: int) -> None:
        plain = stream.plain
        self.is_plain = plain is not None
        self.units = stream.units
        self._stream = stream
        self._decode = None if plain is None else plain.decode
        self._reader = None if self.is_plain else stream.reader(max_devices, counts)
        self._counts = counts
        self._devices: dict[str, str] = {}
        self._retained: dict[str, int] = {}
        # Of a shared stream others get the rest: nothing can be said to be missing.
        self._repeats = Repeats(max_devices, Counter() if stream.is_shared else counts)
        self._clocks = ClockWatch(max_devices)
        self._told = 0

    def changed(self, stream: Stream, max_devices: int) -> Intake:
        """Return the intake that goes on with ``stream`` and remembers what was taken before."""
        successor = Intake(stream, self._counts, max_devices)
        self._repeats.max_devices = max_devices
        successor._repeats, successor._retained = self._repeats, self._retained
        successor._clocks, successor._told = self._clocks, self._told
        if successor._reader is not None and self._reader is not None:
            successor._reader.succeed(self._reader)
        return successor

    def device(self, topic: str) -> str | None:
        """Return the device of a topic that was read before the short way; None: of none that was."""
        return self._devices.get(topic)

    def find_device(self, topic: str) -> str | None:
        """Return the device that ``topic`` belongs to, and remember it; None: it is none of the stream's.

        Raises:
            MalformedMessageError: The name of the device cannot be made an id.
        """
        device = self._stream.device(topic)
        if device is None:
            return None
        if len(self._devices) >= MAX_TOPICS:
            self._devices.clear()
        self._devices[topic] = device
        return device

    def readings(self, delivery: Delivery, device: str) -> list[Reading]:
        """Return the new readings in a message of ``device``: the short way.

        Raises:
            MalformedMessageError: It cannot be read, or is retained and the stream ignores that.
        """
        if delivery.is_retained and not self._is_wanted_retained(delivery):
            return []
        readings = self._decode(delivery.payload)  # type: ignore[misc]  # is_plain
        self._counts["readings"] += len(readings)
        if len(readings) == 1:  # as nearly always
            return readings if self._is_new(readings[0], device, delivery.arrival_ms) else []
        return [reading for reading in readings if self._is_new(reading, device, delivery.arrival_ms)]

    def told(self, delivery: Delivery) -> list[Told] | None:
        """Return the new readings that a message completes, and whose they are: the long way.

        None: its topic is none of the stream's.

        Raises:
            MalformedMessageError: It cannot be read, or is retained and the stream ignores that.
        """
        if self._reader is None:
            device = self.find_device(delivery.topic)
            if device is None:
                return None
            return [Told(device, reading) for reading in self.readings(delivery, device)]
        topic, arrival_ms = delivery.topic, delivery.arrival_ms
        if not self._reader.knows(topic):
            return None
        if delivery.is_retained and not (
            self._reader.is_ignored(topic) or self._is_wanted_retained(delivery)
        ):
            return []
        told = self._reader.read(topic, delivery.payload, arrival_ms)
        self._counts["readings"] += len(told)
        return [one for one in told if self._is_new(one.reading, one.device, arrival_ms)]

    def overdue(self, now_ms: float) -> list[Overdue]:
        """Return readings that have waited too long for the rest of their values; wall clock."""
        late = [] if self._reader is None else self._reader.overdue(now_ms)
        self._counts["readings"] += len(late)
        return late

    def shift(self, step_ms: float) -> None:
        """Move the times of arrival of what waits or is held."""
        if self._reader is not None:
            self._reader.shift(step_ms)

    def state(self) -> bytes:
        """Return what survives a restart: what waits or is held; empty: nothing."""
        return b"" if self._reader is None else self._reader.state()

    def restore(self, kept: bytes) -> None:
        """Begin with what was kept; raises ValueError."""
        if self._reader is not None:
            self._reader.restore(kept)

    def _is_wanted_retained(self, delivery: Delivery) -> bool:
        """Whether a retained reading is to be used: once, though every connect brings it again."""
        if not self._stream.use_retained:
            raise MalformedMessageError("a retained reading", Reason.RETAINED)
        digest = hash(delivery.payload)
        if self._retained.get(delivery.topic) == digest:
            self._counts["repeated"] += 1
            return False
        if len(self._retained) >= MAX_TOPICS:
            self._retained.clear()
        self._retained[delivery.topic] = digest
        return True

    def _is_new(self, reading: Reading, device: str, arrival_ms: float) -> bool:
        boot, seq = reading.boot, reading.seq
        if boot is not None and seq is not None and self._repeats.is_repeat(device, boot, seq):
            self._counts["repeated"] += 1
            return False
        latest, time_ms = self._clocks.latest_ms, reading.time_ms
        if time_ms is not None and EARLIEST_MS < latest.get(device, _NEVER_MS) <= time_ms <= arrival_ms:
            latest[device] = time_ms  # as nearly always
            return True
        doubt = self._clocks.look(device, reading, arrival_ms)
        if doubt is not None:
            self._counts[doubt] += 1
            if self._told < _MAX_TOLD and self._clocks.doubts(device)[doubt] == 1:
                self._told += 1
                log.warning("clock.doubted", stream=self._stream.name, device=device, doubt=doubt.value)
        return True


def converted_value(value: Value, sent: str | None, needed: str | None) -> Value:
    """Return a number in another unit; None, which is missing, for what cannot be converted."""
    if not isinstance(value, int | float):
        return None
    try:
        change = conversion(sent, needed)
    except ValueError:
        return None
    return value if change is None else value * change.scale + change.offset
