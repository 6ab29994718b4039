"""How far a release is on the agents that it is for. Pure: no clock, no network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Final

from atoll_contract.errors import Reason
from atoll_contract.messages import SlotStatus
from atoll_contract.release import STABLE, ReleaseTerms
from atoll_link.fleet import Agent

PATIENCE_S: Final = 60.0
"""An agent that fell silent while it tried a release may take so long to come back, restarted by systemd."""

_TRIAL_PHASES: Final = frozenset({"self_test", "activating", "shadow", "probation"})
"""Phases in which the model of a release runs on the device, and can end the agent."""


class Standing(StrEnum):
    """Where one agent stands with one release."""

    RUNS = "runs"
    REFUSED = "refused"
    UNDERWAY = "underway"
    WAITING = "waiting"
    NEWER = "newer"
    """It runs a newer one that is for it, or is about to."""
    LOST = "lost"
    """It was heard since the rollout began and has fallen silent."""
    SILENT = "silent"
    """It has been silent all the time."""


@dataclass(frozen=True, slots=True)
class Member:
    """One agent of a cohort.

    Attributes:
        site: Where it is.
        agent: Its id.
        standing: Where it stands.
        phase: How far the release is on it, while it is on its way.
        reason: Why it refused the release, what interrupted it last, or that the trial ended the agent.
        detail: The same, for people.
    """

    site: str
    agent: str
    standing: Standing
    phase: str | None = None
    reason: Reason | None = None
    detail: str | None = None

    @property
    def is_refusal(self) -> bool:
        """Whether it refused the release, or tried it and did not come back."""
        return self.standing is Standing.REFUSED or (
            self.standing is Standing.LOST and self.reason is not None
        )


@dataclass(frozen=True, slots=True)
class Cohort:
    """The agents that a release is for."""

    members: tuple[Member, ...]

    def count(self, standing: Standing) -> int:
        """Return how many members stand there."""
        return sum(member.standing is standing for member in self.members)

    @property
    def heard(self) -> int:
        """How many are connected, were so since the rollout began, or have answered."""
        return len(self.members) - self.count(Standing.SILENT)

    @property
    def refused_share(self) -> float:
        """How many of those that were heard refused it or were ended by it, 0 to 1."""
        refused = sum(member.is_refusal for member in self.members)
        return refused / self.heard if refused else 0.0

    @property
    def is_settled(self) -> bool:
        """Whether every agent has answered; only those that were silent all the time are not waited for."""
        return not any(map(self.count, (Standing.UNDERWAY, Standing.WAITING, Standing.LOST)))

    @property
    def phases(self) -> list[str]:
        """The phases in which the release is on its way, each once."""
        underway = (member for member in self.members if member.standing is Standing.UNDERWAY)
        return sorted({member.phase or "" for member in underway})

    def refusals(self) -> list[tuple[Reason, int]]:
        """Return how many refused it for each reason, the most frequent first."""
        refused = (member.reason for member in self.members if member.is_refusal)
        return Counter(reason for reason in refused if reason is not None).most_common()


def is_for(terms: ReleaseTerms, agent: str, channel: str) -> bool:
    """Whether a release is for ``agent``, which follows ``channel`` and ``stable``."""
    return terms.channel in {channel, STABLE} and terms.includes(agent)


def cohort_of(
    terms: ReleaseTerms,
    sha256: str,
    agents: Iterable[Agent],
    *,
    available: Sequence[ReleaseTerms] = (),
    silent_s: Mapping[str, float] | None = None,
) -> Cohort:
    """Return the agents that have the model and that the release is for, and where each stands.

    Args:
        terms: Of the release.
        sha256: Digest of its bundle.
        agents: All that are known.
        available: Releases that are out.
        silent_s: By id, for how long those are silent that were heard since the rollout began.
    """
    before = silent_s or {}
    return Cohort(
        tuple(
            _member(terms, sha256, agent, slot, offered(slot, agent.name, available), before.get(agent.name))
            for agent, slot in _voters(terms.model, agents)
            if is_for(terms, agent.name, slot.channel)
        )
    )


def offered(slot: SlotStatus, agent: str, releases: Sequence[ReleaseTerms]) -> ReleaseTerms | None:
    """Return the highest release of the slot's model that is for ``agent``, refused ones included."""
    mine = (terms for terms in releases if terms.model == slot.model and is_for(terms, agent, slot.channel))
    return max(mine, key=lambda terms: terms.release, default=None)


def _voters(model: str, agents: Iterable[Agent]) -> list[tuple[Agent, SlotStatus]]:
    """Return one agent for each id, with its slot: whoever has an id may write it below every site."""
    found: dict[str, tuple[Agent, SlotStatus]] = {}
    for agent in agents:
        slot = agent.slots.get(model)
        if slot is None or not agent.has_introduced_itself:
            continue
        before = found.get(agent.name)
        if before is None or _rank(agent, slot) > _rank(*before):
            found[agent.name] = agent, slot
    return sorted(found.values(), key=lambda one: (one[0].site, one[0].name))


def _rank(agent: Agent, slot: SlotStatus) -> tuple[bool, float]:
    return not agent.is_silent, slot.time_ms


def _member(
    terms: ReleaseTerms,
    sha256: str,
    agent: Agent,
    slot: SlotStatus,
    newest: ReleaseTerms | None,
    silent_s: float | None,
) -> Member:
    """Return where ``agent`` stands; ``newest`` is the highest release that is for it."""
    member = partial(Member, agent.site, agent.name)
    refused, challenger, champion = slot.refused, slot.challenger, slot.champion
    if refused is not None and refused.sha256 == sha256:
        return member(Standing.REFUSED, reason=refused.reason, detail=refused.detail)
    runs = champion is not None and champion.sha256 == sha256
    ahead = max((ref.release for ref in (champion, challenger) if ref is not None), default=0)
    if not runs and newest is not None and terms.release < ahead <= newest.release:
        return member(Standing.NEWER)
    trial = challenger if challenger is not None and challenger.sha256 == sha256 else None
    if agent.is_silent and silent_s is not None:
        return _lost(member, None if trial is None else trial.phase, silent_s)
    if runs:
        return member(Standing.RUNS)
    if trial is None:
        return member(Standing.SILENT if agent.is_silent else Standing.WAITING)
    standing = Standing.SILENT if agent.is_silent else Standing.UNDERWAY
    return member(standing, trial.phase, trial.reason, trial.detail)


def _lost(member: Callable[..., Member], phase: str | None, silent_s: float) -> Member:
    if phase not in _TRIAL_PHASES or silent_s < PATIENCE_S:
        return member(Standing.LOST, phase)
    detail = f"fell silent in the phase {phase} and has not come back"
    return member(Standing.LOST, phase, Reason.ACTIVATION_CRASHED, detail)
