"""The dashboard's settings file, ``dashboard.toml``."""

from __future__ import annotations

from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from atoll_ingest.stream import Stream
from atoll_link.broker import Broker
from atoll_link.settings import BrokerTable, Site, Table, Writer, load
from atoll_link.stream_settings import StreamTable, all_streams, stream_faults

RequestName = Literal["promote", "withdraw"]


class DashboardTable(Table):
    """``[dashboard]``: who this dashboard is and what it shows.

    Attributes:
        id: Level 4 of the topics of its requests, and its MQTT user name.
        site: Level 3 of the topics that it reads.
        all_sites: Whether agents and devices of all other sites are shown too.
        streams_file: A file with ``[[stream]]`` tables, shared with agents, recorder and simulator.
        max_devices: Devices that it keeps samples of; the longest silent one goes.
    """

    id: Writer = "dashboard"
    site: Site
    all_sites: bool = False
    streams_file: Path | None = None
    max_devices: Annotated[int, Field(ge=1, le=100_000)] = 4096


class WebTable(Table):
    """``[web]``: where browsers find it.

    Attributes:
        host: Address that it listens on; any other than this machine's own needs a password.
        port: TCP port.
        names: Names by which browsers reach it, besides ``host``, through a proxy, say; they need a password.
            None: any name will do with a password, and only those of this machine without.
        password_file: File that holds the password that people log in with; read anew at every login.
        session_hours: How long a login lasts.
        cert_file: Certificate, with the chain, to serve by HTTPS.
        key_file: Its key.
    """

    host: Annotated[str, Field(min_length=1, max_length=253)] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8080
    names: Annotated[list[str], Field(max_length=64)] = []
    password_file: Path | None = None
    session_hours: Annotated[float, Field(gt=0, le=24 * 30)] = 12.0
    cert_file: Path | None = None
    key_file: Path | None = None

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def url(self) -> str:
        """What to type into a browser."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http{'s' if self.cert_file else ''}://{host}:{self.port}"

    @model_validator(mode="after")
    def _is_safe(self) -> WebTable:
        if not self.is_local and self.password_file is None:
            raise ValueError("others can reach this host: password_file is needed")
        if self.names and self.password_file is None:
            raise ValueError("others can reach it by these names: password_file is needed")
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file go together")
        return self


class OperateTable(Table):
    """``[operate]``: what people may ask the trainer for; by default nothing.

    Attributes:
        requests: ``promote``, ``withdraw``, or both; the trainer must name this dashboard's id among its
            ``trusted_writers``.
        trainer: The trainer's id.
        site: The trainer's site, if not this dashboard's.
        timeout_s: How long an answer is waited for.
    """

    requests: Annotated[list[RequestName], Field(max_length=2)] = []
    trainer: Writer = "trainer"
    site: Site | None = None
    timeout_s: Annotated[float, Field(ge=1, le=600)] = 60.0


class DashboardSettings(Table):
    """The whole file.

    Attributes:
        dashboard: Who this dashboard is.
        broker: Where the broker is.
        web: Where browsers find it.
        operate: What people may ask the trainer for.
        stream: Readings that are not on atoll's own topics.
    """

    dashboard: DashboardTable
    broker: BrokerTable = BrokerTable()
    web: WebTable = WebTable()
    operate: OperateTable = OperateTable()
    stream: Annotated[list[StreamTable], Field(max_length=256)] = []

    def build_broker(self) -> Broker:
        """Return the broker as this dashboard sees it.

        Raises:
            ConfigError: The password file cannot be read.
        """
        broker = self.broker.build(self.dashboard.id)
        broker.require_password()
        return broker

    @property
    def foreign(self) -> list[Stream]:
        """The streams that are read from other topics, or in another dialect, than atoll's own."""
        return [
            table.build(self.dashboard.site)
            for table in self.stream
            if table.topics or table.preset is not None or table.dialect != "atoll"
        ]

    @classmethod
    def read(cls, path: Path) -> DashboardSettings:
        """Return the settings in ``path``, with the streams of its ``streams_file``.

        Raises:
            ConfigError: With one line per fault.
        """
        settings = load(cls, path, across=partial(stream_faults, path, "dashboard"))
        streams = all_streams(settings.stream, settings.dashboard.streams_file)
        return settings.model_copy(update={"stream": streams})
