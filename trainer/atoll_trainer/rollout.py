"""Follows a release over the fleet until its cohort has answered, or too many refuse it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from atoll_contract.release import ReleaseTerms
from atoll_trainer.cohort import Cohort, cohort_of
from atoll_trainer.fleet import FleetWatch

_STEP_S: Final = 0.5


class Verdict(StrEnum):
    """How a rollout went."""

    SETTLED = "settled"
    TOO_MANY_REFUSED = "too_many_refused"
    TIME_UP = "time_up"


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
    wait_s: float,
    withdraw_above: float | None,
    tell: Callable[[Cohort], None],
) -> Rollout:
    """Watch the cohort of a release that has just been published.

    Args:
        watch: Of the fleet.
        terms: Of the release.
        sha256: Digest of its bundle.
        wait_s: Longest wait.
        withdraw_above: Share of refusals from which on it is too many; None: any share will do.
        tell: Called with the cohort at first and whenever it has changed.

    Raises:
        BrokerUnavailableError: The broker does not answer, or refuses the subscription.
    """
    deadline = time.monotonic() + wait_s
    watch.settle()
    told: Cohort | None = None
    while True:
        cohort = cohort_of(terms, sha256, watch.fleet.agents)
        if cohort != told:
            tell(cohort)
            told = cohort
        if withdraw_above is not None and cohort.refused_share > withdraw_above:
            return Rollout(Verdict.TOO_MANY_REFUSED, cohort)
        if cohort.is_settled:
            return Rollout(Verdict.SETTLED, cohort)
        remaining_s = deadline - time.monotonic()
        if remaining_s <= 0:
            return Rollout(Verdict.TIME_UP, cohort)
        watch.step(min(_STEP_S, remaining_s))
