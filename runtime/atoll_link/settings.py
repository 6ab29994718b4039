"""Settings: one TOML file, overridden by the environment, validated whole.

Every fault is reported at once, with file, line and key. Unknown keys are errors. An environment
variable ``ATOLL_BROKER__HOST`` overrides the key ``host`` of the table ``broker``. Secrets stand
in files of their own; a settings file holds only their paths. This is the one place that looks at
the environment.
"""

from __future__ import annotations

import os
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from atoll_contract.errors import ConfigError
from atoll_contract.ids import ID_PATTERN
from atoll_contract.topics import RESERVED_SITES, RESERVED_WRITERS, ReadingTopic
from atoll_ingest.dialect import AtollDialect, Dialect
from atoll_ingest.pointer import PointerDialect, parse_pointer
from atoll_ingest.stream import DEVICE, Overload, Stream, TopicPattern
from atoll_ingest.time import TimeUnit
from atoll_link.broker import Broker
from atoll_link.settings_faults import Fault, faults_of, told

ENVIRONMENT_PREFIX = "ATOLL_"
_AT_LINE: Final = re.compile(r"\(at line (\d+), column \d+\)\Z")
_PORTS: Final = {(False, False): 1883, (False, True): 8883, (True, False): 80, (True, True): 443}
"""By WebSocket and TLS."""


class Table(BaseModel):
    """Base of every table of a settings file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _valid_site(site: str) -> str:
    if site in RESERVED_SITES:
        raise ValueError(f"{site!r} is a reserved name")
    return site


def _valid_writer(writer: str) -> str:
    if writer in RESERVED_WRITERS:
        raise ValueError(f"{writer!r} is a reserved name")
    return writer


def _valid_host(host: str) -> str:
    if not host or any(sign in host for sign in "/@ \t\n"):
        raise ValueError("must be a name or an address alone; port, tls and username have keys of their own")
    return host


Id = Annotated[str, Field(pattern=ID_PATTERN)]
Site = Annotated[Id, AfterValidator(_valid_site)]
Writer = Annotated[Id, AfterValidator(_valid_writer)]


class BrokerTable(Table):
    """``[broker]``: where the MQTT broker is and how to log in.

    Attributes:
        host: Name or address of the broker.
        port: TCP port; by default 1883, or 8883 with ``tls``; for WebSocket 80 or 443.
        username: MQTT user name; by default the id of this agent or trainer if a password is set.
        password_file: File that holds the password.
        tls: Encrypt the connection.
        ca_file: Certificates to trust instead of the system's.
        cert_file: Own certificate, for mutual TLS.
        key_file: Key of the own certificate.
        websocket_path: Speak over WebSocket, to this path at the broker: ``/mqtt``, for most.
        keepalive_s: Longest silence before a ping.
    """

    host: Annotated[str, AfterValidator(_valid_host)] = "localhost"
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    username: str | None = None
    password_file: Path | None = None
    tls: bool = False
    ca_file: Path | None = None
    cert_file: Path | None = None
    key_file: Path | None = None
    websocket_path: Annotated[str, Field(pattern=r"^/[!-~]*$")] | None = None
    keepalive_s: Annotated[int, Field(ge=2, le=3600)] = 30

    @model_validator(mode="after")
    def _files_need_tls(self) -> BrokerTable:
        if not self.tls and (self.ca_file or self.cert_file or self.key_file):
            raise ValueError("ca_file, cert_file and key_file need tls = true")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file go together")
        return self

    def build(self, writer: str) -> Broker:
        """Return the broker as ``writer`` sees it."""
        default_port = _PORTS[self.websocket_path is not None, self.tls]
        return Broker(
            host=self.host,
            port=self.port or default_port,
            username=self.username or (writer if self.password_file else None),
            password_file=self.password_file,
            tls=self.tls,
            ca_file=self.ca_file,
            cert_file=self.cert_file,
            key_file=self.key_file,
            websocket_path=self.websocket_path,
            keepalive_s=self.keepalive_s,
        )


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
        dialect: How payloads are written: ``atoll`` or ``json``.
        values: The values of a reading, by name.
        time: Where the event time stands (dialect ``json``); by default the time of arrival.
        retained: Whether a retained reading is used (once, flagged ``replayed``) or ignored.
        overload: What happens when readings come faster than they are answered: ``block`` leaves
            the rest at the broker (QoS 1), ``newest`` answers the newest of each device, ``sample``
            those that find room. Those left out enter their windows and are counted.
    """

    name: Id
    topics: Annotated[list[Pattern], Field(max_length=64)] = []
    dialect: Literal["atoll", "json"] = "atoll"
    values: Annotated[dict[str, ValueTable], Field(min_length=1, max_length=256)]
    time: TimeTable | None = None
    retained: Literal["ignore", "use"] = "ignore"
    overload: Overload = Overload.BLOCK

    @model_validator(mode="after")
    def _keys_fit_the_dialect(self) -> StreamTable:
        pointers = [value.pointer is not None for value in self.values.values()]
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


SettingsT = TypeVar("SettingsT", bound=Table)


Across = Callable[[Mapping[str, Any]], Iterable[Fault | str]]
"""Finds faults that show only when tables are compared; those of other files it tells in full."""


def load(
    kind: type[SettingsT],
    path: Path,
    environment: Mapping[str, str] | None = None,
    *,
    across: Across = lambda _document: (),
) -> SettingsT:
    """Return the settings in ``path``, overridden by ``environment`` (by default the process's).

    Relative paths in the file are taken from the file's folder. ``across`` gets the file as it was read,
    so that it works beside faults of form.

    Raises:
        ConfigError: With one line per fault: file, line, key, what is wrong.
    """
    text, document = _read(path)
    faults: list[str] = []
    overridden: dict[tuple[str, ...], str] = {}
    for name, value in sorted((os.environ if environment is None else environment).items()):
        keys = tuple(name.removeprefix(ENVIRONMENT_PREFIX).lower().split("__"))
        # Other roles' overrides may stand in the same environment.
        if name.startswith(ENVIRONMENT_PREFIX) and len(keys) > 1 and keys[0] in kind.model_fields:
            if _override(document, keys, value):
                overridden[keys] = name
            else:
                faults.append(f"environment: {name}: only keys of plain tables can be overridden")
    found: list[Fault] = []
    try:
        settings = kind.model_validate(document)
    except ValidationError as error:
        found = faults_of(error, document)
    for fault in across(document):
        (faults if isinstance(fault, str) else found).append(fault)  # type: ignore[arg-type]
    if found:
        faults = [*told(found, path, text, overridden), *faults]
    if faults:
        # Without a cause: the error behind it would show the values of all keys.
        raise ConfigError(faults)
    anchored: SettingsT = _anchored(settings, path.absolute().parent)
    return anchored


def _read(path: Path) -> tuple[str, dict[str, Any]]:
    try:
        text = path.read_text(encoding="utf-8")
        return text, tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        line = _AT_LINE.search(str(error))
        where = f"{path}:{line[1]}" if line else str(path)
        raise ConfigError(f"{where}: not TOML: {error}") from error


def _override(document: dict[str, Any], keys: tuple[str, ...], value: str) -> bool:
    """Set a key of a table of ``document``; False: what stands there is no table."""
    for table in keys[:-1]:
        document = document.setdefault(table, {})
        if not isinstance(document, dict):
            return False
    document[keys[-1]] = _parsed(value)
    return True


def _parsed(value: str) -> object:
    """Return an array, a table or a quoted string as TOML reads it, anything else as it stands.

    Numbers and booleans stay text, so that an id may be ``7``: validation makes of them what the
    key wants.
    """
    if value[:1] not in {"[", "{", '"', "'"}:
        return value
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        return value


def _anchored(found: Any, folder: Path) -> Any:
    """Return ``found`` with every relative path in it, however deep, taken from ``folder``."""
    match found:
        case Path():
            return folder / found
        case Table():
            names = type(found).model_fields
            return found.model_copy(update={name: _anchored(getattr(found, name), folder) for name in names})
        case list() | tuple():
            return type(found)(_anchored(item, folder) for item in found)
        case dict():
            return {key: _anchored(value, folder) for key, value in found.items()}
        case _:
            return found
