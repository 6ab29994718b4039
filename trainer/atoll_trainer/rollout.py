"""Follows a release over the fleet until its cohort has answered, or too many refuse it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from atoll_contract.errors import Reason
from atoll_contract.release import ReleaseTerms
from atoll_link.cohort import PATIENCE_S, Cohort, Member, Standing, cohort_of
from atoll_link.fleet import Agent
from atoll_trainer.fleet import FleetWatch

_STEP_S: Final = 0.5
_TRIAL_PHASES: Final = frozenset({"shadow", "probation"})


class Verdict(StrEnum):
    """How a rollout went."""

    SETTLED = "settled"
    TOO_MANY_REFUSED = "too_many_refused"
    TIME_UP = "time_up"
    UNHEARD = "unheard"
    """No agent that it is for is connected or has answered."""


@dataclass(frozen=True, slots=True)
class Rollout:
    """What came of a release on its cohort."""

    verdict: Verdict
    cohort: Cohort


def follow(
    watch: FleetWatch,
    terms: ReleaseTerms,
    sha256: str,
    *,
    available: Callable[[], Sequence[ReleaseTerms]],
    wait_s: float,
    withdraw_above: float | None,
    tell: Callable[[Cohort], None],
    clock: Callable[[], float] = time.monotonic,
) -> Rollout:
    """Watch the cohort of a release that has just been published.

    An agent that was heard since and falls silent is waited for: the release may have ended it.

    Args:
        watch: Of the fleet.
        terms: Of the release.
        sha256: Digest of its bundle.
        available: Returns the releases that are out.
        wait_s: Longest wait.
        withdraw_above: Share of refusals from which on it is too many; None: any share will do.
        tell: Called with the cohort at first and whenever it has changed.
        clock: Seconds that only grow.

    Raises:
        BrokerUnavailableError: The broker does not answer, or refuses the subscription.
        StorageError: ``available`` cannot tell.
    """
    steady_s = 0.0 if withdraw_above is None else PATIENCE_S
    following = Following(terms, sha256, clock() + wait_s, withdraw_above, steady_s=steady_s)
    watch.settle()
    told: Cohort | None = None
    while True:
        now_s = clock()
        cohort, verdict = following.look(watch.fleet.agents, available(), now_s)
        if cohort != told:
            tell(cohort)
            told = cohort
        if verdict is not None:
            return Rollout(verdict, cohort)
        watch.step(min(_STEP_S, following.deadline_s - now_s))


class Following:
    """One release on its cohort, looked at again and again. Pure.

    Args:
        terms: Of the release.
        sha256: Digest of its bundle.
        deadline_s: When what has not been answered counts as silence, on the clock of :meth:`look`.
        withdraw_above: Share of refusals from which on it is too many; None: any share will do.
        steady_s: For how long an agent must run it that has not tried it before, until it has answered;
            one that falls silent before that has refused it.

    Attributes:
        deadline_s: As given.
    """

    def __init__(
        self,
        terms: ReleaseTerms,
        sha256: str,
        deadline_s: float,
        withdraw_above: float | None,
        *,
        steady_s: float = 0.0,
    ) -> None:
        self.deadline_s = deadline_s
        self._terms = terms
        self._sha256 = sha256
        self._withdraw_above = withdraw_above
        self._steady_s = steady_s
        self._begun_s = math.inf
        self._heard_s: dict[str, float] = {}
        self._runs: dict[str, _Run] = {}
        self._triers: set[str] = set()

    def look(
        self, agents: Sequence[Agent], available: Sequence[ReleaseTerms], now_s: float
    ) -> tuple[Cohort, Verdict | None]:
        """Return where its agents stand, and how it went; None: it goes on."""
        is_over = now_s >= self.deadline_s
        self._begun_s = min(self._begun_s, now_s)
        self._note_heard(agents, now_s)
        silent_s = self._silent_s(agents, now_s, is_over=is_over)
        cohort = cohort_of(self._terms, self._sha256, agents, available=available, silent_s=silent_s)
        cohort = Cohort(tuple(self._blamed(member, silent_s) for member in cohort.members))
        return cohort, self._verdict(cohort, now_s, is_over=is_over)

    def _silent_s(self, agents: Sequence[Agent], now_s: float, *, is_over: bool) -> dict[str, float]:
        """Return for how long each is silent; of a whole site that is, the line may be to blame."""
        if is_over:
            return dict.fromkeys(self._heard_s, math.inf)
        alive = {agent.site for agent in agents if not agent.is_silent}
        within_reach = {agent.name for agent in agents if agent.site in alive}
        return {name: now_s - at_s if name in within_reach else 0.0 for name, at_s in self._heard_s.items()}

    def _blamed(self, member: Member, silent_s: dict[str, float]) -> Member:
        """Return ``member``, refused if it fell silent soon after it had begun to run the release."""
        run = self._runs.get(member.agent)
        if member.standing is not Standing.LOST or member.phase is not None or run is None:
            return member
        lived_s = self._heard_s[member.agent] - run.since_s
        if lived_s >= self._steady_s or silent_s[member.agent] < PATIENCE_S:
            return member
        detail = "fell silent soon after it had begun to run it, and has not come back"
        return replace(member, reason=Reason.ACTIVATION_CRASHED, detail=detail)

    def _note_heard(self, agents: Sequence[Agent], now_s: float) -> None:
        """Note who is connected now, and who has the release on its way: that one was heard before us."""
        for agent in agents:
            slot = agent.slots.get(self._terms.model)
            challenger = None if slot is None else slot.challenger
            if not agent.is_silent:
                self._heard_s[agent.name] = now_s
                self._note_run(agent, now_s)
            elif challenger is not None and challenger.sha256 == self._sha256:
                self._heard_s.setdefault(agent.name, now_s)

    def _note_run(self, agent: Agent, now_s: float) -> None:
        """Note since when ``agent`` runs the release, without having started anew."""
        slot = agent.slots.get(self._terms.model)
        if slot is None or agent.status is None:
            return
        if slot.challenger is not None and slot.challenger.sha256 == self._sha256:
            self._triers |= {agent.name} if slot.challenger.phase in _TRIAL_PHASES else set()
        if slot.champion is None or slot.champion.sha256 != self._sha256:
            self._runs.pop(agent.name, None)
            return
        run = self._runs.get(agent.name)
        if run is None or run.started_ms != agent.status.started_ms:
            self._runs[agent.name] = _Run(agent.status.started_ms, now_s)

    def _verdict(self, cohort: Cohort, now_s: float, *, is_over: bool) -> Verdict | None:
        if self._withdraw_above is not None and cohort.refused_share > self._withdraw_above:
            return Verdict.TOO_MANY_REFUSED
        if not cohort.heard:
            # They may just be starting anew.
            is_hopeless = is_over or not cohort.members or now_s - self._begun_s >= PATIENCE_S
            return Verdict.UNHEARD if is_hopeless else None
        if cohort.is_settled and (is_over or all(self._is_steady(name, now_s) for name in self._runs)):
            return Verdict.SETTLED
        return Verdict.TIME_UP if is_over else None

    def _is_steady(self, name: str, now_s: float) -> bool:
        """Whether an agent runs it for so long that it can be called an answer."""
        return name in self._triers or now_s - self._runs[name].since_s >= self._steady_s


@dataclass(frozen=True, slots=True)
class _Run:
    """An agent that runs the release.

    Attributes:
        started_ms: When the agent started, as it says.
        since_s: When it was first seen to run it since.
    """

    started_ms: float | None
    since_s: float
