"""What a simulated sensor would read if nothing were wrong with it: pure, in virtual time.

A signal is an endless series of samples, one per reading. Each takes its chance from a generator
of its own, so that the series depends on the seed alone and never on when it is asked for.

The tables ``[device.signal.NAME]`` of a world file are these classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Annotated, ClassVar, Final, Literal

from numpy.random import Generator
from pydantic import ConfigDict, Field

STRICT: Final = ConfigDict(extra="forbid", allow_inf_nan=False)
"""How the tables of a world file are read: unknown keys are errors."""

LARGEST: Final = 1e12
"""Bound of every number, so that no sum of them overflows."""

Number = Annotated[float, Field(ge=-LARGEST, le=LARGEST)]
Positive = Annotated[float, Field(ge=1 / LARGEST, le=LARGEST)]
NotNegative = Annotated[float, Field(ge=0, le=LARGEST)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Constant:
    """The same value for ever, give or take the noise.

    Attributes:
        mean: The value.
        noise: Standard deviation of what is added to it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    shape: Literal["constant"] = "constant"
    mean: Number
    noise: NotNegative = 0.0

    def samples(self, rate_hz: float, generator: Generator) -> Iterator[float]:  # noqa: ARG002 - one form for all
        """Yield the samples of a sensor read ``rate_hz`` times a second, from time 0 on."""
        while True:
            yield self.mean + self.noise * generator.standard_normal()


@dataclass(frozen=True, slots=True, kw_only=True)
class Uniform:
    """Any value from ``low`` up to ``high``, each as likely, none related to the one before.

    Attributes:
        low: The least value.
        high: What no value reaches.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    shape: Literal["uniform"] = "uniform"
    low: Number
    high: Number

    def __post_init__(self) -> None:
        """Refuse bounds that enclose nothing."""
        _require_order(self.low, self.high)

    def samples(self, rate_hz: float, generator: Generator) -> Iterator[float]:  # noqa: ARG002 - one form for all
        """Yield the samples of a sensor read ``rate_hz`` times a second, from time 0 on."""
        while True:
            yield generator.uniform(self.low, self.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sine:
    """A swing around ``mean``: day and night, or a shaft that turns.

    Attributes:
        mean: Middle of the swing.
        amplitude: How far it goes to either side.
        period_s: Time of one swing.
        phase: Where in the swing time 0 lies, from 0 to 1.
        noise: Standard deviation of what is added to it.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    shape: Literal["sine"] = "sine"
    mean: Number = 0.0
    amplitude: NotNegative
    period_s: Positive
    phase: Annotated[float, Field(ge=0, le=1)] = 0.0
    noise: NotNegative = 0.0

    def samples(self, rate_hz: float, generator: Generator) -> Iterator[float]:
        """Yield the samples of a sensor read ``rate_hz`` times a second, from time 0 on."""
        for number in count():
            turns = number / rate_hz / self.period_s + self.phase
            swing = self.amplitude * math.sin(math.tau * turns)
            yield self.mean + swing + self.noise * generator.standard_normal()


@dataclass(frozen=True, slots=True, kw_only=True)
class Walk:
    """A random walk that turns back at its bounds: a level, a load, a temperature.

    Attributes:
        low: Lower bound.
        high: Upper bound.
        step: Standard deviation of the change from one reading to the next.
        start: First value; by default the middle between the bounds.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    shape: Literal["walk"] = "walk"
    low: Number
    high: Number
    step: Positive
    start: Number | None = None

    def __post_init__(self) -> None:
        """Refuse bounds that enclose nothing, and a start outside of them."""
        _require_order(self.low, self.high)
        if self.start is not None and not self.low <= self.start <= self.high:
            raise ValueError(f"start {self.start:g} is outside {self.low:g} to {self.high:g}")

    def samples(self, rate_hz: float, generator: Generator) -> Iterator[float]:  # noqa: ARG002 - one form for all
        """Yield the samples of a sensor read ``rate_hz`` times a second, from time 0 on."""
        span = self.high - self.low
        value = self.low + span / 2 if self.start is None else self.start
        while True:
            yield value
            # Fold the line of all numbers onto the span, as a mirror at each bound would.
            beyond = (value + self.step * generator.standard_normal() - self.low) % (2 * span)
            value = self.low + span - abs(beyond - span)


Signal = Constant | Uniform | Sine | Walk


def _require_order(low: float, high: float) -> None:
    if low >= high:
        raise ValueError(f"low {low:g} must be below high {high:g}")
