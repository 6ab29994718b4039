"""What can be wrong with a simulated sensor, and when: pure, in virtual time.

A fault changes what the sensor says, never what is true. It begins at ``start_s`` and ends
``duration_s`` later, or never; before and after it the sensor is right.

The tables ``[[device.fault]]`` of a world file are these classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Final, Literal

from numpy.random import Generator
from pydantic import ConfigDict, Field

from atoll_sim.signals import STRICT, NotNegative, Number, Positive

_ROUNDING_S: Final = 1e-9

Share = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fault:
    """What all faults have.

    Attributes:
        value: Name of the value that is disturbed.
        start_s: When it begins, in seconds since the world began.
        duration_s: How long it lasts; None: for good.
        only: Numbers of the devices that have it (1 is the first of the table); empty: all.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    value: str
    start_s: NotNegative = 0.0
    duration_s: Positive | None = None
    only: tuple[int, ...] = ()

    def is_active(self, time_s: float) -> bool:
        """Whether the sensor is wrong at ``time_s``: from the start on, no longer at the end."""
        # In floating point 0.2 + 0.1 is above 0.3, and the reading at 0.3 would be wrong as well.
        since_s = time_s - self.start_s + _ROUNDING_S
        return since_s >= 0 and (self.duration_s is None or since_s < self.duration_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Drift(_Fault):
    """The sensor goes astray by ``rate_per_s`` a second, and is right again at the end.

    Attributes:
        rate_per_s: How far it goes a second.
    """

    kind: Literal["drift"] = "drift"
    rate_per_s: Number

    def disturb(self, sample: float, time_s: float, _held: float, _generator: Generator) -> float | None:
        """Return what the sensor says instead of ``sample``; None: nothing."""
        return sample + self.rate_per_s * (time_s - self.start_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Step(_Fault):
    """The sensor is off by ``size``.

    Attributes:
        size: How far; may be below 0.
    """

    kind: Literal["step"] = "step"
    size: Number

    def disturb(self, sample: float, _time_s: float, _held: float, _generator: Generator) -> float | None:
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

    def disturb(self, sample: float, _time_s: float, _held: float, generator: Generator) -> float | None:
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

    def disturb(self, sample: float, _time_s: float, _held: float, generator: Generator) -> float | None:
        """Return what the sensor says instead of ``sample``; None: nothing."""
        return None if generator.random() < self.share else sample


@dataclass(frozen=True, slots=True, kw_only=True)
class Stuck(_Fault):
    """The sensor repeats the last value that it gave."""

    kind: Literal["stuck"] = "stuck"

    def disturb(self, _sample: float, _time_s: float, held: float, _generator: Generator) -> float | None:
        """Return what the sensor says instead of the sample; None: nothing."""
        return held


Fault = Drift | Step | Spike | Dropout | Stuck
