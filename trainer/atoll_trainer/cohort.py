"""How far a release is on the agents that it is for. Pure: no clock, no network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from atoll_contract.errors import Reason
from atoll_contract.messages import SlotStatus
from atoll_contract.release import STABLE, ReleaseTerms
from atoll_trainer.fleet import Agent


class Standing(StrEnum):
    """Where one agent stands with one release."""

    RUNS = "runs"
    REFUSED = "refused"
    UNDERWAY = "underway"
    WAITING = "waiting"
    NEWER = "newer"
    """It runs a newer one, or is about to."""
    SILENT = "silent"


@dataclass(frozen=True, slots=True)
class Member:
    """One agent of a cohort.

    Attributes:
        site: Where it is.
        agent: Its id.
        standing: Where it stands.
        phase: How far the release is on it, while it is on its way.
        reason: Why it refused the release, or what interrupted it last.
        detail: The same, for people.
    """

    site: str
    agent: str
    standing: Standing
    phase: str | None = None
    reason: Reason | None = None
    detail: str | None = None


@dataclass(frozen=True, slots=True)
class Cohort:
    """The agents that a release is for."""

    members: tuple[Member, ...]

    def count(self, standing: Standing) -> int:
        """Return how many members stand there."""
        return sum(member.standing is standing for member in self.members)

    @property
    def refused_share(self) -> float:
        """How many of those that are connected or have answered refused it, 0 to 1."""
        heard = len(self.members) - self.count(Standing.SILENT)
        return self.count(Standing.REFUSED) / heard if heard else 0.0

    @property
    def is_settled(self) -> bool:
        """Whether every agent has answered; silent ones are not waited for."""
        return not (self.count(Standing.UNDERWAY) or self.count(Standing.WAITING))

    @property
    def phases(self) -> list[str]:
        """The phases in which the release is on its way, each once."""
        underway = (member for member in self.members if member.standing is Standing.UNDERWAY)
        return sorted({member.phase or "" for member in underway})

    def refusals(self) -> list[tuple[Reason, int]]:
        """Return how many refused it for each reason, the most frequent first."""
        refused = (member.reason for member in self.members if member.standing is Standing.REFUSED)
        return Counter(reason for reason in refused if reason is not None).most_common()


def is_for(terms: ReleaseTerms, agent: str, channel: str) -> bool:
    """Whether a release is for ``agent``, which follows ``channel`` and ``stable``."""
    return terms.channel in {channel, STABLE} and terms.includes(agent)


def cohort_of(terms: ReleaseTerms, sha256: str, agents: Iterable[Agent]) -> Cohort:
    """Return the agents that have the model and that the release is for, and where each stands.

    Args:
        terms: Of the release.
        sha256: Digest of its bundle.
        agents: All that are known.
    """
    return Cohort(
        tuple(
            _member(terms, sha256, agent, slot)
            for agent in agents
            if (slot := agent.slots.get(terms.model)) is not None and is_for(terms, agent.name, slot.channel)
        )
    )


def offered(slot: SlotStatus, agent: str, releases: Sequence[ReleaseTerms]) -> ReleaseTerms | None:
    """Return the highest release of the slot's model that is for ``agent``, refused ones included."""
    mine = (terms for terms in releases if terms.model == slot.model and is_for(terms, agent, slot.channel))
    return max(mine, key=lambda terms: terms.release, default=None)


def _member(terms: ReleaseTerms, sha256: str, agent: Agent, slot: SlotStatus) -> Member:
    refused, challenger, champion = slot.refused, slot.challenger, slot.champion
    if refused is not None and refused.sha256 == sha256:
        standing = Standing.REFUSED
        return Member(agent.site, agent.name, standing, reason=refused.reason, detail=refused.detail)
    if champion is not None and champion.sha256 == sha256:
        return Member(agent.site, agent.name, Standing.RUNS)
    if any(ref is not None and ref.release > terms.release for ref in (champion, challenger)):
        return Member(agent.site, agent.name, Standing.NEWER)
    if challenger is None or challenger.sha256 != sha256:
        return Member(agent.site, agent.name, Standing.SILENT if agent.is_silent else Standing.WAITING)
    standing = Standing.SILENT if agent.is_silent else Standing.UNDERWAY
    return Member(agent.site, agent.name, standing, challenger.phase, challenger.reason, challenger.detail)
