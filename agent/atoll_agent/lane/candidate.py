"""A release on trial beside the champion of its model.

In shadow both answer the same windows and only the champion is heard; on probation the candidate is
heard, and the champion takes in readings so that it could go on at once.
"""

from __future__ import annotations

from typing import Final

from atoll_agent.lane.answering import Answering
from atoll_agent.lane.pending import Pending
from atoll_agent.lane.recent import Recent
from atoll_agent.rollout.trial import Trial, TrialReport, Verdict
from atoll_contract.manifest import Manifest
from atoll_contract.messages import Label, Reading
from atoll_infer.predictor import Answer

_MAX_PAIRS: Final = 8192
"""Windows that one of the two has answered and the other not yet; then the oldest is not compared."""


class Candidate:
    """The two releases of one model, and what is known of the newer one.

    Attributes:
        champion: The release that goes on if the candidate fails.
        challenger: The candidate.
        verdict: How the present phase ended, if it has.
    """

    def __init__(self, champion: Answering, challenger: Answering, manifest: Manifest, now_s: float) -> None:
        self.champion = champion
        self.challenger = challenger
        self.is_on_probation = False
        self.verdict: Verdict | None = None
        self._manifest = manifest
        self._rules = manifest.passing
        self._trial = Trial(self._rules, manifest.task, self._rules.shadow_windows, now_s)
        self._recent = Recent()
        self._pairs: dict[int, tuple[Reading, float]] = {}

    @property
    def heard(self) -> Answering:
        """Who of the two answers."""
        return self.challenger if self.is_on_probation else self.champion

    @property
    def unheard(self) -> Answering:
        """The other one."""
        return self.champion if self.is_on_probation else self.challenger

    def take(self, pending: Pending | None) -> None:
        """Let the one who is not heard take in a reading that completed ``pending`` for it."""
        if pending is not None and not self.is_on_probation:
            pending.is_heard = False
            self.challenger.executor.submit(pending)

    def begin_probation(self, now_s: float) -> None:
        """Let the candidate be heard from now on."""
        self.is_on_probation = True
        self.verdict = None
        self._pairs.clear()
        champion_error = self._trial.champion_error
        self._trial = Trial(
            self._rules, self._manifest.task, self._rules.probation_windows, now_s, champion_error
        )

    def note(self, answering: Answering, pending: Pending, answer: Answer | None) -> None:
        """Note what one of the two said of a window."""
        value = None if answer is None else answer.value
        if answering is self.challenger:
            self._trial.answered(value, answering.executor.answer_s)
        if value is None:
            return
        predicted = self._recent.of(pending.device, pending.time_ms)
        if answering is self.challenger:
            predicted.challenger = value
        else:
            predicted.champion = value
        if not self.is_on_probation:
            self._pair(pending.reading, value, is_challenger=answering is self.challenger)

    def label(self, device: str, label: Label) -> None:
        """Take in the truth about windows of ``device``."""
        for predicted in self._recent.labelled(device, label, self._rules.label_tolerance_ms):
            if predicted.challenger is not None:
                self._trial.labelled(label.value, predicted.challenger, predicted.champion)

    def judge(self, now_s: float) -> Verdict | None:
        """Return how the present phase ended, when it just has."""
        if self.verdict is not None:
            return None
        self.verdict = self._trial.verdict(now_s)
        return self.verdict

    def report(self) -> TrialReport:
        """Return how it stands."""
        trial = self._trial
        return TrialReport(
            release=self._manifest.release,
            is_on_probation=self.is_on_probation,
            windows=trial.windows,
            labels=trial.error.count,
            disagreement=trial.disagreement.value,
            error=trial.error.value,
            champion_error=trial.champion_error,
            verdict=self.verdict,
        )

    def _pair(self, reading: Reading, value: float, *, is_challenger: bool) -> None:
        """Compare what both said of ``reading`` once both have."""
        # The reading itself is kept, so that its id means nothing else meanwhile.
        _, other = self._pairs.pop(id(reading), (None, None))
        if other is None:
            if len(self._pairs) >= _MAX_PAIRS:
                del self._pairs[next(iter(self._pairs))]
            self._pairs[id(reading)] = (reading, value)
        elif is_challenger:
            self._trial.compared(other, value)
        else:
            self._trial.compared(value, other)
