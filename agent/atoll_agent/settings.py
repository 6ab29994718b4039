"""The agent's settings file, ``agent.toml``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from atoll_contract.bundle import MAX_BUNDLE_BYTES
from atoll_contract.errors import ConfigError
from atoll_link.settings import BrokerTable, Id, Site, StreamsFile, StreamTable, Table, Writer, load


class AgentTable(Table):
    """``[agent]``: who this agent is and where it keeps its state.

    Attributes:
        id: Level 4 of the topics it writes, and its MQTT user name.
        site: Level 3 of the topics it reads and writes.
        state_dir: Folder of slots, bundles and enrolment.
        channel: Channel of releases that its models follow, besides ``stable``.
        streams_file: A file with ``[[stream]]`` tables, shared with recorder and simulator.
        max_devices: Devices that a model keeps windows for; the longest silent one goes first.
        max_bundle_bytes: The largest bundle that it fetches; a larger release is refused.
        clock: Whether the system clock is right: ``auto`` asks the system whether a time server has set
            it, ``trusted`` is for a clock that is kept right in another way, ``untrusted`` for none.
        status_interval_s: How often the status is published, if it changed.
        trusted_writers: Whose labels count, besides those of a device about itself.
        alive_file: A file that is touched every 15 s as long as all goes on, for a container's probe.
    """

    id: Writer
    site: Site
    state_dir: Path = Path("/var/lib/atoll")
    channel: Id = "stable"
    streams_file: Path | None = None
    max_devices: Annotated[int, Field(ge=1, le=1_000_000)] = 16_384
    max_bundle_bytes: Annotated[int, Field(ge=1024, le=MAX_BUNDLE_BYTES)] = MAX_BUNDLE_BYTES
    clock: Literal["auto", "trusted", "untrusted"] = "auto"
    status_interval_s: Annotated[float, Field(ge=0.1, le=3600)] = 10.0
    trusted_writers: Annotated[list[Writer], Field(max_length=256)] = []
    alive_file: Path | None = None


class ModelTable(Table):
    """``[[model]]``: a model that answers a stream, once a release of it is there.

    Attributes:
        name: Id of the model, as the trainer publishes it.
        stream: The stream whose readings it answers.
        channel: Its channel, if not the agent's.
        accelerator: ``auto`` or ``cpu``.
    """

    name: Id
    stream: Id
    channel: Id | None = None
    accelerator: Literal["auto", "cpu"] = "auto"


class AgentSettings(Table):
    """The whole file.

    Attributes:
        agent: Who this agent is.
        broker: Where the broker is.
        stream: What it reads.
        model: What answers.
    """

    agent: AgentTable
    broker: BrokerTable = BrokerTable()
    stream: Annotated[list[StreamTable], Field(max_length=256)] = []
    model: Annotated[list[ModelTable], Field(max_length=256)] = []

    @classmethod
    def read(cls, path: Path) -> AgentSettings:
        """Return the settings in ``path``, with the streams of its ``streams_file``.

        Raises:
            ConfigError: With one line per fault.
        """
        settings = load(cls, path, across=lambda document: _faults_across(path, document))
        streams = list(settings.stream)
        if settings.agent.streams_file is not None:
            streams += load(StreamsFile, settings.agent.streams_file, environment={}).stream
        return settings.model_copy(update={"stream": streams})


def _faults_across(path: Path, document: Mapping[str, Any]) -> list[str]:
    """Return what is wrong between tables, and in the file of streams that they name."""
    streams, faults = _streams_elsewhere(path, document)
    streams += _names(document.get("stream"), "name")
    models = document.get("model")
    for kind, names in (("stream", streams), ("model", _names(models, "name"))):
        faults += [f"{path}: {kind}: {name!r} stands twice" for name in sorted(_twice(names))]
    faults += [
        f"{path}: model[{number}].stream: there is no stream {stream!r}"
        for number, stream in enumerate(_names(models, "stream"))
        if stream and stream not in streams
    ]
    return faults


def _streams_elsewhere(path: Path, document: Mapping[str, Any]) -> tuple[list[str], list[str]]:
    """Return the names of the streams in the file of streams, and what is wrong with that file."""
    agent = document.get("agent")
    named = agent.get("streams_file") if isinstance(agent, dict) else None
    if not isinstance(named, str):
        return [], []
    try:
        file = load(StreamsFile, path.absolute().parent / named, environment={})
    except ConfigError as error:
        return [], error.faults
    return [stream.name for stream in file.stream], []


def _names(tables: object, key: str) -> list[str]:
    """Return ``key`` of each table, empty where it is missing or no text."""
    if not isinstance(tables, list):
        return []
    found = [table.get(key) if isinstance(table, dict) else None for table in tables]
    return [name if isinstance(name, str) else "" for name in found]


def _twice(names: list[str]) -> set[str]:
    return {name for name in names if name and names.count(name) > 1}
