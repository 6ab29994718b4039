"""The fleet, as the retained status and slot topics of its agents show it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Final, TypeVar

from atoll_contract.errors import MalformedMessageError
from atoll_contract.messages import Health, SlotStatus, Status
from atoll_contract.topics import MetadataTopic, SlotTopic, StatusTopic, parse

MAX_SITES: Final = 16
"""Sites that an id is known at; of those at which it is silent the oldest goes first."""
MAX_SLOTS: Final = 256
"""Models of one agent."""

_MessageT = TypeVar("_MessageT", Status, SlotStatus)


@dataclass(slots=True)
class Agent:
    """One agent, or whoever else publishes a status.

    Attributes:
        site: Where it is.
        name: Its id.
        status: How it is; None when it never said.
        slots: By model.
    """

    site: str
    name: str
    status: Status | None = None
    slots: dict[str, SlotStatus] = field(default_factory=dict)

    @property
    def has_introduced_itself(self) -> bool:
        """Whether it has published a status as agents do, with the token that tells two of one id apart."""
        return self.status is not None and self.status.token is not None

    @property
    def is_silent(self) -> bool:
        """Whether it is not connected: its will says so, or it never said a word."""
        return self.status is None or self.status.health is Health.OFFLINE


class Fleet:
    """All agents that have said anything.

    Attributes:
        timestamp: The timestamp metadata that they see; empty when there are none.
        malformed: Messages on status and slot topics that could not be read, or were too many.
    """

    def __init__(self) -> None:
        self._agents: dict[tuple[str, str], Agent] = {}
        self._sites: dict[str, list[str]] = {}
        self.timestamp = b""
        self.malformed = 0

    def __len__(self) -> int:
        return len(self._agents)

    def find(self, site: str, name: str) -> Agent | None:
        """Return an agent, if it is known."""
        return self._agents.get((site, name))

    @property
    def agents(self) -> list[Agent]:
        """The agents, by site and name."""
        return [agent for _, agent in sorted(self._agents.items())]

    @property
    def at_several_sites(self) -> dict[str, list[str]]:
        """Ids with slots at more than one site, and those sites: moved, or their password is abused."""
        sites: dict[str, list[str]] = {}
        for agent in self.agents:
            if agent.slots:
                sites.setdefault(agent.name, []).append(agent.site)
        return {name: where for name, where in sites.items() if len(where) > 1}

    def take(self, topic: str, payload: bytes) -> None:
        """Note what an agent says. An empty payload clears its topic."""
        try:
            match parse(topic):
                case StatusTopic(site, writer):
                    self._take_status(self._agent(site, writer), payload)
                case SlotTopic(site, name, model):
                    self._take_slot(self._agent(site, name), model, payload)
                case MetadataTopic():
                    self.timestamp = payload
                case _:
                    self.malformed += 1
        except MalformedMessageError:
            self.malformed += 1

    def _take_status(self, agent: Agent, payload: bytes) -> None:
        if not payload:
            agent.status = None
            return
        status, before = _printable(Status.decode(payload)), agent.status
        is_will = before is not None and before.token == status.token and status.health is Health.OFFLINE
        if before is None or not is_will or status.session >= before.session:  # else of an earlier connection
            agent.status = status

    def _take_slot(self, agent: Agent, model: str, payload: bytes) -> None:
        if payload and len(agent.slots) >= MAX_SLOTS and model not in agent.slots:
            self.malformed += 1
        elif payload:
            agent.slots[model] = _printable(SlotStatus.decode(payload))
        else:
            agent.slots.pop(model, None)

    def _agent(self, site: str, name: str) -> Agent:
        """Return an agent; who has an id may write it below any site, and shall not fill our memory."""
        if (site, name) not in self._agents:
            sites = self._sites.setdefault(name, [])
            if len(sites) >= MAX_SITES:
                goes = next((one for one in sites if self._agents[one, name].is_silent), sites[0])
                sites.remove(goes)
                del self._agents[goes, name]
                self.malformed += 1
            sites.append(site)
            self._agents[site, name] = Agent(site, name)
        return self._agents[site, name]


def _printable(message: _MessageT) -> _MessageT:
    """Return ``message`` without characters that a terminal would obey: anybody may have written it."""
    return message.model_validate(_without_controls(message.model_dump()))


def _without_controls(value: object) -> object:
    match value:
        case Enum():
            return value
        case str():
            return "".join(character if character.isprintable() else " " for character in value)
        case dict():
            return {_without_controls(key): _without_controls(one) for key, one in value.items()}
        case list():
            return list(map(_without_controls, value))
        case _:
            return value
