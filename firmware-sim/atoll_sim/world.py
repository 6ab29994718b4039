"""The world file: which devices there are, what they measure, what goes wrong, and what is true."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Final, Literal

from numpy.random import SeedSequence
from pydantic import Field, model_validator

from atoll_contract.ids import MAX_ID_LENGTH
from atoll_link.settings import Id, Site, Table, Writer, load
from atoll_link.stream_settings import StreamsFile
from atoll_link.stream_write import StreamWriter
from atoll_sim.device import Device, DevicePlan
from atoll_sim.faults import Fault, SensorFault
from atoll_sim.firmware import FirmwarePlan
from atoll_sim.signals import Signal
from atoll_sim.truth import Truth

MAX_PENDING_LABELS: Final = 1_000_000
"""Most labels that may wait for their delay at one time."""


class DeviceTable(Table):
    """``[[device]]``: devices of one kind, named ``prefix-1`` to ``prefix-count``.

    Attributes:
        prefix: What their ids begin with.
        count: How many there are.
        stream: Id of the stream of their readings.
        rate_hz: Readings per second of each.
        qos: Quality of service of the readings; labels always have 1.
        signal: What the sensors measure, by the name of the value.
        truth: How labels arise; without it there are none.
        fault: What is wrong with sensors, clock and messages, and when.
        firmware: How the devices behave.
    """

    prefix: Id
    count: Annotated[int, Field(ge=1, le=10_000)] = 1
    stream: Id
    rate_hz: Annotated[float, Field(gt=0, le=10_000)]
    qos: Literal[0, 1] = 1
    signal: Annotated[
        dict[str, Annotated[Signal, Field(discriminator="shape")]], Field(min_length=1, max_length=256)
    ]
    truth: Truth | None = None
    fault: Annotated[list[Annotated[Fault, Field(discriminator="kind")]], Field(max_length=256)] = []
    firmware: FirmwarePlan = FirmwarePlan()

    @property
    def devices(self) -> list[str]:
        """The ids."""
        return [f"{self.prefix}-{number}" for number in range(1, self.count + 1)]

    @property
    def pending_labels(self) -> float:
        """How many labels wait for their delay at one time, about."""
        if self.truth is None:
            return 0.0
        return self.count * self.rate_hz * self.truth.label_delay_s * self.truth.labelled_share

    @model_validator(mode="after")
    def _names_are_known(self) -> DeviceTable:
        if faults := list(self._unknown_names()):
            raise ValueError("; ".join(faults))
        return self

    def _unknown_names(self) -> Iterator[str]:
        if len(self.devices[-1]) > MAX_ID_LENGTH:
            yield f"the id {self.devices[-1]!r} is longer than {MAX_ID_LENGTH}"
        for name in [] if self.truth is None else self.truth.slope:
            if name not in self.signal:
                yield f"truth.slope names {name!r}, which is no signal"
        for index, fault in enumerate(self.fault):
            if isinstance(fault, SensorFault) and fault.value not in self.signal:
                yield f"fault[{index}].value is {fault.value!r}, which is no signal"
            if any(not 1 <= number <= self.count for number in fault.only):
                yield f"fault[{index}].only names a device outside 1 to {self.count}"

    def plans(self) -> Iterator[DevicePlan]:
        """Yield the devices in order."""
        for number, device in enumerate(self.devices, start=1):
            faults = tuple(fault for fault in self.fault if not fault.only or number in fault.only)
            yield DevicePlan(
                device, self.stream, self.rate_hz, self.qos, self.signal, faults, self.truth, self.firmware
            )


class WorldTable(Table):
    """``[world]``: what holds for all devices.

    Attributes:
        site: Id of the site.
        seed: The same seed gives the same values.
        trusted_writers: Who may command the devices; by default nobody.
        streams_file: A file with ``[[stream]]`` tables: devices of these streams speak their dialects, all
            others our own.
    """

    site: Site
    seed: Annotated[int, Field(ge=0)] = 0
    trusted_writers: list[Writer] = []
    streams_file: Path | None = None


class WorldFile(Table):
    """A whole world file.

    Attributes:
        world: What holds for all devices.
        device: The devices, kind by kind.
    """

    world: WorldTable
    device: Annotated[list[DeviceTable], Field(min_length=1, max_length=1000)]

    @model_validator(mode="after")
    def _fits_together(self) -> WorldFile:
        ids = Counter(device for table in self.device for device in table.devices)
        if twice := [device for device, times in ids.items() if times > 1]:
            raise ValueError(f"device {twice[0]!r} stands twice: give each [[device]] a prefix of its own")
        pending = sum(table.pending_labels for table in self.device)
        if pending > MAX_PENDING_LABELS:
            raise ValueError(
                f"about {pending:,.0f} labels would wait for their delay at one time, at most "
                f"{MAX_PENDING_LABELS:,} are kept: lower label_delay_s, labelled_share or rate_hz"
            )
        return self

    def writers(self) -> dict[str, StreamWriter]:
        """Return what writes the messages of each stream that speaks a dialect of its own, by its name.

        Raises:
            ConfigError: The file of streams is faulty, or one of them cannot be written.
        """
        if self.world.streams_file is None:
            return {}
        used = {table.stream for table in self.device}
        tables = load(StreamsFile, self.world.streams_file, environment={}).stream
        return {table.name: StreamWriter(table, self.world.site) for table in tables if table.name in used}

    def build(self, seed: int | None = None) -> list[Device]:
        """Return the devices at time 0; ``seed`` stands in for the file's."""
        plans = [plan for table in self.device for plan in table.plans()]
        root = SeedSequence(self.world.seed if seed is None else seed)
        return [Device(plan, child) for plan, child in zip(plans, root.spawn(len(plans)), strict=True)]
