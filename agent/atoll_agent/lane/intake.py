"""From messages to readings of a device: whose it is, what it says, whether it was there before."""

from __future__ import annotations

from collections import Counter
from typing import Final

from atoll_agent.lane.repeat import Repeats
from atoll_contract.errors import MalformedMessageError, Reason
from atoll_contract.messages import Reading
from atoll_ingest.stream import Stream
from atoll_link.session import Delivery

MAX_TOPICS: Final = 65_536
"""Topics whose device is remembered; then they are looked up anew."""


class Intake:
    """Reads the messages of one stream. ``counts`` are those of its track."""

    def __init__(self, stream: Stream, counts: Counter[str], max_devices: int) -> None:
        self._stream = stream
        self._decode = stream.dialect.decode
        self._counts = counts
        self._devices: dict[str, str] = {}
        self._retained: dict[str, int] = {}
        # Of a shared stream others get the rest: nothing can be said to be missing.
        self._repeats = Repeats(max_devices, Counter() if stream.is_shared else counts)

    def changed(self, stream: Stream, max_devices: int) -> Intake:
        """Return the intake that goes on with ``stream`` and remembers what was taken before."""
        successor = Intake(stream, self._counts, max_devices)
        self._repeats.max_devices = max_devices
        successor._repeats, successor._retained = self._repeats, self._retained
        return successor

    def device(self, topic: str) -> str | None:
        """Return the device of a topic that was read before; None: of no topic that was."""
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
        """Return the new readings in a message of ``device``.

        Raises:
            MalformedMessageError: It cannot be read, or is retained and the stream ignores that.
        """
        if delivery.is_retained and not self._is_wanted_retained(delivery):
            return []
        readings = self._decode(delivery.payload)
        self._counts["readings"] += len(readings)
        if len(readings) == 1:  # as nearly always
            return [] if self._is_repeat(readings[0], device) else readings
        return [reading for reading in readings if not self._is_repeat(reading, device)]

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

    def _is_repeat(self, reading: Reading, device: str) -> bool:
        boot, seq = reading.boot, reading.seq
        if boot is None or seq is None or not self._repeats.is_repeat(device, boot, seq):
            return False
        self._counts["repeated"] += 1
        return True
