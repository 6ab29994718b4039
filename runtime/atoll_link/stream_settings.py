"""``[[stream]]`` of a settings file: what agent, recorder, simulator and dashboard read, and how."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from atoll_contract.errors import ConfigError
from atoll_contract.topics import ReadingTopic
from atoll_ingest.dialect import AtollDialect, Dialect
from atoll_ingest.picture import PictureDialect
from atoll_ingest.pointer import PointerDialect, parse_pointer
from atoll_ingest.stream import DEVICE, Overload, Stream, TopicPattern
from atoll_ingest.time import TimeUnit
from atoll_link.settings import Id, Table, load


def _valid_pointer(pointer: str) -> str:
    parse_pointer(pointer)
    return pointer


def _valid_pattern(topic: str) -> str:
    TopicPattern(topic)
    return topic


Pointer = Annotated[str, AfterValidator(_valid_pointer)]
Pattern = Annotated[str, AfterValidator(_valid_pattern)]


class ValueTable(Table):
    """``values.NAME`` of a stream: one value that its readings carry.

    Attributes:
        unit: Unit that the sensor sends; leave it out for a number without one.
        pointer: RFC 6901 JSON pointer, for the dialect ``json``.
    """

    unit: str | None = None
    pointer: Pointer | None = None


class TimeTable(Table):
    """``time`` of a stream: where its event time stands, for the dialect ``json``.

    Attributes:
        pointer: RFC 6901 JSON pointer.
        unit: How it is written: s, ms, us, ns or iso8601.
    """

    pointer: Pointer
    unit: TimeUnit = TimeUnit.MILLISECONDS


class StreamTable(Table):
    """``[[stream]]``: readings of one kind, from any number of devices.

    Attributes:
        name: Id of the stream.
        topics: Topic filters; the level ``{device}`` names the device, ``+`` is any level. By
            default the topic of our own dialect. Behind ``$share/GROUP/`` the broker gives each
            reading to one agent of the group; models of such a stream answer single readings.
        dialect: How payloads are written: ``atoll``, ``json`` or ``picture`` (JPEG or PNG; of its one
            value the model says what becomes of it).
        values: The values of a reading, by name.
        time: Where the event time stands (dialect ``json``); by default the time of arrival.
        retained: Whether a retained reading is used (once, flagged ``replayed``) or ignored.
        overload: What happens when readings come faster than they are answered: ``block`` leaves
            the rest at the broker (QoS 1), ``newest`` answers the newest of each device, ``sample``
            those that find room. Those left out enter their windows and are counted.
    """

    name: Id
    topics: Annotated[list[Pattern], Field(max_length=64)] = []
    dialect: Literal["atoll", "json", "picture"] = "atoll"
    values: Annotated[dict[str, ValueTable], Field(min_length=1, max_length=256)]
    time: TimeTable | None = None
    retained: Literal["ignore", "use"] = "ignore"
    overload: Overload = Overload.BLOCK

    @model_validator(mode="after")
    def _keys_fit_the_dialect(self) -> StreamTable:
        pointers = [value.pointer is not None for value in self.values.values()]
        if self.dialect == "picture" and (len(self.values) > 1 or not self.topics):
            raise ValueError("dialect 'picture' needs topics and one value")
        if self.dialect == "json":
            if not all(pointers):
                raise ValueError("dialect 'json' needs a pointer for every value")
            if not self.topics:
                raise ValueError("dialect 'json' needs topics")
        elif any(pointers) or self.time is not None:
            raise ValueError("pointer and time belong to dialect 'json'")
        return self

    def build(self, site: str) -> Stream:
        """Return the stream as it is at ``site``."""
        own = ReadingTopic.any_of(site=site, stream=self.name).replace("+", DEVICE)
        return Stream(
            name=self.name,
            patterns=tuple(TopicPattern(topic) for topic in self.topics or [own]),
            dialect=self._dialect(),
            units={name: value.unit for name, value in self.values.items()},
            use_retained=self.retained == "use",
            overload=self.overload,
        )

    def _dialect(self) -> Dialect:
        if self.dialect == "atoll":
            return AtollDialect()
        if self.dialect == "picture":
            return PictureDialect(*self.values)
        values = {name: parse_pointer(value.pointer or "") for name, value in self.values.items()}
        if self.time is None:
            return PointerDialect(values)
        return PointerDialect(values, parse_pointer(self.time.pointer), self.time.unit)


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
