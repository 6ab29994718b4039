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
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from atoll_contract.errors import ConfigError
from atoll_contract.ids import ID_PATTERN
from atoll_contract.topics import RESERVED_SITES, RESERVED_WRITERS
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


class MetricsTable(Table):
    """``[metrics]``: an endpoint for Prometheus.

    Attributes:
        port: TCP port of ``/metrics``; by default there is none.
        host: Address that it listens on. Whoever reaches it may read: it knows no password.
    """

    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    host: Annotated[str, Field(min_length=1, max_length=253)] = "127.0.0.1"


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
