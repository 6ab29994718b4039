"""The trainer's settings file, ``trainer.toml``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from atoll_link.broker import Broker
from atoll_link.settings import BrokerTable, MetricsTable, Site, Table, Writer, load
from atoll_link.settings_faults import Fault, twice
from atoll_link.stream_settings import StreamsFile, StreamTable, streams_elsewhere


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
        metrics: An endpoint for Prometheus, of ``record``.
    """

    trainer: TrainerTable
    broker: BrokerTable = BrokerTable()
    stream: Annotated[list[StreamTable], Field(max_length=256)] = []
    metrics: MetricsTable = MetricsTable()

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
        settings = load(cls, path, across=lambda document: _faults_across(path, document))
        streams = list(settings.stream)
        if settings.trainer.streams_file is not None:
            streams += load(StreamsFile, settings.trainer.streams_file, environment={}).stream
        return settings.model_copy(update={"stream": streams})


def _faults_across(path: Path, document: Mapping[str, Any]) -> Iterator[Fault | str]:
    """Yield what is wrong between tables, and in the file of streams that they name."""
    elsewhere, faults = streams_elsewhere(path, document, "trainer")
    yield from faults
    yield from twice(document, "stream", elsewhere)
