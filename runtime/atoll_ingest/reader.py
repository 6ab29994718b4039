"""From messages to readings of devices, for streams of any dialect: the one way that all roles read.

The agent's lane has a shorter one for a :class:`atoll_ingest.dialect.Dialect`, whose topics name the
device; a test holds both to the same readings.
"""

from __future__ import annotations

import re
import zlib
from collections import Counter, OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from atoll_contract.errors import MalformedMessageError, Reason
from atoll_contract.ids import escape
from atoll_contract.messages import Reading, Value
from atoll_ingest.dialect import Dialect, Format, Record, Told
from atoll_ingest.join import Hold, Join, Joining, Overdue
from atoll_ingest.spelling import spelt_alike
from atoll_ingest.time import TimeForm, UndatedReading, is_undated
from atoll_ingest.topic import DEVICE, TopicPattern
from atoll_ingest.value import ValueForm

MAX_TOPICS: Final = 65_536
"""Topics that are remembered; the longest silent one goes."""
_ADDRESS: Final = re.compile(r" at 0x[0-9a-f]+")
_SET: Final = re.compile(r"frozenset\(\{(.*?)\}\)")
_NAME: Final = re.compile(r"\{([^{}]*)\}")


@dataclass(frozen=True, slots=True)
class Recipe:
    """How the messages of a stream become readings, where a :class:`Dialect` is not enough.

    Attributes:
        format: What takes payloads apart.
        name: What the settings call it.
        device: What the name of a device is made of: ``{device}``, ``{line}-{machine}``.
        forms: How values are written, by name; others are plain.
        time_form: How event times are written.
        units: The units that values must have where a message tells them, by name.
        join_ms: How far apart values of one reading may arrive, or None: they come together.
        hold_ms: How long a value holds that later messages leave out, or None: it is missing.
        values_of: What a pattern's topics carry where that is not one of its parts, by pattern.
        has_time_topic: Whether the event time comes in a message of its own.
    """

    format: Format
    name: str = ""
    device: str = DEVICE
    forms: Mapping[str, ValueForm] = field(default_factory=dict)
    time_form: TimeForm = field(default_factory=TimeForm)
    units: Mapping[str, str] = field(default_factory=dict)
    join_ms: float | None = None
    hold_ms: float | None = None
    values_of: Mapping[str, str] = field(default_factory=dict)
    has_time_topic: bool = False


class Template:
    """What the name of a device is made of.

    >>> Template("{line}-{device}").fill({"line": "3", "device": "press"})
    '3-press'
    """

    def __init__(self, text: str) -> None:
        self._pieces = _NAME.split(text)

    @property
    def names(self) -> list[str]:
        """The names in it, in order."""
        return self._pieces[1::2]

    def fill(self, parts: Mapping[str, str]) -> str:
        """Return the name.

        Raises:
            MalformedMessageError: One of its parts is not there.
        """
        pieces = list(self._pieces)
        for place in range(1, len(pieces), 2):
            name = pieces[place]
            if not parts.get(name):
                raise MalformedMessageError(f"nothing named {name!r} tells the device", Reason.NO_DEVICE)
            pieces[place] = parts[name]
        return "".join(pieces)


class StreamReader:
    """Reads the messages of one stream, in the order in which they arrived.

    Attributes:
        counts: What it has counted, by name.
    """

    def __init__(
        self,
        patterns: Sequence[TopicPattern],
        reads: Dialect | Recipe,
        values: Collection[str],
        *,
        ignored: Sequence[TopicPattern] = (),
        max_devices: int,
        counts: Counter[str],
    ) -> None:
        self.counts = counts
        self._patterns = tuple(patterns)
        self._ignored = tuple(ignored)
        self._is_succeeded = False
        self._max_devices = max_devices
        self._topics: OrderedDict[str, tuple[TopicPattern, dict[str, str]] | None] = OrderedDict()
        self._way: _PlainWay | _RecipeWay
        if isinstance(reads, Recipe):
            self._way = _RecipeWay(reads, values, max_devices, self.counts)
        else:
            self._way = _PlainWay(reads)

    def read(self, topic: str, payload: bytes, arrival_ms: float) -> list[Told]:
        """Return the readings that a message completes: none, one or many; a device's own in order of time.

        Raises:
            MalformedMessageError: It cannot be read, or belongs to no topic of the stream; the reason
                code says why. What earlier messages told is unchanged.
        """
        place = self._topics.get(topic)
        if place is None:
            place = self._find(topic)
            if place is None:
                self.counts["messages_ignored"] += 1
                return []
        else:
            self._topics.move_to_end(topic)
        pattern, parts = place
        return self._way.read(pattern, topic, parts, payload, arrival_ms)

    def overdue(self, now_ms: float) -> list[Overdue]:
        """Return what has waited too long for the rest of its values."""
        return [] if self._is_succeeded else self._way.overdue(now_ms)

    def shift(self, step_ms: float) -> None:
        """Move the times of arrival of what waits or is held: the wall clock was set by ``step_ms``."""
        if not self._is_succeeded:
            self._way.shift(step_ms)

    def state(self) -> bytes:
        """Return what survives a restart: what waits or is held; empty: nothing."""
        kept = self._way.state()
        return _ENCODER.encode(_Kept(self._way.likeness, zlib.crc32(kept), kept)) if kept else b""

    def restore(self, kept: bytes) -> None:
        """Begin with what was kept.

        Raises:
            ValueError: It is damaged, or of a stream that was read in another way.
        """
        try:
            found = _KEPT.decode(kept)
            if zlib.crc32(found.state) != found.checksum:
                raise ValueError("damaged")
            if found.likeness != self._way.likeness:
                raise ValueError("of a stream that was read in another way")
            self._way.restore(found.state)
        except msgspec.MsgspecError as error:
            raise ValueError(str(error)) from error

    def succeed(self, former: StreamReader) -> None:
        """Go on with what ``former`` remembers, if both read in the same way; it then has nothing left."""
        way = former._way
        if isinstance(self._way, _RecipeWay) and isinstance(way, _RecipeWay) and self._way.is_like(way):
            self._way = way
            way.limit(self._max_devices)
            former._is_succeeded = True

    def knows(self, topic: str) -> bool:
        """Whether ``topic`` is one of the stream's, be it one that carries no readings."""
        return (
            topic in self._topics
            or self.is_ignored(topic)
            or any(pattern.parts(topic) is not None for pattern in self._patterns)
        )

    def is_ignored(self, topic: str) -> bool:
        """Whether the stream's patterns match ``topic`` and it carries no readings all the same."""
        return any(pattern.parts(topic) is not None for pattern in self._ignored)

    def _find(self, topic: str) -> tuple[TopicPattern, dict[str, str]] | None:
        if self.is_ignored(topic):
            return None
        for pattern in self._patterns:
            if (parts := pattern.parts(topic)) is not None:
                while len(self._topics) >= MAX_TOPICS:
                    self._topics.popitem(last=False)
                self._topics[topic] = (pattern, parts)
                return pattern, parts
        raise MalformedMessageError("belongs to no topic of the stream", Reason.MALFORMED_TOPIC)


class _Kept(msgspec.Struct):
    """What survives a restart.

    Attributes:
        likeness: How the stream was read.
        checksum: Of the state.
        state: What waits or is held.
    """

    likeness: str
    checksum: int
    state: bytes


_ENCODER: Final = msgspec.msgpack.Encoder()
_KEPT: Final = msgspec.msgpack.Decoder(_Kept)


class _PlainWay:
    """The topic names the device, the payload says the rest."""

    likeness = ""

    def __init__(self, dialect: Dialect) -> None:
        self._dialect = dialect

    def read(
        self,
        pattern: TopicPattern,
        topic: str,
        parts: Mapping[str, str],  # noqa: ARG002 - of the port
        payload: bytes,
        arrival_ms: float,  # noqa: ARG002
    ) -> list[Told]:
        device = pattern.device(topic)
        if device is None:
            raise MalformedMessageError("belongs to no topic of the stream", Reason.MALFORMED_TOPIC)
        return [Told(device, reading) for reading in self._dialect.decode(payload)]

    def overdue(self, now_ms: float) -> list[Overdue]:  # noqa: ARG002 - nothing waits
        return []

    def shift(self, step_ms: float) -> None:
        pass

    def state(self) -> bytes:
        return b""

    def restore(self, kept: bytes) -> None:
        pass


class _RecipeWay:
    """A decoder takes the payload apart, and the recipe says what comes of it."""

    def __init__(
        self, recipe: Recipe, values: Collection[str], max_devices: int, counts: Counter[str]
    ) -> None:
        self.recipe = recipe
        self.values = frozenset(values)
        self._decoder = recipe.format.decoder(max_devices)
        self._decoder.counts = counts
        self._counts = counts
        self._device = Template(recipe.device)
        self._ids: OrderedDict[str, str] = OrderedDict()
        self._joining = _joining(recipe, values, max_devices, counts)

    @property
    def likeness(self) -> str:
        """The same in another process that reads in the same way."""
        text = _ADDRESS.sub("", repr((self.recipe, sorted(self.values))))
        return _SET.sub(lambda found: str(sorted(found[1].split(", "))), text)

    def is_like(self, other: _RecipeWay) -> bool:
        """Whether ``other`` reads the same messages in the same way."""
        return self.recipe == other.recipe and self.values == other.values

    def limit(self, max_devices: int) -> None:
        """Remember so many devices at the most; those that go are forgotten as others come."""
        self._decoder.max_devices = max_devices
        if self._joining is not None:
            self._joining.max_devices = max_devices

    def read(
        self,
        pattern: TopicPattern,
        topic: str,  # noqa: ARG002 - of the port
        parts: Mapping[str, str],
        payload: bytes,
        arrival_ms: float,
    ) -> list[Told]:
        carried = self.recipe.values_of.get(pattern.text)
        if carried is not None:
            parts = {**parts, "value": carried}
        records = self._decoder.records(parts, payload)
        if not records:
            self._counts["messages_ignored"] += 1
            return []
        # Whole before anything is remembered: a message that is refused changes nothing.
        found = [self._told(parts, record, arrival_ms) for record in records]
        if self._joining is None and not any(is_end or _has_number(reading) for _, reading, is_end in found):
            raise MalformedMessageError("none of the stream's values is in it", Reason.MISSING_VALUE)
        # Of senders that report only what changed this may be a message of its own kind: no refusal.
        if not any(is_end or reading.values or self._is_time(reading) for _, reading, is_end in found):
            self._counts["messages_ignored"] += 1
            return []
        if len(found) > 1:
            found.sort(key=lambda one: arrival_ms if one[1].time_ms is None else one[1].time_ms)
        told = []
        for device, reading, is_end in found:
            told += self._complete(device, reading, arrival_ms, is_end=is_end)
        return told

    def overdue(self, now_ms: float) -> list[Overdue]:
        return [] if self._joining is None else self._joining.overdue(now_ms)

    def shift(self, step_ms: float) -> None:
        if self._joining is not None:
            self._joining.shift(step_ms)

    def state(self) -> bytes:
        return b"" if self._joining is None else self._joining.state()

    def restore(self, kept: bytes) -> None:
        if self._joining is not None:
            self._joining.restore(kept)

    def _is_time(self, reading: Reading) -> bool:
        return self.recipe.has_time_topic and (reading.time_ms is not None or is_undated(reading))

    def _told(self, parts: Mapping[str, str], record: Record, arrival_ms: float) -> tuple[str, Reading, bool]:
        recipe = self.recipe
        device = self._id(self._device.fill({**parts, **record.parts} if record.parts else parts))
        for name, unit in record.units.items():
            self._require_unit(name, unit)
        forms, first = recipe.forms, record.first_register
        values = {
            name: forms.get(name, _PLAIN).value(name, found, first) for name, found in record.values.items()
        }
        if record.after_arrival_ms:
            time_ms = arrival_ms + record.after_arrival_ms
            # Too early: the clock of this machine was not set at arrival.
            is_dated = time_ms >= recipe.time_form.earliest_ms
            reading = Reading(values, time_ms=time_ms) if is_dated else UndatedReading(values)
        else:
            reading = recipe.time_form.reading(values, record.time)
        if record.step_ms is not None:
            reading = msgspec.structs.replace(reading, step_ms=record.step_ms)
        return device, reading, record.is_end

    def _complete(self, device: str, reading: Reading, arrival_ms: float, *, is_end: bool) -> list[Told]:
        if self._joining is None:
            return [] if is_end or not reading.values else [Told(device, reading)]
        whole = self._joining.forget(device) if is_end else self._joining.add(device, reading, arrival_ms)
        return [Told(device, complete) for complete in whole]

    def _id(self, name: str) -> str:
        identifier = self._ids.get(name)
        if identifier is None:
            identifier = escape(name)
            while len(self._ids) >= MAX_TOPICS:
                self._ids.popitem(last=False)
            self._ids[name] = identifier
        return identifier

    def _require_unit(self, name: str, unit: object) -> None:
        wanted = self.recipe.units.get(name)
        if wanted is None or unit is None or (isinstance(unit, str) and spelt_alike(unit, wanted)):
            return
        message = f"{name} is sent in {unit!r:.40}, the settings say {wanted!r}"
        raise MalformedMessageError(message, Reason.UNIT_MISMATCH)


_PLAIN: Final = ValueForm()


def _joining(
    recipe: Recipe, values: Collection[str], max_devices: int, counts: Counter[str]
) -> Joining | None:
    if recipe.join_ms is not None:
        return Join(values, recipe.join_ms, max_devices, counts, needs_time=recipe.has_time_topic)
    if recipe.hold_ms is not None:
        return Hold(values, recipe.hold_ms, max_devices, counts)
    return None


def _has_number(reading: Reading) -> bool:
    values: Mapping[str, Value] = reading.values if isinstance(reading.values, dict) else {}
    return any(value is not None for value in values.values())
