"""What can be wrong with a simulated sensor: pure, in virtual time.

A fault changes what the sensor says, never what is true; before and after it the sensor is right.

The tables ``[[device.fault]]`` of a world file are these classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from numpy.random import Generator
from pydantic import Field

from atoll_sim.fault_times import Timed
from atoll_sim.message_faults import MessageFault
from atoll_sim.signals import Number

Share = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fault(Timed):
    """What all faults of a sensor have.

    Attributes:
        value: Name of the value that is disturbed.
    """

    value: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift(_Fault):
    """The sensor goes astray by ``rate_per_s`` a second, and is right again at the end.

    Attributes:
        rate_per_s: How far it goes a second.
    """

    kind: Literal["drift"] = "drift"
    rate_per_s: Number

    def disturb(self, sample: float, since_s: float, _held: float, _generator: Generator) -> float | None:
        """Return what the sensor says instead of ``sample``; None: nothing."""
        return sample + self.rate_per_s * since_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(_Fault):
    """The sensor is off by ``size``.

    Attributes:
        size: How far; may be below 0.
    """

    kind: Literal["step"] = "step"
    size: Number

    def disturb(self, sample: float, _since_s: float, _held: float, _generator: Generator) -> float | None:
        """Return what the sensor says instead of ``sample``; None: nothing."""
        return sample + self.size


@dataclass(frozen=True, slots=True, kw_only=True)
class Spike(_Fault):
    """A random ``share`` of the readings is off by ``size``.

    Attributes:
        size: How far; may be below 0.
        share: Of the readings.
    """

    kind: Literal["spike"] = "spike"
    size: Number
    share: Share = 0.05

    def disturb(self, sample: float, _since_s: float, _held: float, generator: Generator) -> float | None:
        """Return what the sensor says instead of ``sample``; None: nothing."""
        return sample + self.size if generator.random() < self.share else sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Dropout(_Fault):
    """The value is missing from a random ``share`` of the readings, by default from all.

    Attributes:
        share: Of the readings.
    """

    kind: Literal["dropout"] = "dropout"
    share: Share = 1.0

    def disturb(self, sample: float, _since_s: float, _held: float, generator: Generator) -> float | None:
        """Return what the sensor says instead of ``sample``; None: nothing."""
        return None if generator.random() < self.share else sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Stuck(_Fault):
    """The sensor repeats the last value that it gave."""

    kind: Literal["stuck"] = "stuck"

    def disturb(self, _sample: float, _since_s: float, held: float, _generator: Generator) -> float | None:
        """Return what the sensor says instead of the sample; None: nothing."""
        return held


SensorFault = Drift | Step | Spike | Dropout | Stuck
Fault = SensorFault | MessageFault
