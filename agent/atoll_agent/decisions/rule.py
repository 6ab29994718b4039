"""What a rule is: a condition, how long and how often it must be met, and the commands that follow."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import msgspec

from atoll_agent.decisions.template import Template
from atoll_contract.decisions import State, Withheld


class Seen(msgspec.Struct, frozen=True, gc=False):
    """What rules see of a prediction.

    Attributes:
        device: Its device.
        time_ms: Its event time.
        value: Its value.
        release: The release that predicted.
        arrival_s: When the reading arrived, on a monotonic clock.
        now_ms: The time now.
        label: What a classifier says.
        is_anomaly: What an anomaly detector says.
        doubt: Why nobody should act on it, whatever its age.
        seq: As in the reading.
        boot: As in the reading.
    """

    device: str
    time_ms: float
    value: float
    release: int
    arrival_s: float
    now_ms: float
    label: str | None = None
    is_anomaly: bool = False
    doubt: Withheld | None = None
    seq: int | None = None
    boot: str | None = None

    def why_stale(self, max_age_ms: float) -> Withheld | None:
        """Return why nobody should act on it now."""
        if self.doubt is not None:
            return self.doubt
        if self.now_ms - self.time_ms > max_age_ms:
            return Withheld.TOO_OLD
        if self.time_ms - self.now_ms > max_age_ms:
            return Withheld.FROM_FUTURE
        return None


class Condition(Protocol):
    """What one prediction must say."""

    def is_met(self, value: float, seen: Seen, *, was_met: bool) -> bool:
        """Whether it does. ``value`` is that of ``seen``, or the mean of a group."""


@dataclass(frozen=True, slots=True)
class Above:
    """The value is above a limit; once it was, it is until it falls to ``clear``."""

    limit: float
    clear: float

    def is_met(self, value: float, _seen: Seen, *, was_met: bool) -> bool:
        """See :class:`Condition`."""
        return value > (self.clear if was_met else self.limit)


@dataclass(frozen=True, slots=True)
class Below:
    """The value is below a limit; once it was, it is until it rises to ``clear``."""

    limit: float
    clear: float

    def is_met(self, value: float, _seen: Seen, *, was_met: bool) -> bool:
        """See :class:`Condition`."""
        return value < (self.clear if was_met else self.limit)


@dataclass(frozen=True, slots=True)
class LabelIn:
    """A classifier gives one of these labels."""

    labels: frozenset[str]

    def is_met(self, _value: float, seen: Seen, *, was_met: bool) -> bool:  # noqa: ARG002 - port
        """See :class:`Condition`."""
        return seen.label in self.labels


@dataclass(frozen=True, slots=True)
class IsAnomaly:
    """An anomaly detector finds one."""

    def is_met(self, _value: float, seen: Seen, *, was_met: bool) -> bool:  # noqa: ARG002 - port
        """See :class:`Condition`."""
        return seen.is_anomaly


class Combine(StrEnum):
    """How the devices of a group decide together."""

    ANY = "any"
    ALL = "all"
    COUNT = "count"
    MEAN = "mean"


@dataclass(frozen=True, slots=True)
class Group:
    """Devices that decide together.

    Attributes:
        name: Id that stands for them in the topic of the decision.
        combine: Whether any, all, so many of them or the mean of their values must meet the condition.
        count: How many, for ``count``.
        max_age_s: A device that was silent for longer is not counted.
    """

    name: str
    combine: Combine
    count: int
    max_age_s: float


@dataclass(frozen=True, slots=True)
class Plan:
    """A command that follows a decision.

    Attributes:
        on: The state it belongs to.
        topic: Where to.
        payload: What; None: a Command of our own contract.
        expires_ms: Of such a Command: how long it is worth something.
        value: Of such a Command.
        arguments: Of such a Command.
    """

    on: State
    topic: Template
    payload: Template | None
    expires_ms: float
    value: float | str | bool | None
    arguments: dict[str, float | str | bool]


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule on the predictions of one model.

    Attributes:
        name: Its id.
        model: The model.
        condition: What a prediction must say.
        devices: Whose predictions count; empty: everybody's.
        needed: Of the last ``among`` predictions so many must meet the condition.
        among: How many are looked at.
        hold_s: For how long that must hold.
        clear_hold_s: For how long it must not hold until the decision is taken back.
        cool_down_s: Shortest time from one ``raised`` to the next.
        max_age_ms: No command follows from a prediction that is older.
        group: If devices decide together.
        plans: The commands.
    """

    name: str
    model: str
    condition: Condition
    devices: frozenset[str] = frozenset()
    needed: int = 1
    among: int = 1
    hold_s: float = 0.0
    clear_hold_s: float = 0.0
    cool_down_s: float = 0.0
    max_age_ms: float = 30_000.0
    group: Group | None = None
    plans: Sequence[Plan] = ()
