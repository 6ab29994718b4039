"""Simulated devices at work: a schedule played in real time, or a multiple of it.

The world's clock starts when the broker has accepted the connection. After an outage, what was due
meanwhile is published at once, with the times at which it was due.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Final

import structlog

from atoll_contract.errors import PeerError
from atoll_contract.messages import Health, Label, Reading, Status, encode_reading
from atoll_contract.topics import CommandTopic, LabelTopic, ReadingTopic, StatusTopic
from atoll_link.session import Delivery
from atoll_link.stream_write import StreamWriter
from atoll_sim.device import Device, DevicePlan, Sample
from atoll_sim.faults import Fault
from atoll_sim.firmware import Hello, Outgoing
from atoll_sim.message_faults import MessageFault
from atoll_sim.orders import Reboot, Sleep, ordered
from atoll_sim.schedule import LabelDue, ReadingDue, Schedule
from atoll_sim.swarm import Swarm
from atoll_sim.truth import Truth
from atoll_sim.uplink import Uplink

_ALL_OURS: Final[Mapping[str, StreamWriter]] = MappingProxyType({})
_log: structlog.stdlib.BoundLogger = structlog.get_logger()


@dataclass(slots=True)
class Counts:
    """What came of a run.

    Attributes:
        readings: Readings published.
        labels: Labels published.
        readings_silent: Readings that lost all their values and were not published.
        readings_disturbed: Readings with a value that a fault changed or removed.
        faults: Faults that have begun, each on each of its devices.
        hellos: Hellos published.
        labels_dropped: Labels whose delay had not passed at the end.
        commands_obeyed: Commands obeyed.
        commands_refused: Commands refused, by reason.
    """

    readings: int = 0
    labels: int = 0
    readings_silent: int = 0
    readings_disturbed: int = 0
    faults: int = 0
    hellos: int = 0
    labels_dropped: int = 0
    commands_obeyed: int = 0
    commands_refused: Counter[str] = field(default_factory=Counter)


class CommandDesk:
    """Takes the commands for ``devices``, obeys or refuses them, and keeps count."""

    def __init__(
        self, site: str, devices: Sequence[Device], trusted_writers: Collection[str], counts: Counts
    ) -> None:
        self._site = site
        self._devices = {device.plan.device: device for device in devices}
        self._trusted_writers = frozenset(trusted_writers)
        self._counts = counts
        self._now_s: Callable[[], float] = float

    @property
    def topic_filters(self) -> dict[str, str]:
        """What each device subscribes to, by its id."""
        return {device: CommandTopic.any_of(site=self._site, device=device) for device in self._devices}

    def keep_time(self, now_s: Callable[[], float]) -> None:
        """Take the world's time from ``now_s``."""
        self._now_s = now_s

    def take(self, delivery: Delivery) -> None:
        """Obey the command, or refuse it."""
        try:
            order = ordered(
                delivery.topic,
                delivery.payload,
                is_retained=delivery.is_retained,
                now_ms=delivery.arrival_ms,
                devices=self._devices,
                trusted_writers=self._trusted_writers,
            )
        except PeerError as error:
            self._counts.commands_refused[error.reason] += 1
            _log.warning("command.refused", topic=delivery.topic, reason=error.reason, detail=error.detail)
            return
        device = order.device
        match order.what:
            case Truth() as truth:
                device.change_truth(truth)
                told: dict[str, object] = {
                    "slope": dict(truth.slope), "intercept": truth.intercept, "noise": truth.noise
                }  # fmt: skip
            case Sleep(seconds):
                device.firmware.sleep(self._now_s() + seconds)
                told = {"sleep_s": seconds}
            case Reboot():
                device.firmware.reboot(self._now_s())
                told = {"reboot": True}
        self._counts.commands_obeyed += 1
        _log.info("command.obeyed", device=device.plan.device, **told)


class Live:
    """Publishes what a schedule makes happen.

    Args:
        site: Id of the site.
        boot: Token of this run, in every reading.
        uplink: Connected.
        speed: Seconds of the world per second.
        counts: Is kept up to date.
        writers: What writes the messages of a stream that speaks a dialect of its own, by its name.
    """

    def __init__(
        self,
        site: str,
        boot: str,
        uplink: Uplink | Swarm,
        speed: float,
        counts: Counts,
        *,
        writers: Mapping[str, StreamWriter] = _ALL_OURS,
    ) -> None:
        self._site = site
        self._boot = boot
        self._uplink = uplink
        self._speed = speed
        self._counts = counts
        self._writers = writers
        self._start_ms = 0.0
        self._start = 0.0
        self._active: dict[str, tuple[Fault, ...]] = {}

    def now_s(self) -> float:
        """Return the time of the world, in seconds since it began."""
        return (time.monotonic() - self._start) * self._speed

    def play(self, schedule: Schedule, for_s: float | None = None) -> None:
        """Play ``schedule`` to its end, for ``for_s`` seconds, or until told to stop.

        Labels that are not due by then are dropped and counted; acknowledgements are waited for.

        Raises:
            BrokerUnavailableError: The uplink gave up.
        """
        start = self._start = time.monotonic()
        end = math.inf if for_s is None else start + for_s
        self._start_ms = time.time() * 1e3
        try:
            while (next_s := schedule.next_s) is not None:
                due = start + next_s / self._speed
                if not self._uplink.rest_until(min(due, end)):
                    break
                if due > end or time.monotonic() > end or not self._publish(schedule):
                    break
            self._uplink.settle()
        finally:
            self._counts.labels_dropped = schedule.pending_labels

    def _publish(self, schedule: Schedule) -> bool:
        """Publish what happens next; False: told to stop meanwhile."""
        match schedule.take():
            case ReadingDue(device, sample):
                return self._publish_reading(device, sample, schedule)
            case LabelDue() as label:
                return self._publish_label(label)

    def _publish_reading(self, device: Device, sample: Sample, schedule: Schedule) -> bool:
        plan, firmware = device.plan, device.firmware
        self._tell_faults(plan.device, sample.faults)
        self._counts.readings_disturbed += sample.is_disturbed
        self._counts.readings_silent += not sample.values
        hello = firmware.hello(sample.time_s)
        if hello is not None and not self._publish_hello(plan, hello, sample.stamp_s):
            return False
        faults = {type(fault): fault for fault in sample.faults if isinstance(fault, MessageFault)}
        is_offline = firmware.is_offline(sample.time_s)
        self._uplink.hold(plan.device, is_offline=is_offline)
        labelled: set[int] = set()
        for outgoing in firmware.send(sample.time_s, sample.stamp_s, sample.values, faults, sample.label):
            for topic, payload in self._written(device, outgoing):
                if not self._uplink.publish(topic, payload, plan.qos, plan.device):
                    return False
            self._counts.readings += len(outgoing.readings)
            for taken in () if outgoing.is_spoilt else outgoing.readings:
                if id(taken) not in labelled:  # a duplicate has no label of its own
                    schedule.expect_label(device, taken, sample.time_s)
                labelled.add(id(taken))
        return True

    def _written(self, device: Device, outgoing: Outgoing) -> Iterator[tuple[str, bytes]]:
        """Yield the messages that tell what is going out."""
        plan = device.plan
        readings = [
            Reading(
                values=dict(taken.values),
                time_ms=self._time_ms(taken.stamp_s),
                seq=taken.seq,
                boot=self._boot if taken.boot == 1 else f"{self._boot}-{taken.boot}",
            )
            for taken in outgoing.readings
        ]
        writer = self._writers.get(plan.stream)
        messages: list[tuple[str, bytes]]
        if writer is None:
            topic = str(ReadingTopic(self._site, plan.device, plan.stream))
            encoded = [encode_reading(reading) for reading in readings]
            messages = [(topic, encoded[0] if len(encoded) == 1 else b"[" + b",".join(encoded) + b"]")]
        else:
            messages = [one for reading in readings for one in writer.messages(plan.device, reading)]
        for topic, payload in messages:
            yield topic, device.firmware.spoilt(payload) if outgoing.is_spoilt else payload

    def _publish_hello(self, plan: DevicePlan, hello: Hello, stamp_s: float) -> bool:
        if plan.stream in self._writers:
            self._writers[plan.stream].begin(plan.device)
        battery = "" if hello.battery is None else f", battery {hello.battery:.0%}"
        status = Status(
            health=Health.READY,
            session=hello.boot,
            time_ms=self._time_ms(stamp_s),
            detail=f"booted {hello.boot} times{battery}",
        )
        self._counts.hellos += 1
        return self._uplink.publish(
            str(StatusTopic(self._site, plan.device)), status.encode(), 1, plan.device
        )

    def _publish_label(self, due: LabelDue) -> bool:
        plan = due.device.plan
        label = Label(value=due.value, time_ms=self._time_ms(due.reading_s), stream=plan.stream)
        topic = LabelTopic(self._site, plan.device, plan.device, due.model)
        if not self._uplink.publish(str(topic), label.encode(), 1, plan.device):
            return False
        self._counts.labels += 1
        return True

    def _time_ms(self, time_s: float) -> float:
        return round(self._start_ms + time_s * 1e3, 3)

    def _tell_faults(self, device: str, active: tuple[Fault, ...]) -> None:
        before = self._active.get(device, ())
        if active is before or active == before:
            return
        self._active[device] = active
        for fault in active:
            if fault not in before:
                self._counts.faults += 1
                _log.info(
                    "fault.started", device=device, kind=fault.kind, value=getattr(fault, "value", None)
                )
        for fault in before:
            if fault not in active:
                _log.info("fault.ended", device=device, kind=fault.kind, value=getattr(fault, "value", None))
