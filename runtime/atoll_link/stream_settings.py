"""``[[stream]]`` of a settings file: what agent, recorder and simulator read, and how."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, Field, model_validator

from atoll_contract.errors import ConfigError
from atoll_contract.topics import ReadingTopic
from atoll_ingest.document import Searched
from atoll_ingest.pointer import parse_pointer
from atoll_ingest.reader import Template
from atoll_ingest.registers import RegisterKind
from atoll_ingest.scalar import TIME
from atoll_ingest.stream import DEVICE, Overload, Stream
from atoll_ingest.time import TimeUnit
from atoll_ingest.topic import TopicPattern, without_overlaps
from atoll_link.presets import PRESETS, completed
from atoll_link.settings import Id, Table, load
from atoll_link.settings_faults import Fault, twice
from atoll_link.stream_build import built

DialectName = Literal[
    "atoll", "json", "cbor", "scalar", "senml", "senml-cbor", "sparkplug", "influx", "opcua", "picture"
]
PresetName = Literal[
    "zigbee2mqtt", "tasmota", "tasmota-state", "shelly", "shelly-status", "esphome", "homeassistant", "ttn",
    "chirpstack", "thingsboard-gateway", "milesight", "opcua", "sparkplug", "telegraf",
]  # fmt: skip

DOCUMENTS: Final = frozenset({"json", "cbor"})
_NAMED: Final = frozenset({"scalar", "senml", "senml-cbor", "sparkplug", "influx", "opcua"})
_ALL_BUT_OURS: Final = frozenset(get_args(DialectName)) - {"atoll", "picture"}
_NEEDS: Final = {"influx": "line_protocol_parser", "sparkplug": "google.protobuf"}
"""Modules that come with the extra ``dialects``."""

_STREAM_KEYS: Final = {
    "device": _ALL_BUT_OURS,
    "at": DOCUMENTS,
    "each": DOCUMENTS,
    "header": DOCUMENTS,
    "columns": DOCUMENTS,
    "first_register": DOCUMENTS,
    "measurement": frozenset({"influx"}),
    "join_s": _ALL_BUT_OURS,
    "hold_s": _ALL_BUT_OURS,
    "words": _ALL_BUT_OURS,
    "missing": _ALL_BUT_OURS,
    "decimal": _ALL_BUT_OURS,
    "time": _ALL_BUT_OURS,
}
"""Which dialects a key of a stream is for."""
_VALUE_KEYS: Final = {
    "pointer": DOCUMENTS,
    "jmespath": DOCUMENTS,
    "name": _NAMED,
    "topic": frozenset({"scalar"}),
    "unit_pointer": DOCUMENTS,
    "words": _ALL_BUT_OURS,
    "missing": _ALL_BUT_OURS,
    "decimal": _ALL_BUT_OURS,
    "suffix": _ALL_BUT_OURS,
    "scale": _ALL_BUT_OURS,
    "offset": _ALL_BUT_OURS,
    "modbus": DOCUMENTS,
}
_TIME_KEYS: Final = {
    "pointer": DOCUMENTS,
    "jmespath": DOCUMENTS,
    "topic": frozenset({"scalar"}),
    "step_s": DOCUMENTS,
    "step_pointer": DOCUMENTS,
}


def _valid_pointer(pointer: str) -> str:
    parse_pointer(pointer)
    return pointer


def _valid_jmespath(expression: str) -> str:
    Searched(expression)
    return expression


def _valid_pattern(topic: str) -> str:
    TopicPattern(topic, needs_device=False)
    return topic


def _valid_device(device: str) -> str:
    if not Template(device).names and ("{" in device or "}" in device or not device):
        raise ValueError(f"device {device!r} is made of names in braces, as '{{line}}-{{machine}}'")
    for name in Template(device).names:
        if name.startswith("/"):
            parse_pointer(name)
    return device


def _valid_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        message = f"no time zone {name!r} on this machine: write it as Europe/Vienna, or install tzdata"
        raise ValueError(message) from error
    return name


def _valid_format(form: str) -> str:
    try:
        datetime.strptime(datetime(2024, 11, 5, 8, 15, tzinfo=UTC).strftime(form), form)  # noqa: DTZ007
    except ValueError as error:
        raise ValueError(f"format {form!r} is none of strptime: {error}") from error
    return form


Pointer = Annotated[str, AfterValidator(_valid_pointer)]
Jmespath = Annotated[str, Field(max_length=1000), AfterValidator(_valid_jmespath)]
Pattern = Annotated[str, AfterValidator(_valid_pattern)]
Words = Annotated[dict[str, float], Field(max_length=256)]
Missing = Annotated[list[str], Field(max_length=256)]
Decimal = Literal[".", ","]


class ModbusTable(Table):
    """``values.NAME.modbus``: a number that stands in Modbus registers.

    Attributes:
        address: Number of the first one.
        type: What they hold: int16, uint16, int32, uint32, int64, uint64, float32 or float64.
        word_order: Whether the most significant register comes first (``big``) or last (``little``).
    """

    address: Annotated[int, Field(ge=0, le=65535)]
    type: RegisterKind = RegisterKind.UINT16
    word_order: Literal["big", "little"] = "big"


class ValueTable(Table):
    """``values.NAME`` of a stream: one value that its readings carry.

    Attributes:
        unit: Unit that the sensor sends; leave it out for a number without one.
        pointer: Where it stands (RFC 6901 JSON pointer), for ``json`` and ``cbor``; by default under its
            name, where ``at`` points to.
        jmespath: The same as a JMESPath expression, to search or to reckon: ``max(rx[].rssi)``.
        name: What the sender calls it, if not as here: a metric, a field, a SenML name, or what
            ``{value}`` is in a topic.
        topic: The topic that carries it, for ``scalar``.
        unit_pointer: Where the message tells the unit; a reading in another unit is refused.
        words: Text that stands for numbers, besides on, off, true, false, open, closed and the like.
        missing: What stands for no value, besides nan, null, unknown and the like: words or numbers, `-999`.
        decimal: The decimal sign of numbers in text.
        suffix: What may follow a number in text.
        scale: What the number is multiplied with.
        offset: What is added after that.
        modbus: Which registers hold it, where the pointer leads to an array of them.
    """

    unit: str | None = None
    pointer: Pointer | None = None
    jmespath: Jmespath | None = None
    name: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    topic: Pattern | None = None
    unit_pointer: Pointer | None = None
    words: Words = {}
    missing: Missing = []
    decimal: Decimal | None = None
    suffix: str = ""
    scale: float = 1.0
    offset: float = 0.0
    modbus: ModbusTable | None = None


class TimeTable(Table):
    """``time`` of a stream: where its event time stands and how it is written.

    A time that is absent or null is that of arrival; one before ``earliest`` too, flagged
    ``time_unsynced``: the device's clock was never set.

    Attributes:
        pointer: Where it stands (RFC 6901 JSON pointer), for ``json`` and ``cbor``.
        jmespath: The same as a JMESPath expression.
        topic: The topic that carries it, for ``scalar``.
        unit: How it is written: s, ms, us, ns, iso8601, or auto: numbers by their size, text as ISO 8601.
            By default as the dialect has it: s for ``senml`` and ``senml-cbor``, ns for ``influx``,
            iso8601 for ``opcua``, ms for the others.
        zone: Time zone of times that name none, as ``Europe/Vienna``.
        formats: For text that is no ISO 8601: formats of strptime, as ``%d.%m.%Y %H:%M``.
        earliest: Times before that are of clocks that were never set.
        step_s: Seconds between the elements of arrays.
        step_pointer: Where they stand in the message.
    """

    pointer: Pointer | None = None
    jmespath: Jmespath | None = None
    topic: Pattern | None = None
    unit: TimeUnit | None = None
    zone: Annotated[str, AfterValidator(_valid_zone)] = "UTC"
    formats: Annotated[list[Annotated[str, AfterValidator(_valid_format)]], Field(max_length=8)] = []
    earliest: datetime = datetime(2000, 1, 2, tzinfo=UTC)
    step_s: Annotated[float, Field(gt=0)] | None = None
    step_pointer: Pointer | None = None


class StreamTable(Table):
    """``[[stream]]``: readings of one kind, from any number of devices.

    Attributes:
        name: Id of the stream.
        preset: Keys for what is common; those that stand here count (docs/operate/sensors.md).
        topics: Topic filters; the part ``{device}`` names the device, ``{name}`` is any level,
            ``{name...}`` one or more, ``+`` a level that nobody asks for. By default the topic of our own
            dialect. Behind ``$share/GROUP/`` the broker gives each reading to one agent of the group;
            models of such a stream answer single readings.
        ignore: Topics among them that carry no readings.
        dialect: How payloads are written: ``atoll``, ``json``, ``cbor``, ``scalar`` (one value per topic),
            ``senml``, ``senml-cbor``, ``sparkplug``, ``influx``, ``opcua``, or ``picture`` (JPEG or PNG; of
            its one value the model says what becomes of it).
        device: What the device's name is made of: parts of the topic, keys of ``each``, tags, or
            pointers into the message: ``{line}-{device}``, ``{/ID}``.
        at: Where values stand under their names: a JSON pointer.
        each: Where the readings stand when a message holds several: a JSON pointer, in which ``*`` is
            every element and ``{name}`` every key. Other pointers begin there.
        header: Pointer to an array with the names of the columns; the readings are rows of them.
        columns: Whether every value is an array with one element per reading.
        first_register: Pointer to the number of the first register; by default registers count from 0.
        measurement: Whose lines are read, for ``influx``; by default all.
        join_s: Values that arrive in messages of their own, within so many seconds, are one reading.
        hold_s: A value that a message leaves out keeps what it was for so many seconds.
        words: As in ``values.NAME``, for all of them.
        missing: As in ``values.NAME``, for all of them.
        decimal: As in ``values.NAME``, for all of them.
        values: The values of a reading, by name.
        time: Where the event time stands; by default the time of arrival.
        retained: Whether a retained reading is used (once, flagged ``replayed``) or ignored.
        overload: What happens when readings come faster than they are answered: ``block`` leaves
            the rest at the broker (QoS 1), ``newest`` answers the newest of each device, ``sample``
            those that find room. Those left out enter their windows and are counted.
    """

    name: Id
    preset: PresetName | None = None
    topics: Annotated[list[Pattern], Field(max_length=64)] = []
    ignore: Annotated[list[Pattern], Field(max_length=64)] = []
    dialect: DialectName = "atoll"
    device: Annotated[str, Field(max_length=256), AfterValidator(_valid_device)] = DEVICE
    at: Pointer = ""
    each: Pointer = ""
    header: Pointer | None = None
    columns: bool = False
    first_register: Pointer | None = None
    measurement: str | None = None
    join_s: Annotated[float, Field(gt=0, le=86_400)] | None = None
    hold_s: Annotated[float, Field(gt=0, le=31_622_400)] | None = None
    words: Words = {}
    missing: Missing = []
    decimal: Decimal = "."
    values: Annotated[dict[str, ValueTable], Field(min_length=1, max_length=256)]
    time: TimeTable | None = None
    retained: Literal["ignore", "use"] = "ignore"
    overload: Overload = Overload.BLOCK

    @model_validator(mode="before")
    @classmethod
    def _completed(cls, table: Any) -> Any:
        if isinstance(table, dict) and isinstance(name := table.get("preset"), str) and name in PRESETS:
            return completed(table, PRESETS[name])
        return table

    @model_validator(mode="after")
    def _keys_fit_the_dialect(self) -> StreamTable:
        if faults := list(self._faults()):
            raise ValueError("; ".join(faults))
        return self

    def _faults(self) -> Iterator[str]:
        yield from _strays(self, _STREAM_KEYS, self.dialect, "")
        for name, value in self.values.items():
            yield from _strays(value, _VALUE_KEYS, self.dialect, f"values.{name}.")
            if value.pointer is not None and value.jmespath is not None:
                yield f"values.{name}: pointer or jmespath, not both"
        if self.time is not None:
            yield from _strays(self.time, _TIME_KEYS, self.dialect, "time.")
        if self.join_s is not None and self.hold_s is not None:
            yield "join_s or hold_s, not both"
        if self.time is not None and self.time.topic is not None and self.join_s is None:
            yield "time.topic needs join_s: how long after its value a time may come"
        if self.dialect == "picture" and len(self.values) > 1:
            yield "dialect 'picture' needs one value"
        yield from self._faults_of_names()
        yield from self._faults_of_topics()
        needed = _NEEDS.get(self.dialect)
        if needed is not None and not _is_installed(needed):
            yield f"dialect {self.dialect!r} needs more: pip install 'atoll[dialects]'"

    def _faults_of_names(self) -> Iterator[str]:
        """Yield a fault for each value that the sender's names do not tell from others."""
        if self.dialect not in _NAMED:
            return
        found: dict[str, str] = {}
        for name, value in self.values.items():
            written = value.name or name
            other = found.setdefault(written, name)
            if other != name:
                yield f"values.{other} and values.{name} are both {written!r} at the sender"
            if self.dialect == "scalar" and TIME in {name, written}:
                yield f"values.{name}: {TIME!r} is the event time in dialect 'scalar'"

    def _faults_of_topics(self) -> Iterator[str]:
        topics = [TopicPattern(topic, needs_device=False) for topic in self.all_topics]
        if not topics and self.dialect not in {"atoll", "sparkplug"}:
            yield f"dialect {self.dialect!r} needs topics"
        if self.device == DEVICE and self._is_named_by_topic:
            for pattern in topics:
                if "device" not in pattern.names:
                    yield f"topic {pattern.text!r} needs exactly one level that is {DEVICE}"
        groups: dict[str, list[str]] = {}
        for pattern in topics:
            groups.setdefault(pattern.group, []).append(pattern.filter)
        narrow = [found for filters in groups.values() for found in without_overlaps(filters)]
        if len(without_overlaps(narrow)) < len(narrow):
            yield "topics of different groups overlap: a reading would come once for each"

    @property
    def all_topics(self) -> list[str]:
        """The topics of the stream and those of single values and the time."""
        of_values = [value.topic for value in self.values.values() if value.topic is not None]
        of_time = [self.time.topic] if self.time is not None and self.time.topic is not None else []
        return [*of_values, *of_time, *self.topics]

    @property
    def _is_named_by_topic(self) -> bool:
        return "{device}" not in self.each and self.dialect not in {
            "sparkplug",
            "influx",
            "senml",
            "senml-cbor",
        }

    def build(self, site: str) -> Stream:
        """Return the stream as it is at ``site``."""
        return built(self, ReadingTopic.any_of(site=site, stream=self.name).replace("+", DEVICE))


class StreamsFile(Table):
    """A file of its own with streams, read by agent, recorder and simulator alike.

    Attributes:
        stream: The streams.
    """

    stream: Annotated[list[StreamTable], Field(min_length=1)]


def streams_elsewhere(path: Path, document: Mapping[str, Any], table: str) -> tuple[list[str], list[str]]:
    """Return the names of the streams in the ``streams_file`` of ``table``, and what is wrong with it."""
    role = document.get(table)
    named = role.get("streams_file") if isinstance(role, dict) else None
    if not isinstance(named, str):
        return [], []
    try:
        file = load(StreamsFile, path.absolute().parent / named, environment={})
    except ConfigError as error:
        return [], error.faults
    return [stream.name for stream in file.stream], []


def stream_faults(path: Path, table: str, document: Mapping[str, Any]) -> Iterator[Fault | str]:
    """Yield what is wrong with the file of streams that ``table`` names, and between it and this one."""
    elsewhere, faults = streams_elsewhere(path, document, table)
    yield from faults
    yield from twice(document, "stream", elsewhere)


def all_streams(own: Sequence[StreamTable], streams_file: Path | None) -> list[StreamTable]:
    """Return the streams of a settings file and of the file that it names.

    Raises:
        ConfigError: With one line per fault of the other file.
    """
    if streams_file is None:
        return list(own)
    return [*own, *load(StreamsFile, streams_file, environment={}).stream]


def _strays(table: Table, keys: dict[str, frozenset[str]], dialect: str, before: str) -> Iterator[str]:
    """Yield a fault for each key that is not for this dialect."""
    for field in sorted(table.model_fields_set):
        allowed = keys.get(field)
        if allowed is not None and dialect not in allowed:
            names = " and ".join(repr(name) for name in sorted(allowed)) if len(allowed) <= 2 else "others"  # noqa: PLR2004
            yield f"{before}{field} does not belong to dialect {dialect!r}, but to {names}"


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
