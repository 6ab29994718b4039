"""What can be wrong with the messages and the clock of a simulated device, and when: pure, in virtual time.

These faults change no value: they make messages come twice, late, broken or in masses, or date them
wrongly. They stand among the others in ``[[device.fault]]``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from numpy.random import Generator
from pydantic import Field

from atoll_sim.fault_times import Timed
from atoll_sim.signals import Number

Share = Annotated[float, Field(gt=0, le=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Duplicate(Timed):
    """A random ``share`` of the messages is sent twice, as after an acknowledgement that was lost.

    Attributes:
        share: Of the messages.
    """

    kind: Literal["duplicate"] = "duplicate"
    share: Share = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OutOfOrder(Timed):
    """A random ``share`` of the messages leaves behind the one that follows it.

    Attributes:
        share: Of the messages.
    """

    kind: Literal["out_of_order"] = "out_of_order"
    share: Share = 0.2


@dataclass(frozen=True, slots=True, kw_only=True)
class Malformed(Timed):
    """A random ``share`` of the messages is cut off or has bytes changed.

    Attributes:
        share: Of the messages.
    """

    kind: Literal["malformed"] = "malformed"
    share: Share = 1.0

    @staticmethod
    def spoil(payload: bytes, generator: Generator) -> bytes:
        """Return ``payload`` cut off, or with one byte changed; never the same."""
        if not payload:
            return b"\0"
        place = int(generator.integers(len(payload)))
        if generator.random() < 1 / 2:
            return payload[:place]
        changed = bytearray(payload)
        changed[place] ^= 1 + int(generator.integers(255))
        return bytes(changed)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockStep(Timed):
    """The clock is wrong by ``size_s``: readings are dated that much later, or earlier if it is below 0.

    Attributes:
        size_s: How far the clock steps.
    """

    kind: Literal["clock_step"] = "clock_step"
    size_s: Number


@dataclass(frozen=True, slots=True, kw_only=True)
class Flood(Timed):
    """Each reading is sent ``times`` times, each time as a reading of its own.

    Attributes:
        times: How often.
    """

    kind: Literal["flood"] = "flood"
    times: Annotated[int, Field(ge=2, le=1000)] = 20


MessageFault = Duplicate | OutOfOrder | Malformed | ClockStep | Flood
