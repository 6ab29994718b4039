"""How a stream is read now, and how its settings before a reload said it was."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from typing import Final

import msgspec.structs

from atoll_agent.lane.intake import Intake, converted_value
from atoll_contract.errors import MalformedMessageError, Reason
from atoll_contract.messages import Reading
from atoll_ingest.stream import Stream
from atoll_link.session import Delivery

MAX_FORMER: Final = 8
"""Earlier settings of a stream that are remembered: messages read by them may still wait at the broker."""


class Intakes:
    """Reads the messages of one stream. ``counts`` are those of its track.

    Attributes:
        present: By the settings that hold.
    """

    def __init__(self, stream: Stream, counts: Counter[str], max_devices: int) -> None:
        self.present = Intake(stream, counts, max_devices)
        self._stream = stream
        self._former: deque[Intake] = deque(maxlen=MAX_FORMER)

    @property
    def is_plain(self) -> bool:
        """Whether no reading waits for values that come with other messages."""
        return all(intake.is_plain for intake in self._all())

    def change(self, stream: Stream, max_devices: int) -> None:
        """Read by ``stream`` from the next message on, but what only the settings before named by those."""
        if stream != self._stream:
            self._former.appendleft(self.present)
        self.present = self.present.changed(stream, max_devices)
        self._stream = stream

    def shift(self, step_ms: float) -> None:
        """Move all times that came from arrival: the wall clock was set by ``step_ms``."""
        for intake in self._all():
            intake.shift(step_ms)

    def told(self, delivery: Delivery) -> Iterator[tuple[str, Reading]]:
        """Read a message the long way, by the settings that know its topic; yield devices and readings.

        Raises:
            MalformedMessageError: It cannot be read, or no settings know its topic.
        """
        for intake in self._all():
            if (told := intake.told(delivery)) is not None:
                for device, reading in told:
                    yield device, self._in_present_units(reading, intake)
                return
        raise MalformedMessageError("belongs to no topic of the stream", Reason.MALFORMED_TOPIC)

    def overdue(self, now_ms: float) -> Iterator[tuple[str, Reading, float]]:
        """Yield devices, readings of which not all values came in time, and their times of arrival."""
        for intake in self._all():
            for device, reading, arrival_ms in intake.overdue(now_ms):
                yield device, self._in_present_units(reading, intake), arrival_ms

    def _all(self) -> list[Intake]:
        return [self.present, *self._former]

    def _in_present_units(self, reading: Reading, intake: Intake) -> Reading:
        units, values = self._stream.units, reading.values
        if intake.units == units or not isinstance(values, dict):
            return reading
        changed = {name: unit for name, unit in intake.units.items() if unit != units.get(name)}
        converted = {
            name: converted_value(value, changed[name], units.get(name)) if name in changed else value
            for name, value in values.items()
        }
        return msgspec.structs.replace(reading, values=converted)
