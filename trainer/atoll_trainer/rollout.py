"""Follows a release over the fleet until its cohort has answered, or too many refuse it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from atoll_contract.release import ReleaseTerms
from atoll_link.cohort import Cohort, cohort_of
from atoll_link.fleet import Agent
from atoll_trainer.fleet import FleetWatch

_STEP_S: Final = 0.5


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
    following = Following(terms, sha256, clock() + wait_s, withdraw_above)
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

    Attributes:
        deadline_s: When what has not been answered counts as silence, on the clock of :meth:`look`.
    """

    def __init__(
        self, terms: ReleaseTerms, sha256: str, deadline_s: float, withdraw_above: float | None
    ) -> None:
        self.deadline_s = deadline_s
        self._terms = terms
        self._sha256 = sha256
        self._withdraw_above = withdraw_above
        self._heard_s: dict[str, float] = {}

    def look(
        self, agents: Sequence[Agent], available: Sequence[ReleaseTerms], now_s: float
    ) -> tuple[Cohort, Verdict | None]:
        """Return where its agents stand, and how it went; None: it goes on."""
        is_over = now_s >= self.deadline_s
        self._note_heard(agents, now_s)
        silent_s = {name: math.inf if is_over else now_s - at_s for name, at_s in self._heard_s.items()}
        cohort = cohort_of(self._terms, self._sha256, agents, available=available, silent_s=silent_s)
        return cohort, _verdict(cohort, withdraw_above=self._withdraw_above, is_over=is_over)

    def _note_heard(self, agents: Sequence[Agent], now_s: float) -> None:
        """Note who is connected now, and who has the release on its way: that one was heard before us."""
        for agent in agents:
            slot = agent.slots.get(self._terms.model)
            challenger = None if slot is None else slot.challenger
            if not agent.is_silent:
                self._heard_s[agent.name] = now_s
            elif challenger is not None and challenger.sha256 == self._sha256:
                self._heard_s.setdefault(agent.name, now_s)


def _verdict(cohort: Cohort, *, withdraw_above: float | None, is_over: bool) -> Verdict | None:
    if withdraw_above is not None and cohort.refused_share > withdraw_above:
        return Verdict.TOO_MANY_REFUSED
    if not cohort.heard:
        return Verdict.UNHEARD
    if cohort.is_settled:
        return Verdict.SETTLED
    return Verdict.TIME_UP if is_over else None
