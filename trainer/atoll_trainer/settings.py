"""The trainer's settings file, ``trainer.toml``."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Final

from pydantic import Field

from atoll_contract.errors import ConfigError
from atoll_contract.release import CHUNK_BYTES, MAX_CHUNK_BYTES, MIN_CHUNK_BYTES
from atoll_link.broker import Broker
from atoll_link.place import Bucket, Folder, place
from atoll_link.recording_bounds import Bounds
from atoll_link.settings import BrokerTable, MetricsTable, Site, Table, Writer, load
from atoll_link.stream_settings import StreamTable, all_streams, stream_faults

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
        alive_file: A file that ``record`` and ``run`` touch every 15 s as long as they go on, for a
            container's probe.
        trusted_writers: Whose labels count, besides those of a device about itself.
        chunk_bytes: Most bytes of a retained message that new releases are cut into; fewer where the broker
            announces that (MQTT 5). A broker may retain less than it takes, and not announce that.
    """

    id: Writer = "trainer"
    site: Site
    home: Path | None = None
    streams_file: Path | None = None
    alive_file: Path | None = None
    trusted_writers: Annotated[list[Writer], Field(max_length=256)] = []
    chunk_bytes: Annotated[int, Field(ge=MIN_CHUNK_BYTES, le=MAX_CHUNK_BYTES)] = CHUNK_BYTES


class RecordingsTable(Table):
    """``[recordings]``: where the recorder keeps messages, and how much of them.

    The oldest parts are deleted when a bound is reached; files that were imported stay.

    Attributes:
        url: A bucket (``s3://bucket/folder``), or another store that fsspec knows; by default
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

    def where(self, folder: Path) -> Folder | Bucket:
        """Return where readers find them, with what the recorder of ``folder`` has not stored yet.

        Raises:
            ConfigError: As :meth:`bucket`.
        """
        bucket = self.bucket()
        return Folder(folder) if bucket is None else replace(bucket, journals=folder)

    @property
    def bounds(self) -> Bounds:
        """How much is kept."""
        age_ms = None if self.max_age_days is None else self.max_age_days * _DAY_MS
        return Bounds(int(self.max_gb * _GB), age_ms, int(self.min_free_gb * _GB))


class LoopTable(Table):
    """``[loop]``: what holds for all models of ``atoll-trainer run``.

    Attributes:
        records: Whether it records too; otherwise ``atoll-trainer record`` runs beside it.
    """

    records: bool = False


class ModelTable(Table):
    """``[[model]]``: a model that ``atoll-trainer run`` keeps up to date.

    Attributes:
        task: Task file; it names the model.
        on_drift: Learn anew when agents report drift of what they run, and follow up what comes of it.
        drift_agents: So many of them have to.
        on_labels: Learn anew after so many new labels; 0: never.
        every_s: Learn anew so long after the last time; 0: never.
        history_s: Learn from nothing older.
        fresh_s: After a drift learn only from what was measured since it began, once that is so long ago.
        cool_down_s: Least time between two trainings; a request is obeyed all the same.
        train_s: A training that takes longer is ended.
        worse_by: How much larger than the champion's the error of a release may be, as a share; turn by turn,
            so what is above 0 may add up.
        max_size_bytes: Of the model file of a release; a larger one is not published.
        max_latency_us: Of an answer of a release on this machine; a slower one is not published.
        canary_percent: Share of the devices that try it first; more where that would be nobody.
        settle_s: Devices that have not answered by then are not waited for.
        watch_s: How long the first devices run it before it is for all.
        withdraw_above: Share of the devices that may refuse it; when more do it is withdrawn.
        max_delay_s: Devices wait a random part of it before they fetch.
        keep_runs: Run folders that are kept.
    """

    task: Path
    on_drift: bool = True
    drift_agents: Annotated[int, Field(ge=1)] = 1
    on_labels: Annotated[int, Field(ge=0)] = 0
    every_s: Annotated[float, Field(ge=0)] = 0.0
    history_s: Annotated[float, Field(gt=0)] = 604_800.0
    fresh_s: Annotated[float, Field(ge=0)] = 600.0
    cool_down_s: Annotated[float, Field(ge=0)] = 3600.0
    train_s: Annotated[float, Field(gt=0)] = 3600.0
    worse_by: Annotated[float, Field(ge=0)] = 0.0
    max_size_bytes: Annotated[int, Field(ge=1)] | None = None
    max_latency_us: Annotated[float, Field(gt=0)] | None = None
    canary_percent: Annotated[int, Field(ge=1, le=100)] = 10
    settle_s: Annotated[float, Field(gt=0)] = 3600.0
    watch_s: Annotated[float, Field(ge=0)] = 600.0
    withdraw_above: Annotated[float, Field(ge=0, lt=1)] = 0.2
    max_delay_s: Annotated[int, Field(ge=0, le=7 * 86_400)] = 0
    keep_runs: Annotated[int, Field(ge=1, le=1000)] = 10


class TrainerSettings(Table):
    """The whole file.

    Attributes:
        trainer: Who this trainer is.
        broker: Where the broker is.
        recordings: Where messages are kept.
        stream: What is recorded.
        metrics: An endpoint for Prometheus, of ``record``.
        loop: How the closed loop works.
        model: What the closed loop keeps up to date.
    """

    trainer: TrainerTable
    broker: BrokerTable = BrokerTable()
    recordings: RecordingsTable = RecordingsTable()
    stream: Annotated[list[StreamTable], Field(max_length=256)] = []
    metrics: MetricsTable = MetricsTable()
    loop: LoopTable = LoopTable()
    model: Annotated[list[ModelTable], Field(max_length=256)] = []

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
        settings = load(cls, path, across=partial(stream_faults, path, "trainer"))
        streams = all_streams(settings.stream, settings.trainer.streams_file)
        return settings.model_copy(update={"stream": streams})
