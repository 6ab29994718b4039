"""The agent's settings file, ``agent.toml``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from atoll_agent.ports import Accelerator
from atoll_agent.rule_settings import ReportTable, RuleTable, faults_of_rules
from atoll_contract.bundle import MAX_BUNDLE_BYTES
from atoll_contract.errors import ConfigError
from atoll_link.settings import BrokerTable, Id, MetricsTable, Site, Table, Writer, load
from atoll_link.settings_faults import Fault, texts, told, twice
from atoll_link.stream_settings import StreamTable, all_streams, streams_elsewhere


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
        trusted_writers: Whose requests and labels count; a device's labels about itself do anyway.
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
        accelerator: What runs it, where the release has a file for both: ``edgetpu``, ``cpu``, or ``auto``,
            the fastest that gives its golden outputs.
        device: Path of the Edge TPU that runs it, if not that of ``[edgetpu]``.
        report: Publish predictions only when they say something new; by default each is published.
    """

    name: Id
    stream: Id
    channel: Id | None = None
    accelerator: Accelerator = Accelerator.AUTO
    device: str | None = None
    report: ReportTable | None = None


class HomeAssistantTable(Table):
    """``[homeassistant]``: let Home Assistant show models and releases by its MQTT discovery.

    Attributes:
        enabled: Whether it does.
        prefix: Its discovery prefix.
        writer: Its MQTT user name: if it is one of ``trusted_writers``, its button to install a release
            skips the random delay.
        max_sensors: Most sensors that it is shown: one for each device and model.
        expire_after_s: A sensor without a prediction for so long is unavailable; by default never.
        max_delay_s: Agents that answer a start of Home Assistant spread over so many seconds.
    """

    enabled: bool = False
    prefix: Annotated[str, Field(pattern=r"^[^+#/$\x00]+(/[^+#/\x00]+)*$", max_length=64)] = "homeassistant"
    writer: Writer = "homeassistant"
    max_sensors: Annotated[int, Field(ge=1, le=1000)] = 64
    expire_after_s: Annotated[int, Field(ge=1)] | None = None
    max_delay_s: Annotated[float, Field(ge=0, le=3600)] = 10.0


class EdgeTpuTable(Table):
    """``[edgetpu]``: how Edge TPUs are used, where there are any.

    Attributes:
        library: File of libedgetpu.
        device: Path of the one to use: ``/dev/apex_0`` (PCIe), or the port of a stick,
            ``/sys/bus/usb/devices/1-2``; by default the first that can be used.
        sysfs_root: Where sysfs is; device nodes are in ``dev`` beside it.
        deadline_s: Longest time of an inference; then the CPU answers, and the device is started anew.
        open_timeout_s: Longest time of opening a device.
        restarts_per_minute: Faults in a minute after which it rests.
        return_after_s: How long it rests, before each further attempt.
    """

    library: Annotated[str, Field(min_length=1)] = "libedgetpu.so.1"
    device: str | None = None
    sysfs_root: Path = Path("/sys")
    deadline_s: Annotated[float, Field(ge=0.01, le=60)] = 2.0
    open_timeout_s: Annotated[float, Field(ge=1, le=600)] = 60.0
    restarts_per_minute: Annotated[int, Field(ge=0, le=1_000_000)] = 5
    return_after_s: Annotated[float, Field(ge=0.1, le=86_400)] = 60.0


class SpoolTable(Table):
    """``[spool]``: keep predictions on disk that the broker does not take.

    Attributes:
        enabled: Whether they are, in ``spool.db`` of the state folder.
        max_bytes: So much may wait; beyond it the oldest are lost, and counted as ``predictions_lost``.
        after_s: So long the broker may be away before anything is written.
    """

    enabled: bool = False
    max_bytes: Annotated[int, Field(ge=65_536, le=2**40)] = 67_108_864
    after_s: Annotated[float, Field(ge=0, le=3600)] = 5.0


class AgentSettings(Table):
    """The whole file.

    Attributes:
        agent: Who this agent is.
        broker: Where the broker is.
        stream: What it reads.
        model: What answers.
        rule: What to make of its answers.
        homeassistant: What Home Assistant is shown.
        edgetpu: How Edge TPUs are used.
        metrics: An endpoint for Prometheus.
        spool: What becomes of predictions that the broker does not take.
    """

    agent: AgentTable
    broker: BrokerTable = BrokerTable()
    stream: Annotated[list[StreamTable], Field(max_length=256)] = []
    model: Annotated[list[ModelTable], Field(max_length=256)] = []
    rule: Annotated[list[RuleTable], Field(max_length=1024)] = []
    homeassistant: HomeAssistantTable = HomeAssistantTable()
    edgetpu: EdgeTpuTable = EdgeTpuTable()
    metrics: MetricsTable = MetricsTable()
    spool: SpoolTable = SpoolTable()

    @classmethod
    def read(cls, path: Path) -> AgentSettings:
        """Return the settings in ``path``, with the streams of its ``streams_file``.

        Raises:
            ConfigError: With one line per fault.
        """
        settings = load(cls, path, across=lambda document: _faults_across(path, document))
        streams = all_streams(settings.stream, settings.agent.streams_file)
        return settings.model_copy(update={"stream": streams})


def require_changeable(path: Path, before: AgentSettings, after: AgentSettings) -> None:
    """Refuse settings, read from ``path``, that differ in what cannot change while the agent runs.

    Raises:
        ConfigError: With one line per key.
    """
    tables = {
        "agent": ("id", "site", "state_dir", "alive_file"),
        "broker": tuple(BrokerTable.model_fields),
        "homeassistant": tuple(HomeAssistantTable.model_fields),
        "edgetpu": tuple(EdgeTpuTable.model_fields),
        "metrics": tuple(MetricsTable.model_fields),
        "spool": tuple(SpoolTable.model_fields),
    }
    faults = [
        Fault((table, key), "cannot change while the agent runs: restart it")
        for table, keys in tables.items()
        for key in keys
        if getattr(getattr(before, table), key) != getattr(getattr(after, table), key)
    ]
    former = {stream.name: stream for stream in before.stream}
    faults += [
        Fault(("stream", number, "dialect"), "pictures come or go: restart the agent")
        for number, stream in enumerate(after.stream)
        if stream.name in former
        and (stream.dialect == "picture") is not (former[stream.name].dialect == "picture")
    ]
    if faults:
        raise ConfigError(told(faults, path, path.read_text(encoding="utf-8"), {}))


def _faults_across(path: Path, document: Mapping[str, Any]) -> Iterator[Fault | str]:
    """Yield what is wrong between tables, and in the file of streams that they name."""
    elsewhere, faults = streams_elsewhere(path, document, "agent")
    yield from faults
    yield from twice(document, "stream", elsewhere)
    yield from twice(document, "model")
    streams = [*elsewhere, *texts(document.get("stream"), "name")]
    for number, stream in enumerate(texts(document.get("model"), "stream")):
        if stream and stream not in streams and not faults:
            yield Fault(("model", number, "stream"), f"there is no stream {stream!r}")
    yield from faults_of_rules(document)
