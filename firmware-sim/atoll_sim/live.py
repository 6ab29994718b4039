"""Simulated devices at work: a schedule played in real time, or a multiple of it.

The world's clock starts when the broker has accepted the connection. After an outage, what was due
meanwhile is published at once, with the times at which it was due.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import structlog

from atoll_contract.errors import PeerError
from atoll_contract.messages import Label, Reading, encode_reading
from atoll_contract.topics import CommandTopic, LabelTopic, ReadingTopic
from atoll_link.session import Delivery
from atoll_sim.device import Device, Sample
from atoll_sim.faults import Fault
from atoll_sim.schedule import LabelDue, ReadingDue, Schedule
from atoll_sim.truth_command import changed_truth
from atoll_sim.uplink import Uplink

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
        labels_dropped: Labels whose delay had not passed at the end.
        commands_obeyed: Commands obeyed.
        commands_refused: Commands refused, by reason.
    """

    readings: int = 0
    labels: int = 0
    readings_silent: int = 0
    readings_disturbed: int = 0
    faults: int = 0
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

    @property
    def topic_filters(self) -> list[str]:
        """What to subscribe to."""
        return [CommandTopic.any_of(site=self._site, device=device) for device in self._devices]

    def take(self, delivery: Delivery) -> None:
        """Obey the command, or refuse it."""
        try:
            device, truth = changed_truth(
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
        device.change_truth(truth)
        self._counts.commands_obeyed += 1
        _log.info(
            "command.obeyed",
            device=device.plan.device,
            slope=dict(truth.slope),
            intercept=truth.intercept,
            noise=truth.noise,
        )


class Live:
    """Publishes what a schedule makes happen.

    Args:
        site: Id of the site.
        boot: Token of this run, in every reading.
        uplink: Connected.
        speed: Seconds of the world per second.
        counts: Is kept up to date.
    """

    def __init__(self, site: str, boot: str, uplink: Uplink, speed: float, counts: Counts) -> None:
        self._site = site
        self._boot = boot
        self._uplink = uplink
        self._speed = speed
        self._counts = counts
        self._start_ms = 0.0
        self._next_seq: Counter[str] = Counter()
        self._active: dict[str, tuple[Fault, ...]] = {}

    def play(self, schedule: Schedule, for_s: float | None = None) -> None:
        """Play ``schedule`` to its end, for ``for_s`` seconds, or until told to stop.

        Labels that are not due by then are dropped and counted; acknowledgements are waited for.

        Raises:
            BrokerUnavailableError: The uplink gave up.
        """
        start = time.monotonic()
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
                return self._publish_reading(device, sample)
            case LabelDue() as label:
                return self._publish_label(label)

    def _publish_reading(self, device: Device, sample: Sample) -> bool:
        plan = device.plan
        self._tell_faults(plan.device, sample.faults)
        self._counts.readings_disturbed += sample.is_disturbed
        if not sample.values:
            self._counts.readings_silent += 1
            return True
        seq = self._next_seq[plan.device]
        reading = Reading(
            values=dict(sample.values), time_ms=self._time_ms(sample.time_s), seq=seq, boot=self._boot
        )
        topic = ReadingTopic(self._site, plan.device, plan.stream)
        if not self._uplink.publish(topic, encode_reading(reading), plan.qos):
            return False
        self._next_seq[plan.device] += 1
        self._counts.readings += 1
        return True

    def _publish_label(self, due: LabelDue) -> bool:
        plan = due.device.plan
        label = Label(value=due.value, time_ms=self._time_ms(due.reading_s), stream=plan.stream)
        topic = LabelTopic(self._site, plan.device, plan.device, due.model)
        if not self._uplink.publish(topic, label.encode(), qos=1):
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
                _log.info("fault.started", device=device, kind=fault.kind, value=fault.value)
        for fault in before:
            if fault not in active:
                _log.info("fault.ended", device=device, kind=fault.kind, value=fault.value)
