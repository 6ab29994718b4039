"""The trainer's settings file, ``trainer.toml``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field

from atoll_contract.errors import ConfigError
from atoll_link.broker import Broker
from atoll_link.settings import BrokerTable, Site, Table, Writer, load
from atoll_link.stream_settings import StreamsFile, StreamTable


class TrainerTable(Table):
    """``[trainer]``: who this trainer is.

    Attributes:
        id: Level 4 of the topics it writes, and its MQTT user name.
        site: Level 3 of the topics it reads and writes.
        home: Folder of keys, repository, recordings and runs; by default ``/var/lib/atoll-trainer`` if
            that can be written, else ``atoll-trainer`` in the XDG state folder (``~/.local/state``).
        streams_file: A file with ``[[stream]]`` tables, shared with agents and simulator.
        trusted_writers: Whose labels count, besides those of a device about itself.
    """

    id: Writer = "trainer"
    site: Site
    home: Path | None = None
    streams_file: Path | None = None
    trusted_writers: Annotated[list[Writer], Field(max_length=256)] = []


class TrainerSettings(Table):
    """The whole file.

    Attributes:
        trainer: Who this trainer is.
        broker: Where the broker is.
        stream: What is recorded.
    """

    trainer: TrainerTable
    broker: BrokerTable = BrokerTable()
    stream: Annotated[list[StreamTable], Field(max_length=256)] = []

    def build_broker(self) -> Broker:
        """Return the broker as this trainer sees it.

        Raises:
            ConfigError: The password file cannot be read.
        """
        broker = self.broker.build(self.trainer.id)
        broker.require_password()
        return broker

    @classmethod
    def read(cls, path: Path) -> TrainerSettings:
        """Return the settings in ``path``, with the streams of its ``streams_file``.

        Raises:
            ConfigError: With one line per fault.
        """
        settings = load(cls, path)
        streams = list(settings.stream)
        if settings.trainer.streams_file is not None:
            streams += load(StreamsFile, settings.trainer.streams_file, environment={}).stream
        names = [stream.name for stream in streams]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"{path}: stream: {', '.join(twice)} stands twice")
        return settings.model_copy(update={"stream": streams})
