"""The trainer's settings file, ``trainer.toml``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from atoll_link.broker import Broker
from atoll_link.settings import BrokerTable, Site, Table, Writer, load
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
        on_drift: Learn anew when agents report drift of the release that they run.
        drift_agents: So many of them have to.
        on_labels: Learn anew after so many new labels; 0: never.
        every_s: Learn anew so long after the last time; 0: never.
        history_s: Learn from nothing older.
        fresh_s: After a drift learn only from what was measured since it began, once that is so long ago.
        cool_down_s: Least time between two trainings; a request is obeyed all the same.
        train_s: A training that takes longer is ended.
        worse_by: How much larger than the champion's the error of a release may be, as a share.
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
    worse_by: Annotated[float, Field(ge=0)] = 0.05
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
        stream: What is recorded.
        loop: How the closed loop works.
        model: What the closed loop keeps up to date.
    """

    trainer: TrainerTable
    broker: BrokerTable = BrokerTable()
    stream: Annotated[list[StreamTable], Field(max_length=256)] = []
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
