"""``[[rule]]`` of the agent's settings: what to make of predictions; and ``report`` of a model."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import Field, field_validator, model_validator

from atoll_agent.decisions.exception import Band
from atoll_agent.decisions.rule import (
    Above,
    Below,
    Combine,
    Condition,
    Group,
    IsAnomaly,
    LabelIn,
    Plan,
    Rule,
)
from atoll_agent.decisions.template import Template, topic_fault
from atoll_contract.decisions import State
from atoll_contract.topics import PREFIX, CommandTopic
from atoll_link.settings import Id, Table
from atoll_link.settings_faults import Fault, texts, twice

_ANY_TEXT: Final = dict.fromkeys(("device", "device_name", "rule", "model", "site", "agent"), "x")


class ReportTable(Table):
    """``report`` of a model: publish a prediction only when it says something new.

    A change of label, of anomaly, of quality flags or of the release is new whatever the value is.

    Attributes:
        dead_band: A change of the value by more than this is new.
        relative: The same as a part of the value published last; the larger of the two counts.
        at_least_every_s: After so much event time the next prediction is published anyway.
    """

    dead_band: Annotated[float, Field(ge=0)] = 0.0
    relative: Annotated[float, Field(ge=0, le=1)] = 0.0
    at_least_every_s: Annotated[float, Field(gt=0)] | None = None

    def build(self) -> Band:
        """Return the band."""
        every_s = self.at_least_every_s
        return Band(self.dead_band, self.relative, math.inf if every_s is None else every_s * 1e3)


class WhenTable(Table):
    """``when`` of a rule: what a prediction must say; one of ``above``, ``below``, ``label``, ``anomaly``.

    Attributes:
        above: The value is above this.
        below: The value is below this.
        clear: Once met, the condition is met until the value is back at this: a hysteresis.
        label: A classifier gives this label, or one of these.
        anomaly: An anomaly detector finds one.
        at_least: So many of the last ``of`` predictions must meet the condition.
        of: How many predictions are looked at.
        for_s: That must hold for so long.
    """

    above: float | None = None
    below: float | None = None
    clear: float | None = None
    label: str | Annotated[list[str], Field(min_length=1, max_length=256)] | None = None
    anomaly: Literal[True] | None = None
    at_least: Annotated[int, Field(ge=1, le=1000)] | None = None
    of: Annotated[int, Field(ge=1, le=1000)] | None = None
    for_s: Annotated[float, Field(ge=0, le=1e7)] = 0.0

    @model_validator(mode="after")
    def _makes_sense(self) -> WhenTable:
        kinds = [self.above, self.below, self.label, self.anomaly]
        if sum(kind is not None for kind in kinds) != 1:
            raise ValueError("needs one of above, below, label and anomaly, and no more than one")
        if self.clear is not None:
            if self.above is None and self.below is None:
                raise ValueError("clear goes with above or below")
            if self.above is not None and self.clear > self.above:
                raise ValueError("clear must not be higher than above")
            if self.below is not None and self.clear < self.below:
                raise ValueError("clear must not be lower than below")
        if (self.at_least or 1) > (self.of or self.at_least or 1):
            raise ValueError("at_least must not be more than of")
        if self.of is not None and self.at_least is None:
            raise ValueError("of needs at_least")
        return self

    def build(self) -> Condition:
        """Return the condition."""
        if self.above is not None:
            return Above(self.above, self.above if self.clear is None else self.clear)
        if self.below is not None:
            return Below(self.below, self.below if self.clear is None else self.clear)
        if self.label is not None:
            return LabelIn(frozenset([self.label] if isinstance(self.label, str) else self.label))
        return IsAnomaly()


class GroupTable(Table):
    """``group`` of a rule: its devices decide together.

    Attributes:
        name: Id that stands for the devices in the topic of the decision.
        combine: Whether ``any`` or ``all`` of the devices, ``count`` of them, or the ``mean`` of their
            values must meet the condition.
        count: How many, for ``count``.
        max_age_s: A device that was silent for longer is not counted; for ``all`` of the devices that
            are named it stands in the way.
    """

    name: Id
    combine: Combine
    count: Annotated[int, Field(ge=1, le=1024)] | None = None
    max_age_s: Annotated[float, Field(gt=0, le=1e7)] = 300.0

    @model_validator(mode="after")
    def _makes_sense(self) -> GroupTable:
        if (self.combine is Combine.COUNT) != (self.count is not None):
            raise ValueError("count and combine = 'count' go together")
        return self

    def build(self) -> Group:
        """Return the group."""
        return Group(self.name, self.combine, self.count or 0, self.max_age_s)


class CommandTable(Table):
    """``[[rule.command]]``: what to tell whom when the rule is raised, or cleared.

    Without ``topic`` it is a Command of atoll's own contract for ``device``, which expires. Topic,
    payload, and text values have places for facts: ``${device}``, ``${value}``; see the page on rules.

    Attributes:
        on: ``raised`` or ``cleared``.
        name: Name of the command: the last level of its topic.
        device: Whom to tell; by default the device that the rule speaks of.
        value: Value of the command.
        arguments: More, by name.
        expires_s: For how long the command is worth something.
        topic: Any other topic.
        payload: What to publish there: text, or a table or list, which is written as JSON.
    """

    on: State = State.RAISED
    name: Id | None = None
    device: Id | None = None
    value: float | str | bool | None = None
    arguments: Annotated[dict[str, float | str | bool], Field(max_length=64)] = {}
    expires_s: Annotated[float, Field(gt=0, le=1e7)] = 30.0
    topic: str | None = None
    payload: str | dict[str, Any] | list[Any] | None = None

    @field_validator("topic", "payload")
    @classmethod
    def _has_known_places(cls, content: object) -> object:
        if content is not None:
            Template.of(content)
        return content

    @model_validator(mode="after")
    def _is_one_or_the_other(self) -> CommandTable:
        own = {"name", "device", "value", "arguments", "expires_s"} & self.model_fields_set
        if self.topic is None:
            if self.name is None:
                raise ValueError("needs a name, or a topic of its own")
            if self.payload is not None:
                raise ValueError("payload belongs to a topic of its own")
            return self
        if own:
            raise ValueError(f"{', '.join(sorted(own))}: not with a topic of its own")
        if self.payload is None:
            raise ValueError("a topic of its own needs a payload")
        if self.topic.startswith(f"{PREFIX}/") or self.topic.startswith("${"):
            raise ValueError(f"topic: for commands below {PREFIX}/ give name and device instead")
        # Facts of other kinds are numbers, or checked when the command is written.
        filled = Template(self.topic, is_json=False).text(
            {**_ANY_TEXT, "state": "x", "label": "x", "value": 0.0, "release": 1, "time_ms": 0.0}
        )
        if (fault := topic_fault(filled)) is not None:
            raise ValueError(f"topic: {fault}")
        return self

    def build(self, site: str, agent: str) -> Plan:
        """Return the plan of an agent."""
        if self.topic is None:
            *levels, device, name = str(CommandTopic(site, agent, self.device or "-", self.name or "")).split(
                "/"
            )
            text = "/".join([*levels, device if self.device else "${device}", name])
        else:
            text = self.topic
        return Plan(
            on=self.on,
            topic=Template(text, is_json=False),
            payload=None if self.payload is None else Template.of(self.payload),
            expires_ms=self.expires_s * 1e3,
            value=self.value,
            arguments=self.arguments,
        )


class RuleTable(Table):
    """``[[rule]]``: publishes a Decision, and commands if there are any, when its condition is met.

    Attributes:
        name: Id of the rule: the last level of the topic of its decisions.
        model: The model whose predictions count.
        devices: Whose predictions count; by default everybody's.
        when: What they must say.
        cleared_for_s: For how long that must not hold until the decision is taken back.
        cool_down_s: Shortest time from one ``raised`` to the next.
        max_age_s: No command follows from a prediction that is older.
        group: If the devices decide together.
        command: The commands.
    """

    name: Id
    model: Id
    devices: Annotated[list[Id], Field(max_length=1024)] = []
    when: WhenTable
    cleared_for_s: Annotated[float, Field(ge=0, le=1e7)] = 0.0
    cool_down_s: Annotated[float, Field(ge=0, le=1e7)] = 0.0
    max_age_s: Annotated[float, Field(gt=0, le=1e7)] = 30.0
    group: GroupTable | None = None
    command: Annotated[list[CommandTable], Field(max_length=64)] = []

    @model_validator(mode="after")
    def _fits_together(self) -> RuleTable:
        group = self.group
        if group is None:
            return self
        is_threshold = self.when.above is not None or self.when.below is not None
        if group.combine is Combine.MEAN and not is_threshold:
            raise ValueError("the mean of a group needs above or below")
        if group.count is not None and self.devices and group.count > len(self.devices):
            raise ValueError(f"group.count is {group.count}, of {len(self.devices)} devices")
        if any(command.topic is None and command.device is None for command in self.command):
            raise ValueError("a command of a group needs a device")
        return self

    def build(self, site: str, agent: str) -> Rule:
        """Return the rule of an agent."""
        return Rule(
            name=self.name,
            model=self.model,
            condition=self.when.build(),
            devices=frozenset(self.devices),
            needed=self.when.at_least or 1,
            among=self.when.of or self.when.at_least or 1,
            hold_s=self.when.for_s,
            clear_hold_s=self.cleared_for_s,
            cool_down_s=self.cool_down_s,
            max_age_ms=self.max_age_s * 1e3,
            group=None if self.group is None else self.group.build(),
            plans=[command.build(site, agent) for command in self.command],
        )


def faults_of_rules(document: Mapping[str, Any]) -> Iterator[Fault]:
    """Yield what is wrong between rules, and between them and the models."""
    yield from twice(document, "rule")
    models = texts(document.get("model"), "name")
    for number, model in enumerate(texts(document.get("rule"), "model")):
        if model and model not in models:
            yield Fault(("rule", number, "model"), f"there is no model {model!r}")
