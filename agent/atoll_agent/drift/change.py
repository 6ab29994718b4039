"""The change test on the error: has it become larger than it should be?"""

from __future__ import annotations

from typing import Final

from atoll_agent.rollout.trial import Mean
from atoll_contract.reference import ExpectedError

ALLOWANCE: Final = 0.5
"""Standard deviations by which the mean error may be larger without an end."""
LIMIT: Final = 25.0
"""Of the statistic: reached after 50 labels that are larger by one standard deviation."""
_LARGEST: Final = 5.0
"""One label counts for no more: a single glitch is no change."""
_LEARN: Final = 200
"""Errors that the expected one is taken from where the release does not tell it."""
_LATELY: Final = 100
"""The recent mean is about that of so many labels."""
_LEAST_STD: Final = 1e-9


class ChangeTest:
    """The Page-Hinkley test for an increase, with the expected error as its reference.

    S = max(0, S + z - allowance), where z is how many standard deviations an error is above the expected one.
    Sources: Page, Biometrika 41 (1954) 100; Hinkley, Biometrika 58 (1971) 509. The time at which S was 0 last
    is the maximum-likelihood estimate of when the change began.

    Args:
        expected: By the release; None: what the first errors show.
    """

    def __init__(self, expected: ExpectedError | None) -> None:
        self._expected = expected
        self._first = Mean()
        self._has_changed = False
        self.labels = 0
        self.mean = 0.0
        """Of the errors lately."""
        self.statistic = 0.0
        self.since_ms: float | None = None
        """Event time of the first error since S was 0; None while it is."""

    @property
    def expected(self) -> ExpectedError | None:
        """The error that is held against; None: not known yet."""
        return self._expected

    @property
    def has_changed(self) -> bool:
        """Whether the limit was reached, and S has not been 0 since."""
        return self._has_changed

    def add(self, error: float, time_ms: float) -> None:
        """Take in one absolute error; of a classifier 1 for another label."""
        self.labels += 1
        self.mean += (error - self.mean) / min(self.labels, _LATELY)
        expected = self._expected
        if expected is None:
            self._learn(error)
            return
        std = max(expected.std, expected.mean / 4, _LEAST_STD)
        z = min((error - expected.mean) / std, _LARGEST)
        # Bounded, so that an error that is as it should be again is seen to be so.
        self.statistic = min(max(0.0, self.statistic + z - ALLOWANCE), 2 * LIMIT)
        if self.statistic == 0.0:
            self._has_changed, self.since_ms = False, None
            return
        if self.since_ms is None:
            self.since_ms = time_ms
        self._has_changed = self._has_changed or self.statistic > LIMIT

    def _learn(self, error: float) -> None:
        self._first.add(error)
        if self._first.count >= _LEARN:
            std = self._first.standard_error * self._first.count**0.5
            self._expected = ExpectedError(mean=self._first.value, std=std)
