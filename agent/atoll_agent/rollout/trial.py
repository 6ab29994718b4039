"""How a release fares on live windows: figures, and the verdict by the rules that it came with. Pure."""

from __future__ import annotations

import statistics
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from atoll_contract.errors import Reason
from atoll_contract.manifest import PassRules, Task

_LATENCIES: Final = 20
"""Answers whose median time is held against the budget; before so many came, nothing is."""


class Outcome(StrEnum):
    """How a trial ended."""

    PASSED = "passed"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Verdict:
    """The end of a trial.

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
        release: The release on trial.
        is_on_probation: Whether it answers, or is in shadow.
        windows: Windows that it answered in this phase.
        labels: Labels that arrived for them.
        disagreement: Mean difference to the champion.
        error: Mean error against labels.
        champion_error: That of the champion.
        verdict: How the phase ended, if it has.
    """

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
    """A running mean."""

    __slots__ = ("_total", "count")

    def __init__(self) -> None:
        self.count = 0
        self._total = 0.0

    def add(self, value: float) -> None:
        """Take in one value."""
        self.count += 1
        self._total += value

    @property
    def value(self) -> float:
        """The mean; 0 of nothing."""
        return self._total / self.count if self.count else 0.0


class Trial:
    """One phase of a release on live windows: *shadow* or *probation*.

    Whoever runs it tells what happened; :meth:`verdict` says when that suffices. Differences and
    errors are absolute ones in the unit of the prediction, for a classifier 1 for another label.

    Args:
        rules: What it has to show.
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
        self._times_s: deque[float] = deque(maxlen=_LATENCIES)
        self.windows = 0
        self.disagreement = Mean()
        self.error = Mean()
        self._champion_error = Mean()

    @property
    def champion_error(self) -> float | None:
        """The champion's mean error against labels, in this phase or before it."""
        return self._champion_error.value if self._champion_error.count else self._earlier_champion_error

    def answered(self, value: float | None, answer_s: float) -> None:
        """Note what it predicted for one window, None for NaN, and how long that took."""
        self.windows += 1
        self._times_s.append(answer_s)
        rules = self._rules
        if value is None:
            self._breach_by(Reason.OUTPUT_NOT_FINITE, "it answered NaN or infinity")
        elif (rules.low is not None and value < rules.low) or (rules.high is not None and value > rules.high):
            allowed = f"{_shown(rules.low)} to {_shown(rules.high)}"
            self._breach_by(Reason.OUTPUT_OUT_OF_RANGE, f"it answered {value:g}, allowed is {allowed}")

    def compared(self, champion: float, challenger: float) -> None:
        """Note what both predicted for the same window."""
        self.disagreement.add(self._difference(champion, challenger))

    def labelled(self, label: float, challenger: float, champion: float | None = None) -> None:
        """Note the truth about a window that it answered, and what the champion had said."""
        self.error.add(self._difference(label, challenger))
        if champion is not None:
            self._champion_error.add(self._difference(label, champion))

    def verdict(self, now_s: float) -> Verdict | None:
        """Return how the trial ended; None: it goes on."""
        breach = self._breach or self._slowness() or self._error_breach()
        if breach is not None:
            return breach
        is_late = now_s - self._started_s >= self._rules.max_s
        # Where labels arrive they are waited for: without them nobody knows the error.
        awaits_labels = 0 < self.error.count < self._rules.min_labels
        if (self.windows < self._wanted or awaits_labels) and not (is_late and self.windows):
            return None
        allowed = self._rules.max_disagreement
        if allowed is not None and self.disagreement.value > allowed:
            detail = (
                f"it differs from the champion by {self.disagreement.value:g} in the mean of "
                f"{self.disagreement.count} windows, allowed is {allowed:g}"
            )
            return Verdict(Outcome.FAILED, Reason.CHAMPION_DISAGREES, detail)
        return _PASSED

    def _breach_by(self, reason: Reason, detail: str) -> None:
        if self._breach is None:
            self._breach = Verdict(Outcome.FAILED, reason, detail)

    def _slowness(self) -> Verdict | None:
        budget_ms = self._rules.latency_ms
        if budget_ms is None or len(self._times_s) < _LATENCIES:
            return None
        median_ms = statistics.median(self._times_s) * 1e3
        if median_ms <= budget_ms:
            return None
        detail = f"half of its last {_LATENCIES} answers took {median_ms:.3g} ms, allowed is {budget_ms:g} ms"
        return Verdict(Outcome.FAILED, Reason.TOO_SLOW, detail)

    def _error_breach(self) -> Verdict | None:
        rules, error = self._rules, self.error.value
        if self.error.count < rules.min_labels:
            return None
        if rules.max_error is not None and error > rules.max_error:
            detail = (
                f"its mean error on {self.error.count} labels is {error:g}, allowed is {rules.max_error:g}"
            )
            return Verdict(Outcome.FAILED, Reason.ERROR_TOO_LARGE, detail)
        champion, ratio = self.champion_error, rules.max_error_ratio
        if champion is not None and ratio > 0 and error > ratio * champion:
            detail = (
                f"its mean error on {self.error.count} labels is {error:g}, the champion's {champion:g}; "
                f"allowed is {ratio:g} times as much"
            )
            return Verdict(Outcome.FAILED, Reason.ERROR_TOO_LARGE, detail)
        return None

    def _difference(self, one: float, other: float) -> float:
        return float(one != other) if self._is_classifier else abs(one - other)


def _shown(limit: float | None) -> str:
    return "any" if limit is None else f"{limit:g}"
