"""From readings to the messages of a stream, in any dialect: the inverse of what reads them.

What a writer writes, the stream's own reader reads back as the same reading; simulated devices speak
through it. Some keys of a stream have no inverse (a JMESPath expression, registers, columns): it is told
which when the writer is made.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec

from atoll_contract.errors import ConfigError
from atoll_contract.ids import escape, unescape
from atoll_contract.messages import Reading, Value, encode_reading
from atoll_ingest.pointer import parse_pointer
from atoll_ingest.reader import Template
from atoll_ingest.scalar import VALUE
from atoll_ingest.senml import BASE
from atoll_ingest.sparkplug import TOPICS
from atoll_ingest.sparkplug_schema import payload_class
from atoll_ingest.time import TimeUnit
from atoll_link.stream_settings import StreamTable

_NAMED: Final = re.compile(r"\{([a-z][a-z0-9_]*)(?:\.\.\.)?\}")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_DOUBLE: Final = 10
"""Sparkplug's number for a double."""
_SENML_LABELS: Final = {"bn": -2, "bt": -3, "n": 0, "u": 1, "v": 2}


class Message(NamedTuple):
    """What is to be published."""

    topic: str
    payload: bytes


class StreamWriter:
    """Writes the readings of one stream.

    Args:
        table: The stream, as settings describe it.
        site: Where it is.

    Raises:
        ConfigError: It has a key that has no inverse; each is named.
    """

    def __init__(self, table: StreamTable, site: str) -> None:
        if faults := list(_faults(table)):
            raise ConfigError([f"stream {table.name!r}: {fault}" for fault in faults])
        self._table = table
        self._topics = [pattern.text.removeprefix(pattern.group) for pattern in table.build(site).patterns]
        names = Template(table.device).names
        self._device_part = names[0] if names else "device"
        unit = None if table.time is None else table.time.unit
        self._time = _TIMES[unit or _DEFAULT_UNITS.get(table.dialect, TimeUnit.MILLISECONDS)]
        self._sparkplug = _Sparkplug(table) if table.dialect == "sparkplug" else None
        self._write = self._way()

    def begin(self, device: str) -> None:
        """Note that ``device`` starts anew: where a dialect has births, its next reading is one."""
        if self._sparkplug is not None:
            self._sparkplug.begin(device)

    def messages(self, device: str, reading: Reading) -> list[Message]:
        """Return the messages that tell ``reading``, in order; a missing value is left out.

        Raises:
            ValueError: The dialect has no way to write one of the values.
        """
        values: Mapping[str, Value] = (
            reading.values if isinstance(reading.values, dict) else {"value": reading.values}
        )
        told: dict[str, Value] = {
            name: value for name, value in values.items() if value is not None and name in self._names
        }
        return list(self._write(device, reading, told))

    @property
    def _names(self) -> Mapping[str, object]:
        return self._table.values

    def _way(self) -> Callable[[str, Reading, dict[str, Value]], Iterator[Message]]:
        ways = {
            "atoll": self._atoll,
            "scalar": self._scalars,
            "senml": self._senml,
            "senml-cbor": self._senml,
            "sparkplug": self._metrics,
            "influx": self._line,
            "opcua": self._opcua,
        }
        return ways.get(self._table.dialect, self._document)

    def _atoll(self, device: str, reading: Reading, told: dict[str, Value]) -> Iterator[Message]:
        written = msgspec.structs.replace(reading, values=told)
        yield Message(_filled(self._topics[0], {"device": device}), encode_reading(written))

    def _document(self, device: str, reading: Reading, told: dict[str, Value]) -> Iterator[Message]:
        table, name = self._table, _name(device)
        element: dict[str, Any] = {}
        for value, number in told.items():
            described = table.values[value]
            pointer = described.pointer
            place = [*parse_pointer(table.at), value] if pointer is None else parse_pointer(pointer)
            _put(element, place, self._raw(value, number))
            if described.unit_pointer is not None:
                _put(element, parse_pointer(described.unit_pointer), described.unit)
        if table.time is not None and table.time.pointer is not None and reading.time_ms is not None:
            _put(element, parse_pointer(table.time.pointer), self._time(reading.time_ms))
        if self._device_part.startswith("/"):
            _put(element, parse_pointer(self._device_part), name)
        whole: Any = element
        for level in reversed(parse_pointer(table.each)):
            whole = [whole] if level == "*" else {name if _NAMED.fullmatch(level) else level: whole}
        yield Message(self._topic(device), self._encoded(whole))

    def _scalars(self, device: str, reading: Reading, told: dict[str, Value]) -> Iterator[Message]:
        table = self._table
        if table.time is not None and table.time.topic is not None and reading.time_ms is not None:
            topic = _filled(table.time.topic, self._parts(device))
            yield Message(topic, str(self._time(reading.time_ms)).encode())
        for value, number in told.items():
            described = table.values[value]
            decimal = described.decimal or table.decimal
            text = repr(_single(value, self._raw(value, number))).replace(".", decimal) + described.suffix
            parts = self._parts(device) | {VALUE: described.name or value}
            topic = described.topic or next(topic for topic in self._topics if f"{{{VALUE}}}" in topic)
            yield Message(_filled(topic, parts), text.encode())

    def _senml(self, device: str, reading: Reading, told: dict[str, Value]) -> Iterator[Message]:
        base: dict[str, object] = {}
        if self._device_part == BASE:
            base["bn"] = f"{_name(device)}/"
        if reading.time_ms is not None:
            base["bt"] = self._time(reading.time_ms)
        pack: list[dict[str, object]] = []
        for value, number in told.items():
            described = self._table.values[value]
            record = {"n": described.name or value, "v": _single(value, self._raw(value, number))}
            unit = {} if described.unit is None else {"u": described.unit}
            pack.append((base if not pack else {}) | record | unit)
        topic = self._topic(device)
        if self._table.dialect == "senml":
            yield Message(topic, msgspec.json.encode(pack))
        else:
            yield Message(
                topic, _cbor([{_SENML_LABELS[key]: inner for key, inner in one.items()} for one in pack])
            )

    def _metrics(self, device: str, reading: Reading, told: dict[str, Value]) -> Iterator[Message]:
        assert self._sparkplug is not None  # noqa: S101 - made with the dialect
        raw = {value: _single(value, self._raw(value, number)) for value, number in told.items()}
        kind, payload = self._sparkplug.write(device, raw, reading.time_ms)
        pattern = next(topic for topic in self._topics if "{device}" in topic)
        yield Message(_filled(pattern, {"type": kind, "device": _name(device)}), payload)

    def _line(self, device: str, reading: Reading, told: dict[str, Value]) -> Iterator[Message]:
        table = self._table
        fields = ",".join(
            f"{_tag(table.values[value].name or value)}={_single(value, self._raw(value, number))!r}"
            for value, number in told.items()
        )
        topic = self._topic(device)
        has_tag = all(f"{{{self._device_part}}}" not in pattern for pattern in self._topics)
        tag = f",{_tag(self._device_part)}={_tag(_name(device))}" if has_tag else ""
        time = "" if reading.time_ms is None else f" {self._time(reading.time_ms)}"
        yield Message(topic, f"{_tag(table.measurement or table.name)}{tag} {fields}{time}".encode())

    def _opcua(self, device: str, reading: Reading, told: dict[str, Value]) -> Iterator[Message]:
        time = {} if reading.time_ms is None else {"SourceTimestamp": self._time(reading.time_ms)}
        payload = {
            self._table.values[value].name or value: {"Value": self._raw(value, number), **time}
            for value, number in told.items()
        }
        message = {"DataSetWriterName": _name(device), "MessageType": "ua-deltaframe", "Payload": payload}
        document = {"MessageType": "ua-data", "Messages": [message]}
        yield Message(self._topic(device), msgspec.json.encode(document))

    def _raw(self, name: str, value: Value) -> Value:
        """Return what the sender writes, so that scale and offset give ``value``."""
        described = self._table.values[name]
        if described.scale == 1.0 and described.offset == 0.0:
            return value
        if isinstance(value, list):
            return [self._raw(name, inner) for inner in value]
        return None if value is None else (value - described.offset) / described.scale

    def _encoded(self, document: object) -> bytes:
        return _cbor(document) if self._table.dialect == "cbor" else msgspec.json.encode(document)

    def _topic(self, device: str) -> str:
        return _filled(self._topics[0], self._parts(device))

    def _parts(self, device: str) -> dict[str, str]:
        return {self._device_part: _name(device)}


class _Sparkplug:
    """Names in births, numbers in data, and the sequence number that both share."""

    def __init__(self, table: StreamTable) -> None:
        self._table = table
        self._payload = payload_class()
        self._next_seq: dict[str, int] = {}

    def begin(self, device: str) -> None:
        self._next_seq.pop(device, None)

    def write(self, device: str, raw: Mapping[str, float], time_ms: float | None) -> tuple[str, bytes]:
        """Return the type of the message and the message: a birth tells names, units and all values."""
        seq = self._next_seq.get(device)
        message = self._payload(seq=seq or 0, **({} if time_ms is None else {"timestamp": round(time_ms)}))
        for alias, (value, described) in enumerate(self._table.values.items(), start=1):
            number = {"is_null": True} if value not in raw else {"double_value": raw[value]}
            if seq is not None and value not in raw:
                continue
            named = {"name": described.name or value} if seq is None else {}
            metric = message.metrics.add(alias=alias, datatype=_DOUBLE, **named, **number)
            if seq is None and described.unit is not None:
                metric.properties.keys.append("engUnit")
                metric.properties.values.add(type=12, string_value=described.unit)
        self._next_seq[device] = ((seq or 0) + 1) % 256
        return ("DBIRTH" if seq is None else "DDATA"), message.SerializeToString()


def _faults(table: StreamTable) -> Iterator[str]:
    """Yield why a stream cannot be written, if it cannot."""
    if table.dialect == "picture":
        yield "dialect 'picture' is written by whoever has the picture"
    keys = [key for key in ("header", "columns", "first_register") if getattr(table, key)]
    for name, value in table.values.items():
        keys += [f"values.{name}.{key}" for key in ("jmespath", "modbus") if getattr(value, key) is not None]
        if value.scale == 0:
            yield f"values.{name}.scale is 0: nothing can be told of the number"
    if table.time is not None:
        keys += [f"time.{key}" for key in ("jmespath", "step_s", "step_pointer") if getattr(table.time, key)]
    for key in keys:
        yield f"{key} cannot be written, only read"
    yield from _faults_of_places(table)


def _faults_of_places(table: StreamTable) -> Iterator[str]:
    names = Template(table.device).names
    if len(names) != 1 or table.device != f"{{{names[0]}}}":
        yield f"device {table.device!r} is made of several parts: write it as one, {{device}}"
    has_level = any(f"{{{VALUE}}}" in topic for topic in table.topics)
    if table.dialect == "scalar" and not has_level and not all(one.topic for one in table.values.values()):
        yield f"no topic has a level {{{VALUE}}}, and not every value has a topic of its own"
    if table.dialect == "sparkplug" and table.topics and TOPICS[1] not in table.topics:
        yield f"topics: {TOPICS[1]} must be one of them"


def _name(device: str) -> str:
    """Return the foreign name that readers make the id ``device`` of."""
    return device if escape(device) == device else unescape(device)


def _filled(topic: str, parts: Mapping[str, str]) -> str:
    """Return a topic of a pattern; levels that say nothing about the reading get names of their own."""
    levels = [
        "x" if level == "+" else _NAMED.sub(lambda found: parts.get(found[1], found[1]), level)
        for level in topic.split("/")
    ]
    return "/".join(levels)


def _put(document: dict[str, Any], tokens: Any, inner: object) -> None:
    *outer, last = tokens
    for token in outer:
        document = document.setdefault(token, {})
    document[last] = inner


def _single(name: str, value: Value) -> float:
    if value is None or isinstance(value, list):
        raise ValueError(f"{name}: this dialect has no arrays")
    return float(value)


def _tag(text: str) -> str:
    """Return a name of line protocol, whose signs are spelt out."""
    return re.sub(r"([,= \\])", r"\\\1", text)


def _cbor(document: object) -> bytes:
    import cbor2  # noqa: PLC0415 - only for those who use it

    return bytes(cbor2.dumps(document))


def _iso8601(time_ms: float) -> str:
    return (_EPOCH + timedelta(milliseconds=time_ms)).isoformat(timespec="microseconds")


_DEFAULT_UNITS: Final = {
    "senml": TimeUnit.SECONDS,
    "senml-cbor": TimeUnit.SECONDS,
    "influx": TimeUnit.NANOSECONDS,
    "opcua": TimeUnit.ISO8601,
}
_TIMES: Final[Mapping[TimeUnit, Callable[[float], float | str]]] = {
    TimeUnit.SECONDS: lambda time_ms: time_ms / 1e3,
    TimeUnit.MILLISECONDS: lambda time_ms: time_ms,
    TimeUnit.MICROSECONDS: lambda time_ms: round(time_ms * 1e3),
    TimeUnit.NANOSECONDS: lambda time_ms: round(time_ms * 1e6),
    TimeUnit.ISO8601: _iso8601,
    TimeUnit.AUTO: lambda time_ms: time_ms,
}
"""How an event time is written."""
