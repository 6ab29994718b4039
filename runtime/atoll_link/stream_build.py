"""From the tables of a stream to the stream: names become finders, forms and decoders, once, at the start."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final
from zoneinfo import ZoneInfo

from atoll_ingest.cbor import cbor_document
from atoll_ingest.dialect import AtollDialect, Dialect, Format
from atoll_ingest.document import DocumentFormat, Find, Places, Pointed, Searched
from atoll_ingest.influx import InfluxFormat
from atoll_ingest.opcua import OpcuaFormat
from atoll_ingest.picture import PictureDialect
from atoll_ingest.pointer import PointerDialect, json_document, parse_pointer
from atoll_ingest.reader import Recipe, Template
from atoll_ingest.registers import Register
from atoll_ingest.scalar import TIME, ScalarFormat
from atoll_ingest.senml import SenmlFormat
from atoll_ingest.sparkplug import TOPICS, SparkplugFormat
from atoll_ingest.stream import Stream
from atoll_ingest.time import TimeForm, TimeUnit
from atoll_ingest.topic import DEVICE, TopicPattern
from atoll_ingest.value import MISSING, WORDS, ValueForm

if TYPE_CHECKING:
    from atoll_link.stream_settings import StreamTable, TimeTable, ValueTable

_LOADS: Final[dict[str, Callable[[bytes], object]]] = {
    "json": json_document, "cbor": cbor_document, "senml": json_document, "senml-cbor": cbor_document,
}  # fmt: skip
_TIME_UNITS: Final = {
    "senml": TimeUnit.SECONDS,
    "senml-cbor": TimeUnit.SECONDS,
    "influx": TimeUnit.NANOSECONDS,
    "opcua": TimeUnit.ISO8601,
}
"""How times are written, by dialect; milliseconds in the others."""
_PLAIN: Final = ValueForm()


def built(table: StreamTable, own_topic: str) -> Stream:
    """Return the stream that ``table`` describes; ``own_topic`` is where our own dialect is spoken."""
    topics = table.all_topics
    if not topics:
        topics = list(TOPICS) if table.dialect == "sparkplug" else [own_topic]
    needs_device = table.dialect in {"atoll", "picture"} or (
        table.dialect == "json" and table.device == DEVICE
    )
    return Stream(
        name=table.name,
        patterns=tuple(
            TopicPattern(topic, needs_device=needs_device and "{device}" not in table.each)
            for topic in topics
        ),
        dialect=_dialect(table),
        units={name: value.unit for name, value in table.values.items()},
        use_retained=table.retained == "use",
        overload=table.overload,
        ignored=tuple(TopicPattern(topic, needs_device=False) for topic in table.ignore),
    )


def _dialect(table: StreamTable) -> Dialect | Recipe:
    if table.dialect == "atoll":
        return AtollDialect()
    if table.dialect == "picture":
        return PictureDialect(*table.values)
    forms = {name: form for name, value in table.values.items() if (form := _form(table, value)) != _PLAIN}
    time_form = _time_form(table.time, table.dialect)
    if _is_plain(table):
        time = None if table.time is None or table.time.pointer is None else parse_pointer(table.time.pointer)
        pointers = {name: parse_pointer(_pointer(table, name)) for name in table.values}
        return PointerDialect(pointers, time, time_form, forms)
    has_time_topic = table.time is not None and table.time.topic is not None
    values_of = {
        value.topic: value.name or name for name, value in table.values.items() if value.topic is not None
    }
    if table.time is not None and table.time.topic is not None:
        values_of[table.time.topic] = TIME
    return Recipe(
        format=_format(table, time_form),
        name=table.dialect,
        device=table.device,
        forms=forms,
        time_form=time_form,
        units={name: value.unit for name, value in table.values.items() if value.unit is not None},
        join_ms=None if table.join_s is None else table.join_s * 1e3,
        hold_ms=None if table.hold_s is None else table.hold_s * 1e3,
        values_of=values_of,
        has_time_topic=has_time_topic,
    )


def _is_plain(table: StreamTable) -> bool:
    """Whether a message is one reading of the device in its topic, and can be read by itself."""
    values, time = table.values.values(), table.time
    return not (
        table.dialect != "json"
        or table.device != DEVICE
        or table.each
        or table.header is not None
        or table.columns
        or table.first_register is not None
        or table.join_s is not None
        or table.hold_s is not None
        or any(value.jmespath is not None or value.unit_pointer is not None for value in values)
        or (time is not None and (time.jmespath or time.step_s or time.step_pointer is not None))
    )


def _format(table: StreamTable, time_form: TimeForm) -> Format:
    names = {value.name or name: name for name, value in table.values.items()}
    match table.dialect:
        case "scalar":
            named = {name: name for name in table.values}
            return ScalarFormat({**named, **names, TIME: TIME})
        case "senml" | "senml-cbor":
            return SenmlFormat(names, _LOADS[table.dialect])
        case "sparkplug":
            return SparkplugFormat(names)
        case "influx":
            return InfluxFormat(names, table.measurement)
        case "opcua":
            return OpcuaFormat(names)
        case _:
            return DocumentFormat(
                places=_places(table),
                each=parse_pointer(table.each),
                header=None if table.header is None else parse_pointer(table.header),
                are_columns=table.columns,
                time_form=time_form,
                load=_LOADS[table.dialect],
            )


def _places(table: StreamTable) -> Places:
    time = table.time
    steps = time is not None and time.step_pointer is not None
    return Places(
        values={name: _find_value(table, name, value) for name, value in table.values.items()},
        time=None if time is None else _find(time.pointer, time.jmespath),
        parts={
            name: Pointed(parse_pointer(name))
            for name in Template(table.device).names
            if name.startswith("/")
        },
        units={
            name: Pointed(parse_pointer(value.unit_pointer))
            for name, value in table.values.items()
            if value.unit_pointer is not None
        },
        first_register=None if table.first_register is None else Pointed(parse_pointer(table.first_register)),
        step=Pointed(parse_pointer(time.step_pointer))
        if time is not None and steps and time.step_pointer is not None
        else None,
        step_ms=None if time is None or time.step_s is None else time.step_s * 1e3,
    )


def _find_value(table: StreamTable, name: str, value: ValueTable) -> Find:
    return (
        Searched(value.jmespath)
        if value.jmespath is not None
        else Pointed(parse_pointer(_pointer(table, name)))
    )


def _find(pointer: str | None, jmespath: str | None) -> Find | None:
    if jmespath is not None:
        return Searched(jmespath)
    return None if pointer is None else Pointed(parse_pointer(pointer))


def _pointer(table: StreamTable, name: str) -> str:
    """Return where a value stands: where it says, else under its name."""
    pointer = table.values[name].pointer
    return f"{table.at}/{name.replace('~', '~0').replace('/', '~1')}" if pointer is None else pointer


def _form(table: StreamTable, value: ValueTable) -> ValueForm:
    modbus = value.modbus
    words = {text.strip().lower(): number for text, number in {**table.words, **value.words}.items()}
    missing = {text.strip().lower() for text in [*table.missing, *value.missing]}
    return ValueForm(
        words={**WORDS, **words} if words else WORDS,
        missing=MISSING | missing,
        decimal=value.decimal or table.decimal,
        suffix=value.suffix,
        scale=value.scale,
        offset=value.offset,
        register=None
        if modbus is None
        else Register(modbus.address, modbus.type, is_low_first=modbus.word_order == "little"),
    )


def _time_form(time: TimeTable | None, dialect: str) -> TimeForm:
    unit = _TIME_UNITS.get(dialect, TimeUnit.MILLISECONDS)
    if time is None:
        return TimeForm(unit)
    zone = ZoneInfo(time.zone)
    earliest = time.earliest if time.earliest.tzinfo else time.earliest.replace(tzinfo=zone)
    return TimeForm(time.unit or unit, zone, tuple(time.formats), earliest.timestamp() * 1e3)
