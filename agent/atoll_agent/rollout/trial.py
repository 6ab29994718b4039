"""How a release fares on live windows: figures, and the verdict by the rules that it came with. Pure."""

from __future__ import annotations

import math
import statistics
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from atoll_contract.errors import Reason
from atoll_contract.manifest import PassRules, Task

_TIMES: Final = 20
"""Calls of the model whose median time is held against the budget; before so many, nothing is."""

_MARGIN: Final = 3.0
"""An error ends a phase early once it is too large by as many standard errors: it is looked at after each
window, and chance shall decide little."""
_END_MARGIN: Final = 1.64
"""So many suffice when time is up, and by so many it is below what is allowed where a phase is passed
before: chance in one case of twenty."""


class Outcome(StrEnum):
    """How a phase of a trial ended."""

    PASSED = "passed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The end of a phase.

    Attributes:
        outcome: How it ended.
        reason: Why it failed.
        detail: The same with figures, for people.
    """

    outcome: Outcome
    reason: Reason | None = None
    detail: str = ""


@dataclass(frozen=True, slots=True)
class TrialReport:
    """How a trial stands; a snapshot.

    Attributes:
        number: Which trial of this agent it is: grows with each.
        release: The release on trial.
        is_on_probation: Whether it answers, or is in shadow.
        windows: Windows that it answered in this phase.
        labels: Labels that arrived for them.
        disagreement: Mean difference to the champion.
        error: Mean error against labels.
        champion_error: That of the champion.
        verdict: How the phase ended, if it has.
    """

    number: int
    release: int
    is_on_probation: bool
    windows: int
    labels: int
    disagreement: float
    error: float
    champion_error: float | None
    verdict: Verdict | None


_PASSED: Final = Verdict(Outcome.PASSED)


class Mean:
    """A running mean and its standard error. Source: Welford, Technometrics 4 (1962) 419."""

    __slots__ = ("_squares", "count", "value")

    def __init__(self) -> None:
        self.count = 0
        self.value = 0.0
        """The mean; 0 of nothing."""
        self._squares = 0.0

    def add(self, value: float) -> None:
        """Take in one value."""
        self.count += 1
        before = value - self.value
        self.value += before / self.count
        self._squares += before * (value - self.value)

    @property
    def standard_error(self) -> float:
        """By how much the mean may be off by chance; infinite for fewer than two values."""
        if self.count < 2:  # noqa: PLR2004 - a spread needs two
            return math.inf
        return math.sqrt(self._squares / (self.count - 1) / self.count)


class TrialPhase:
    """One phase of a trial on live windows: *shadow* or *probation*.

    Whoever runs it tells what happened; :meth:`verdict` says when that suffices. Differences and
    errors are absolute ones in the unit of the prediction, for a classifier 1 for another label.

    Args:
        rules: What the release has to show.
        task: What its predictions mean.
        windows: How many windows it has to answer.
        started_s: When the phase began, on the clock of :meth:`verdict`.
        champion_error: What the champion's mean error was, where it does not answer any more.
    """

    def __init__(
        self,
        rules: PassRules,
        task: Task,
        windows: int,
        started_s: float,
        champion_error: float | None = None,
    ) -> None:
        self._rules = rules
        self._is_classifier = task is Task.CLASSIFICATION
        self._wanted = windows
        self._started_s = started_s
        self._earlier_champion_error = champion_error
        self._breach: Verdict | None = None
        self._times_s: deque[float] = deque(maxlen=_TIMES)
        self._champion_error = Mean()
        self._beyond_rule = Mean()
        self._beyond_champion = Mean()
        self.windows = 0
        self.left_out = 0
        """Windows that it had no time for."""
        self.disagreement = Mean()
        self.error = Mean()

    @property
    def champion_error(self) -> float | None:
        """The champion's mean error against the same labels, or before this phase."""
        return self._champion_error.value if self._champion_error.count else self._earlier_champion_error

    def answered(self, value: float) -> None:
        """Note what the release predicted for one window."""
        self.windows += 1
        rules = self._rules
        if (rules.low is not None and value < rules.low) or (rules.high is not None and value > rules.high):
            allowed = f"{_shown(rules.low)} to {_shown(rules.high)}"
            self.broke(Reason.OUTPUT_OUT_OF_RANGE, f"it answered {value:g}, allowed is {allowed}")

    def broke(self, reason: Reason, detail: str) -> None:
        """Note what fails it at once: NaN, a reading that it refused, readings that it has no time for."""
        if self._breach is None:
            self._breach = Verdict(Outcome.FAILED, reason, detail)

    def timed(self, answer_s: float) -> None:
        """Note how long an answer took in one call of the model."""
        self._times_s.append(answer_s)

    def compared(self, champion: float, challenger: float) -> None:
        """Note what both predicted for the same window."""
        self.disagreement.add(self._difference(champion, challenger))

    def labelled(self, label: float, challenger: float, champion: float | None = None) -> None:
        """Note the truth about a window, and what the release and the champion had said."""
        error, rules = self._difference(label, challenger), self._rules
        self.error.add(error)
        if champion is not None:
            self._champion_error.add(self._difference(label, champion))
            self._beyond_champion.add(error - rules.max_error_ratio * self._difference(label, champion))
        elif self._earlier_champion_error is not None:
            self._beyond_champion.add(error - rules.max_error_ratio * self._earlier_champion_error)
        if rules.max_error is not None:
            self._beyond_rule.add(error - rules.max_error)

    def verdict(self, now_s: float) -> Verdict | None:
        """Return how the phase ended; None: it goes on."""
        breach = self._breach or self._slowness() or self._error_breach(_MARGIN)
        if breach is not None:
            return breach
        is_late = now_s - self._started_s >= self._rules.max_s
        asked = self.windows + self.left_out
        if is_late and self.windows < self._wanted <= asked:
            detail = f"it answered {self.windows} of {asked} windows"
            return Verdict(Outcome.FAILED, Reason.TOO_SLOW, detail)
        if self.windows == 0 or not (is_late or self._has_seen_enough):
            return _PASSED if self._wanted == 0 else None
        return self._disagreement_breach() or self._error_breach(_END_MARGIN) or _PASSED

    @property
    def _has_seen_enough(self) -> bool:
        # Where labels arrive they are waited for: without them nobody knows the error.
        awaits_labels = 0 < self.error.count < self._rules.min_labels
        is_compared = self._rules.max_disagreement is None or self.disagreement.count >= self._wanted
        is_decided = not any(map(self._is_open, self._excesses))
        return self.windows >= self._wanted and is_compared and not awaits_labels and is_decided

    @property
    def _excesses(self) -> list[Mean]:
        """By how much errors were above what the rules allow, for each of them that counts."""
        counts = (
            (self._rules.max_error is not None, self._beyond_rule),
            (self._rules.max_error_ratio > 0, self._beyond_champion),
        )
        return [excess for is_rule, excess in counts if is_rule and excess.count >= self._rules.min_labels]

    def _disagreement_breach(self) -> Verdict | None:
        allowed, found = self._rules.max_disagreement, self.disagreement
        if allowed is None or found.value <= allowed:
            return None
        detail = (
            f"it differs from the champion by {found.value:g} in the mean of {found.count} windows, "
            f"allowed is {allowed:g}"
        )
        return Verdict(Outcome.FAILED, Reason.CHAMPION_DISAGREES, detail)

    def _slowness(self) -> Verdict | None:
        budget_ms = self._rules.latency_ms
        if budget_ms is None or len(self._times_s) < _TIMES:
            return None
        median_ms = statistics.median(self._times_s) * 1e3
        if median_ms <= budget_ms:
            return None
        detail = f"an answer takes {median_ms:.3g} ms (median of {_TIMES}), allowed is {budget_ms:g} ms"
        return Verdict(Outcome.FAILED, Reason.TOO_SLOW, detail)

    def _error_breach(self, margin: float) -> Verdict | None:
        """Return that an error is too large, if it is so by as many standard errors."""
        rules = self._rules
        beyond = [
            excess for excess in self._excesses if excess.value > max(0, margin * excess.standard_error)
        ]
        if not beyond:
            return None
        if beyond[0] is self._beyond_rule:
            allowed = f"allowed is {rules.max_error:g}"
        else:
            allowed = (
                f"the champion's {self.champion_error:g}; allowed is {rules.max_error_ratio:g} times as much"
            )
        detail = f"its mean error on {self.error.count} labels is {self.error.value:g}, {allowed}"
        return Verdict(Outcome.FAILED, Reason.ERROR_TOO_LARGE, detail)

    def _is_open(self, excess: Mean) -> bool:
        """Whether errors may be above the allowed, as far as the labels tell so far.

        What the champion's error was in shadow is known by chance too: below it nobody needs to be proven.
        """
        if excess is self._beyond_champion and self._earlier_champion_error is not None:
            return False
        return excess.value > -_END_MARGIN * excess.standard_error

    def _difference(self, one: float, other: float) -> float:
        return float(one != other) if self._is_classifier else abs(one - other)


def _shown(limit: float | None) -> str:
    return "any" if limit is None else f"{limit:g}"
