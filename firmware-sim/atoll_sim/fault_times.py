"""When a fault is there: by schedule, or at random. Pure, in virtual time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

from numpy.random import Generator
from pydantic import ConfigDict

from atoll_sim.signals import STRICT, NotNegative, Positive

_ROUNDING_S: Final = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Timed:
    """What all faults have.

    Attributes:
        start_s: When it begins, in seconds since the world began; with ``per_h`` not before that.
        duration_s: How long it lasts; None: for good.
        per_h: How often an hour it comes, at random; None: once, at ``start_s``.
        only: Numbers of the devices that have it (1 is the first of the table); empty: all.
    """

    __pydantic_config__: ClassVar[ConfigDict] = STRICT
    start_s: NotNegative = 0.0
    duration_s: Positive | None = None
    per_h: Positive | None = None
    only: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Refuse a fault that comes often and never ends."""
        if self.per_h is not None and self.duration_s is None:
            raise ValueError("per_h needs duration_s: how long it lasts each time")

    def episodes(self, generator: Generator) -> Iterator[Episode]:
        """Yield when it is there, in order; ``generator`` is drawn from only for ``per_h``."""
        lasts_s = math.inf if self.duration_s is None else self.duration_s
        if self.per_h is None:
            yield Episode(self.start_s, self.start_s + lasts_s)
            return
        at_s = self.start_s
        while True:
            at_s += float(generator.exponential(3600.0 / self.per_h))
            yield Episode(at_s, at_s + lasts_s)
            at_s += lasts_s


@dataclass(frozen=True, slots=True)
class Episode:
    """A time in which a fault is there: from ``start_s`` on, no longer at ``end_s``."""

    start_s: float
    end_s: float

    def is_at(self, time_s: float) -> bool:
        """Whether ``time_s`` lies in it."""
        # In floating point 0.2 + 0.1 is above 0.3, and the reading at 0.3 would be wrong as well.
        return self.start_s - _ROUNDING_S <= time_s < self.end_s - _ROUNDING_S


class Recurring:
    """A fault with the episode that is, or comes next."""

    def __init__(self, fault: Timed, generator: Generator) -> None:
        self._episodes = fault.episodes(generator)
        self._now: Episode | None = next(self._episodes)

    def since_s(self, time_s: float) -> float | None:
        """Return for how long it has been there at ``time_s``, which never goes back; None: it is not."""
        while self._now is not None and time_s >= self._now.end_s - _ROUNDING_S:
            self._now = next(self._episodes, None)
        if self._now is None or not self._now.is_at(time_s):
            return None
        return max(0.0, time_s - self._now.start_s)
