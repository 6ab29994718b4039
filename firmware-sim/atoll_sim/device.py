"""A simulated device: sensors, what is wrong with them, and what is true. Pure, in virtual time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.random import SeedSequence

from atoll_sim.fault_times import Recurring
from atoll_sim.faults import Fault
from atoll_sim.firmware import Firmware, FirmwarePlan
from atoll_sim.message_faults import ClockStep, MessageFault
from atoll_sim.signals import Signal
from atoll_sim.truth import Truth

_ALWAYS_ON: Final = FirmwarePlan()


@dataclass(frozen=True, slots=True)
class DevicePlan:
    """What a device is.

    Attributes:
        device: Its id.
        stream: Id of the stream that its readings belong to.
        rate_hz: Readings per second.
        qos: Quality of service of its readings, 0 or 1.
        signals: What its sensors measure, by the name of the value.
        faults: What is wrong with the sensors, and when; applied in this order.
        truth: How its labels arise, if it has any.
        firmware: How it behaves.
    """

    device: str
    stream: str
    rate_hz: float
    qos: int
    signals: Mapping[str, Signal]
    faults: tuple[Fault, ...] = ()
    truth: Truth | None = None
    firmware: FirmwarePlan = _ALWAYS_ON


@dataclass(frozen=True, slots=True)
class Sample:
    """One reading as the device takes it.

    Attributes:
        time_s: When, in seconds since the world began.
        stamp_s: The same by the device's clock.
        values: What the sensors say; a value that dropped out is absent.
        label: The truth about the undisturbed signals, if the reading has a label.
        faults: The faults that were active.
        is_disturbed: Whether a fault has changed or removed a value.
    """

    time_s: float
    stamp_s: float
    values: Mapping[str, float]
    label: float | None
    faults: tuple[Fault, ...]
    is_disturbed: bool


class Device:
    """A device that takes its readings one after the other.

    The values depend on plan and seed alone: every signal, fault and truth, and the firmware, has a
    generator of its own, spawned from ``seed`` in the order of the plan.

    Attributes:
        plan: What it is.
        firmware: What becomes of its readings.
    """

    def __init__(self, plan: DevicePlan, seed: SeedSequence) -> None:
        self.plan = plan
        self._number = 0
        self._truth = plan.truth
        generators = [
            np.random.default_rng(child) for child in seed.spawn(2 + len(plan.signals) + len(plan.faults))
        ]
        self._truth_generator = generators[0]
        self._samples = {
            name: signal.samples(plan.rate_hz, generator)
            for (name, signal), generator in zip(plan.signals.items(), generators[1:], strict=False)
        }
        own = generators[1 + len(plan.signals) :]
        self._faults = tuple(
            (fault, generator, Recurring(fault, generator))
            for fault, generator in zip(plan.faults, own, strict=False)
        )
        # The last one, so that what was drawn before there was any firmware is drawn again.
        self.firmware = Firmware(plan.firmware, own[-1])
        self._rate = 1.0 + 1e-6 * plan.firmware.drift_ppm * float(own[-1].standard_normal())
        self._held: dict[str, float] = {}

    @property
    def truth(self) -> Truth | None:
        """How its labels arise at present."""
        return self._truth

    @property
    def next_s(self) -> float:
        """When the next reading is due, in seconds since the world began."""
        return self._number / self.plan.rate_hz

    def take(self) -> Sample:
        """Take the next reading."""
        time_s = self.next_s
        self._number += 1
        signals = {name: next(samples) for name, samples in self._samples.items()}
        values, active = self._sense(signals, time_s)
        stamp_s = time_s * self._rate + sum(fault.size_s for fault in active if isinstance(fault, ClockStep))
        label = None if self._truth is None else self._truth.label(signals, self._truth_generator)
        # What was not measured cannot be learnt from: a reading without values has no label.
        label = label if values else None
        return Sample(time_s, stamp_s, values, label, active, is_disturbed=values != signals)

    def change_truth(self, truth: Truth) -> None:
        """Let ``truth`` hold from the next reading on."""
        self._truth = truth

    def _sense(self, signals: dict[str, float], time_s: float) -> tuple[dict[str, float], tuple[Fault, ...]]:
        values = dict(signals)
        active = []
        for fault, generator, times in self._faults:
            since_s = times.since_s(time_s)
            if since_s is None:
                continue
            active.append(fault)
            if isinstance(fault, MessageFault):
                continue
            sample = values.pop(fault.value, None)
            if sample is None:
                continue  # an earlier fault has removed it
            said = fault.disturb(sample, since_s, self._held.get(fault.value, sample), generator)
            if said is not None:
                values[fault.value] = said
        self._held.update(values)
        return values, tuple(active)
