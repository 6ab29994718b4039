"""The devices of a group: what each said last, as long as that counts."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping

import msgspec

from atoll_agent.decisions.rule import Combine, Group, Rule, Seen


class Member(msgspec.Struct, gc=False):
    """One device of a group.

    Attributes:
        arrival_s: When it was last heard, on a monotonic clock.
        value: What was predicted for it then.
        is_met: Whether that met the condition.
    """

    arrival_s: float
    value: float
    is_met: bool


class Members:
    """The devices of a group that were heard lately, those longest silent first."""

    def __init__(self, rule: Rule, group: Group, max_devices: int) -> None:
        self._rule = rule
        self._group = group
        self._max_devices = max_devices
        self._members: OrderedDict[str, Member] = OrderedDict()
        self._met = 0
        self.forgotten = 0

    def copy(self) -> Members:
        """Return others that go their own way from here."""
        twin = Members(self._rule, self._group, self._max_devices)
        twin.restore(self._members)
        return twin

    def is_like(self, other: Members | None) -> bool:
        """Whether both know the same, in whatever order it came."""
        return other is not None and self.state() == other.state()

    def state(self) -> dict[str, Member]:
        """Return what each device said."""
        return dict(self._members)

    def restore(self, members: Mapping[str, Member], step_s: float = 0.0) -> None:
        """Begin with ``members``, whose time of arrival is moved by ``step_s``."""
        self._members = OrderedDict(
            (device, Member(member.arrival_s + step_s, member.value, member.is_met))
            for device, member in members.items()
        )
        self._met = sum(member.is_met for member in members.values())

    def heed(self, seen: Seen, *, was_met: bool) -> tuple[bool, float]:
        """Take in a prediction; return whether the group meets the condition, and the value to tell.

        ``was_met``: whether the group did before.
        """
        before = self._members.pop(seen.device, None)
        condition = self._rule.condition
        is_met = condition.is_met(seen.value, seen, was_met=before is not None and before.is_met)
        self._met += is_met - (before is not None and before.is_met)
        self._members[seen.device] = Member(seen.arrival_s, seen.value, is_met)
        self._forget_silent(seen.arrival_s)
        return self._combined(seen, was_met=was_met)

    def _combined(self, seen: Seen, *, was_met: bool) -> tuple[bool, float]:
        met = self._met
        match self._group.combine:
            case Combine.ANY:
                return met > 0, float(met)
            case Combine.ALL:
                return met == (len(self._rule.devices) or len(self._members)), float(met)
            case Combine.COUNT:
                return met >= self._group.count, float(met)
            case Combine.MEAN:
                values = [member.value for member in self._members.values()]
                mean = math.fsum(values) / len(values)
                return self._rule.condition.is_met(mean, seen, was_met=was_met), mean

    def _forget_silent(self, now_s: float) -> None:
        members = self._members
        while True:
            silent, member = next(iter(members.items()))
            is_one_too_many = len(members) > self._max_devices
            if not is_one_too_many and now_s - member.arrival_s <= self._group.max_age_s:
                return
            self.forgotten += is_one_too_many
            self._met -= member.is_met
            del members[silent]
