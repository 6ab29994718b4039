"""What a device's firmware makes of its samples: when it is on, what it sends, what it keeps. Pure.

A device boots, and takes no reading until it has joined the network. It sends each reading, or collects
a batch and lets the radio sleep in between. While the network is lost it keeps the newest readings and
sends them, oldest first, when it is back. When the battery is empty it is silent until somebody has
changed it, and boots again: what it had not sent is lost, and its numbers begin anew.

The table ``[device.firmware]`` of a world file is :class:`FirmwarePlan`.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, ClassVar

from numpy.random import Generator
from pydantic import ConfigDict, Field

from atoll_sim.message_faults import Duplicate, Flood, Malformed, OutOfOrder
from atoll_sim.signals import STRICT, NotNegative, Positive

Count = Annotated[int, Field(ge=1, le=100_000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwarePlan:
    """How a device behaves.

    Attributes:
        boot_s: Time from power to the first reading.
        hello: Whether it says hello when it has booted: a Status of its own, not retained.
        batch: Readings in one message; the radio sleeps in between.
        buffer: Readings that are kept while the network is lost; the oldest goes first.
        loss_per_h: How often an hour the network is lost, at random.
        loss_s: How long it stays lost, in the mean.
        drift_ppm: Standard deviation of the clocks' rates, in millionths; each device has one of its own.
        battery_readings: Readings that a battery lasts for; None: it has mains.
        replace_s: Time until an empty battery is changed.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    boot_s: NotNegative = 0.0
    hello: bool = False
    batch: Count = 1
    buffer: Count = 1000
    loss_per_h: NotNegative = 0.0
    loss_s: Positive = 60.0
    drift_ppm: NotNegative = 0.0
    battery_readings: Count | None = None
    replace_s: NotNegative = 3600.0


@dataclass(frozen=True, slots=True)
class Taken:
    """A reading as the device keeps it.

    Attributes:
        stamp_s: When it was taken, by the device's clock.
        values: By name.
        seq: Its number since the device booted.
        boot: How often it had booted.
        time_s: When it was taken, in seconds since the world began.
        label: The truth about it, which somebody else knows.
    """

    stamp_s: float
    values: Mapping[str, float]
    seq: int
    boot: int
    time_s: float
    label: float | None = None


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One message that leaves.

    Attributes:
        readings: What it tells.
        is_spoilt: Whether its bytes are to be spoilt.
    """

    readings: tuple[Taken, ...]
    is_spoilt: bool = False


@dataclass(slots=True)
class Hello:
    """What a device says when it has booted.

    Attributes:
        boot: How often it has booted, this time included.
        battery: Part of the battery that is left; None: it has mains.
    """

    boot: int
    battery: float | None


class Firmware:
    """One device at work.

    Attributes:
        counts: What happened, by name.
    """

    def __init__(self, plan: FirmwarePlan, generator: Generator) -> None:
        self.counts: Counter[str] = Counter()
        self._plan = plan
        self._generator = generator
        self._boot = 1
        self._seq = 0
        self._ready_s = plan.boot_s
        self._has_said_hello = False
        self._left = plan.battery_readings
        self._kept: deque[Taken] = deque()
        self._batch: list[Taken] = []
        self._held: Outgoing | None = None
        self._lost_from_s, self._lost_until_s = self._next_loss(0.0)

    def is_offline(self, time_s: float) -> bool:
        """Whether the network is lost at ``time_s``, which never goes back."""
        while time_s >= self._lost_until_s:
            self._lost_from_s, self._lost_until_s = self._next_loss(self._lost_until_s)
        return time_s >= self._lost_from_s

    def reboot(self, time_s: float, off_s: float = 0.0) -> None:
        """Boot ``off_s`` after ``time_s``: what is in memory is lost."""
        self.counts["readings_forgotten"] += self._in_memory
        self.counts["reboots"] += 1
        self._kept.clear()
        self._batch.clear()
        self._held = None
        self._boot += 1
        self._seq = 0
        self._has_said_hello = False
        self._ready_s = time_s + off_s + self._plan.boot_s

    def sleep(self, until_s: float) -> None:
        """Take no reading before ``until_s``."""
        self._ready_s = max(self._ready_s, until_s)

    def hello(self, time_s: float) -> Hello | None:
        """Return what is to be said before the next reading, once after each boot."""
        if self._has_said_hello or time_s < self._ready_s or self.is_offline(time_s):
            return None
        self._has_said_hello = True
        whole = self._plan.battery_readings
        battery = None if whole is None or self._left is None else self._left / whole
        return Hello(self._boot, battery) if self._plan.hello else None

    def send(
        self,
        time_s: float,
        stamp_s: float,
        values: Mapping[str, float],
        faults: Mapping[type, object],
        label: float | None = None,
    ) -> list[Outgoing]:
        """Return the messages that leave with a reading that was taken at ``time_s``.

        Args:
            time_s: Of the world.
            stamp_s: The same by the device's clock.
            values: What the sensors say; nothing is sent of a reading without any.
            faults: Those of its messages that are there now, by their kind.
            label: The truth about the reading.
        """
        if time_s < self._ready_s:
            self.counts["readings_off"] += 1
            return []
        if self._left is not None:
            self._left -= 1
            if self._left < 0:
                self.counts["batteries_changed"] += 1
                self.counts["readings_off"] += 1
                self._left = self._plan.battery_readings
                self.reboot(time_s, self._plan.replace_s)
                return []
        flood = faults.get(Flood)
        for copy in range(flood.times if isinstance(flood, Flood) and values else bool(values)):
            known = None if copy else label
            self._batch.append(Taken(stamp_s, values, self._seq, self._boot, time_s, known))
            self._seq += 1
        if self.is_offline(time_s):
            self._keep()
            return []
        out = self._resent()
        while len(self._batch) >= self._plan.batch:
            readings = tuple(self._batch[: self._plan.batch])
            del self._batch[: self._plan.batch]
            out += self._disturbed(Outgoing(readings), faults)
        return out

    def end(self) -> None:
        """Count what is left in memory as not sent."""
        if unsent := self._in_memory:
            self.counts["readings_unsent"] += unsent

    @property
    def _in_memory(self) -> int:
        return len(self._kept) + len(self._batch) + (0 if self._held is None else len(self._held.readings))

    def spoilt(self, payload: bytes) -> bytes:
        """Return ``payload`` as a malformed message has it."""
        return Malformed.spoil(payload, self._generator)

    def _keep(self) -> None:
        for taken in self._batch:
            if len(self._kept) >= self._plan.buffer:
                self._kept.popleft()
                self.counts["readings_forgotten"] += 1
            self._kept.append(taken)
        self._batch.clear()

    def _resent(self) -> list[Outgoing]:
        self.counts["readings_resent"] += len(self._kept)
        out = []
        while self._kept:
            size = min(self._plan.batch, len(self._kept))
            out.append(Outgoing(tuple(self._kept.popleft() for _ in range(size))))
        return out

    def _disturbed(self, message: Outgoing, faults: Mapping[type, object]) -> list[Outgoing]:
        malformed, late, twice = (faults.get(kind) for kind in (Malformed, OutOfOrder, Duplicate))
        if isinstance(malformed, Malformed) and self._generator.random() < malformed.share:
            self.counts["messages_malformed"] += 1
            message = Outgoing(message.readings, is_spoilt=True)
        held, self._held = self._held, None
        if held is None and isinstance(late, OutOfOrder) and self._generator.random() < late.share:
            self.counts["messages_out_of_order"] += 1
            self._held = message
            return []
        out = [message]
        if isinstance(twice, Duplicate) and self._generator.random() < twice.share:
            self.counts["messages_duplicated"] += 1
            out.append(message)
        return out if held is None else [*out, held]

    def _next_loss(self, after_s: float) -> tuple[float, float]:
        if not self._plan.loss_per_h:
            return math.inf, math.inf
        start_s = after_s + float(self._generator.exponential(3600.0 / self._plan.loss_per_h))
        return start_s, start_s + float(self._generator.exponential(self._plan.loss_s))
