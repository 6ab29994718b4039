"""The rules of one model: predictions in, decisions and commands out.

No rule looks at a clock: the time of a device is the event time of its predictions, that of a group
the arrival of its readings, since the clocks of its devices may differ.
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Final

import msgspec

from atoll_agent.decisions.alarm import Alarm
from atoll_agent.decisions.members import Member, Members
from atoll_agent.decisions.rule import Plan, Rule, Seen
from atoll_agent.decisions.template import Fact, topic_fault
from atoll_contract.decisions import Decision, Withheld
from atoll_contract.errors import MalformedMessageError
from atoll_contract.ids import unescape
from atoll_contract.messages import MAX_TIME_MS, Command
from atoll_contract.topics import DecisionTopic

MAX_GROUP: Final = 1024
"""Most devices of a group."""


@dataclass(frozen=True, slots=True)
class Act:
    """A message that follows from a prediction.

    Attributes:
        topic: Where to.
        payload: Its bytes.
        is_command: Whether it is a command, not the decision itself.
    """

    topic: str
    payload: bytes
    is_command: bool


class RuleState(msgspec.Struct):
    """What survives a restart, of one rule.

    Attributes:
        alarms: By device, or under the name of the group.
        members: Of a group.
    """

    alarms: dict[str, Alarm] = {}
    members: dict[str, Member] = {}


class Rules:
    """What the rules of one model make of its predictions.

    Attributes:
        counts: Counters by name.
    """

    def __init__(self, rules: Sequence[Rule], *, site: str, agent: str, max_devices: int) -> None:
        self._rules = [_Running(rule, site, agent, max_devices) for rule in rules]
        self.counts: Counter[str] = Counter()

    def judge(self, seen: Seen) -> list[Act]:
        """Take in a prediction and return what follows from it."""
        acts: list[Act] = []
        for running in self._rules:
            if not running.rule.devices or seen.device in running.rule.devices:
                followed = running.judge(seen, self.counts)
                if followed:
                    acts += followed
        return acts

    def adopt(self, former: Rules) -> None:
        """Go on where rules of the same names stand, from before a reload; they judge no more."""
        self.restore(former.state(), 0.0)

    def state(self) -> dict[str, RuleState]:
        """Return how each rule stands."""
        return {running.rule.name: running.state() for running in self._rules}

    def restore(self, states: Mapping[str, RuleState], step_s: float) -> None:
        """Begin with what was kept; arrivals then are counted from elsewhere: ``step_s`` is added to them."""
        for running in self._rules:
            if (state := states.get(running.rule.name)) is not None:
                running.restore(state, step_s)


class _Running:
    """One rule and its states, by device; the longest silent device goes first."""

    def __init__(self, rule: Rule, site: str, agent: str, max_devices: int) -> None:
        self.rule = rule
        self._site = site
        self._agent = agent
        self._max_devices = max_devices
        self._alarms: OrderedDict[str, Alarm] = OrderedDict()
        group = rule.group
        self._members = None if group is None else Members(rule, group, min(max_devices, MAX_GROUP))
        self._fresh_members = None if self._members is None else self._members.copy()
        self._has_plans = bool(rule.plans)
        self._subject = "" if group is None else group.name

    def judge(self, seen: Seen, counts: Counter[str]) -> Sequence[Act]:
        rule, members = self.rule, self._members
        subject = self._subject or seen.device
        alarm = self._alarm(subject, counts)
        withheld = None
        if self._has_plans and (seen.doubt is not None or abs(seen.now_ms - seen.time_ms) > rule.max_age_ms):
            withheld = self._doubted(alarm, seen)
        if members is None:
            value, now_s = seen.value, alarm.clock.advance(seen.time_ms)
            is_met = rule.condition.is_met(value, seen, was_met=alarm.is_met)
        else:
            before = members.forgotten
            is_met, value = members.heed(seen, was_met=alarm.is_met)
            counts["rule_states_forgotten"] += members.forgotten - before
            now_s = seen.arrival_s
        has_changed = alarm.step(rule, is_met=is_met, now_s=now_s, time_ms=seen.time_ms)
        if alarm.was_cooling:
            counts["decisions_cooling"] += 1
        if alarm.fresh is not None and withheld is None:
            withheld = self._doubt_left(alarm, alarm.fresh, seen, now_s)
        if has_changed or (alarm.is_owed and alarm.is_confirmed and withheld is None):
            return self._decide(subject, alarm, seen, value, withheld, counts)
        return ()

    def state(self) -> RuleState:
        return RuleState(dict(self._alarms), {} if self._members is None else self._members.state())

    def restore(self, state: RuleState, step_s: float) -> None:
        if self._members is not None:
            if not state.members or state.alarms.keys() != {self._subject}:
                return  # it was no group before, or another one
            self._members.restore(state.members, step_s)
            state.alarms[self._subject].shift(step_s)
        elif state.members:
            return
        self._alarms = OrderedDict(state.alarms)

    def _doubted(self, alarm: Alarm, seen: Seen) -> Withheld | None:
        """Before a prediction that is not fresh: from here on tell what follows without such ones."""
        alarm.doubt = seen.why_stale(self.rule.max_age_ms)
        if alarm.fresh is None:
            alarm.fresh = copy(alarm)
            if self._members is not None:
                self._fresh_members = self._members.copy()
        return alarm.doubt

    def _doubt_left(self, alarm: Alarm, fresh: Alarm, seen: Seen, now_s: float) -> Withheld | None:
        """Return why a fresh prediction does not say alone what ``alarm`` says with those before it."""
        rule, members = self.rule, self._fresh_members
        if members is None:
            is_met = rule.condition.is_met(seen.value, seen, was_met=fresh.is_met)
        else:
            is_met, _ = members.heed(seen, was_met=fresh.is_met)
        fresh.step(rule, is_met=is_met, now_s=now_s, time_ms=seen.time_ms)
        if fresh.is_raised is not alarm.is_raised:
            return alarm.doubt
        if alarm.is_like(fresh) and (self._members is None or self._members.is_like(members)):
            alarm.fresh = None
        return None

    def _alarm(self, subject: str, counts: Counter[str]) -> Alarm:
        alarms = self._alarms
        alarm = alarms.get(subject)
        if alarm is not None:
            alarms.move_to_end(subject)
            return alarm
        while len(alarms) >= self._max_devices:
            alarms.popitem(last=False)
            counts["rule_states_forgotten"] += 1
        alarms[subject] = alarm = Alarm()
        return alarm

    def _decide(
        self,
        subject: str,
        alarm: Alarm,
        seen: Seen,
        value: float,
        doubt: Withheld | None,
        counts: Counter[str],
    ) -> list[Act]:
        rule = self.rule
        plans = [plan for plan in rule.plans if plan.on is alarm.state]
        withheld = doubt if plans else None
        alarm.is_owed = withheld is not None
        commands: list[Act] = []
        if withheld is None:
            facts = self._facts(subject, alarm, seen, value)
            for plan in plans:
                act = _command(plan, facts, seen.now_ms)
                if act is None:
                    counts["commands_unwritten"] += 1
                else:
                    commands.append(act)
        decision = Decision(
            state=alarm.state,
            time_ms=seen.time_ms,
            model=rule.model,
            release=seen.release,
            value=value,
            since_ms=alarm.since_ms if alarm.is_raised else None,
            label=seen.label,
            device=None if self._members is None else seen.device,
            seq=seen.seq,
            boot=seen.boot,
            commands=[act.topic for act in commands],
            withheld=withheld,
        )
        counts["decisions"] += 1
        counts["commands"] += len(commands)
        counts["commands_withheld"] += len(plans) if withheld is not None else 0
        topic = DecisionTopic(self._site, self._agent, subject, rule.name)
        return [Act(str(topic), decision.encode(), is_command=False), *commands]

    def _facts(self, subject: str, alarm: Alarm, seen: Seen, value: float) -> dict[str, Fact]:
        return {
            "device": subject,
            "device_name": _name(subject),
            "rule": self.rule.name,
            "model": self.rule.model,
            "state": alarm.state.value,
            "value": value,
            "label": seen.label,
            "release": seen.release,
            "time_ms": seen.time_ms,
            "site": self._site,
            "agent": self._agent,
        }


def _command(plan: Plan, facts: dict[str, Fact], now_ms: float) -> Act | None:
    """Return the command of ``plan``; None: with these facts its topic is none."""
    topic = plan.topic.text(facts)
    if topic_fault(topic) is not None:
        return None
    if plan.payload is not None:
        return Act(topic, plan.payload.text(facts).encode(), is_command=True)
    expires_ms = min(math.ceil(now_ms + plan.expires_ms), MAX_TIME_MS)
    command = Command(expires_ms=expires_ms, value=plan.value, arguments=plan.arguments)
    return Act(topic, command.encode(), is_command=True)


def _name(subject: str) -> str:
    """Return the name that the id was made from; itself where it is no escape."""
    try:
        return unescape(subject)
    except MalformedMessageError:
        return subject
