"""The trainer's settings file, ``trainer.toml``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field

from atoll_contract.errors import ConfigError
from atoll_link.broker import Broker
from atoll_link.place import Bucket, place
from atoll_link.recording_bounds import Bounds
from atoll_link.settings import BrokerTable, Site, Table, Writer, load
from atoll_link.settings_faults import Fault, twice
from atoll_link.stream_settings import StreamsFile, StreamTable, streams_elsewhere

_GB: Final = 1e9
_DAY_MS: Final = 86_400_000.0


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


class RecordingsTable(Table):
    """``[recordings]``: where the recorder keeps messages, and how much of them.

    The oldest parts are deleted when a bound is reached; files that were imported stay.

    Attributes:
        url: A bucket (``s3://bucket/folder``, extra ``s3``), or another store that fsspec knows; by default
            the folder ``recordings`` of the home. Journals stay in the home until they are stored.
        max_gb: Most gigabytes of recorded parts.
        max_age_days: Age from which on parts are deleted; by default none is for its age.
        min_free_gb: So much of the disk is left free, as long as there are parts to delete.
    """

    url: Annotated[str, Field(pattern=r"^[a-z][a-z0-9+.-]*://.+")] | None = None
    max_gb: Annotated[float, Field(gt=0)] = 10.0
    max_age_days: Annotated[float, Field(gt=0)] | None = None
    min_free_gb: Annotated[float, Field(ge=0)] = 0.5

    def bucket(self) -> Bucket | None:
        """Return the bucket, None where the recordings are in the home.

        Raises:
            ConfigError: There is no such kind of store here, or it is a folder of this machine.
        """
        if self.url is None:
            return None
        found = place(self.url)
        if isinstance(found, Bucket):
            return found
        raise ConfigError(f"recordings.url: {self.url} is a folder of this machine: name it as trainer.home")

    @property
    def bounds(self) -> Bounds:
        """How much is kept."""
        age_ms = None if self.max_age_days is None else self.max_age_days * _DAY_MS
        return Bounds(int(self.max_gb * _GB), age_ms, int(self.min_free_gb * _GB))


class TrainerSettings(Table):
    """The whole file.

    Attributes:
        trainer: Who this trainer is.
        broker: Where the broker is.
        recordings: Where messages are kept.
        stream: What is recorded.
    """

    trainer: TrainerTable
    broker: BrokerTable = BrokerTable()
    recordings: RecordingsTable = RecordingsTable()
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
