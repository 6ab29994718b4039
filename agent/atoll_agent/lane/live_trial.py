"""A release on trial beside the champion of its model.

In shadow both answer the same windows and only the champion is heard; on probation the challenger is
heard, and the champion takes in readings so that it could go on at once.
"""

from __future__ import annotations

from collections import OrderedDict
from contextlib import suppress
from typing import Final

from atoll_agent.lane.answering import Answering
from atoll_agent.lane.pending import Pending
from atoll_agent.lane.recent import Asked, Recent
from atoll_agent.rollout.trial import TrialPhase, TrialReport, Verdict
from atoll_contract.errors import MalformedMessageError, Reason
from atoll_contract.manifest import Manifest
from atoll_contract.messages import Label, Reading
from atoll_infer.predictor import Answer
from atoll_ingest.stream import Overload
from atoll_link.session import Delivery

MAX_OPEN: Final = 4096
"""Windows that wait for both answers; more than wait for one model."""
_MUTE_S: Final = 60.0
"""A release that leaves a window unanswered for so long answers no more."""
_LOOK_S: Final = 1.0
"""How often that is looked for."""
_TURN_S: Final = 5.0
"""Time that the lane, or the whole machine, stood still beyond it is nobody's fault."""


class LiveTrial:
    """Champion and challenger of one model, and how the challenger fares.

    Attributes:
        champion: The release that goes on if the challenger fails.
        challenger: The release on trial.
        is_on_probation: Whether the challenger is heard.
        overload: What happens to readings of the stream that come too fast.
        verdict: How the present phase ended, if it has.
    """

    def __init__(
        self,
        number: int,
        champion: Answering,
        challenger: Answering,
        manifest: Manifest,
        overload: Overload,
        now_s: float,
    ) -> None:
        self.champion = champion
        self.challenger = challenger
        self.is_on_probation = False
        self.verdict: Verdict | None = None
        self._number = number
        self._manifest = manifest
        self._rules = manifest.passing
        self.overload = overload
        self._phase = TrialPhase(self._rules, manifest.task, self._rules.shadow_windows, now_s)
        self._recent = Recent()
        self._open: OrderedDict[int, Asked] = OrderedDict()
        self._looked_s = now_s
        self._lived_s = 0.0

    @property
    def unheard(self) -> Answering:
        """The one of the two that is not heard."""
        return self.champion if self.is_on_probation else self.challenger

    def begin_probation(self, now_s: float) -> None:
        """Let the challenger be heard from now on."""
        self.is_on_probation = True
        self.verdict = None
        self._open.clear()
        windows, champion_error = self._rules.probation_windows, self._phase.champion_error
        rules = self._rules.model_copy(update={"max_disagreement": None})  # there is nobody to agree with
        self._phase = TrialPhase(rules, self._manifest.task, windows, now_s, champion_error)

    def take(self, reading: Reading, device: str, delivery: Delivery) -> None:
        """Let the one who is not heard take in a reading that the other has taken in."""
        if self.is_on_probation:
            with suppress(MalformedMessageError):  # it may need more: nobody's fault
                self.champion.take(reading, device, delivery, None)
            return
        try:
            pending = self.challenger.take(reading, device, delivery, None)
        except MalformedMessageError as error:
            self._refused(device, error)
            return
        if pending is None:
            return
        pending.is_heard = False
        self.expect(pending)
        left_out = self.challenger.executor.submit(pending)
        if left_out is not None:
            self.leave_out(left_out)

    def expect(self, pending: Pending) -> None:
        """Note a window that the challenger is about to answer."""
        asked = Asked(pending.reading, asked_s=self._lived_s)
        self._open[id(pending.reading)] = asked
        if len(self._open) > MAX_OPEN:  # windows of other lengths are never answered by both
            _, oldest = self._open.popitem(last=False)
            oldest.reading = None
            if oldest.challenger is None:
                self._phase.broke(Reason.TOO_SLOW, f"it left {MAX_OPEN:,} readings unanswered")
        self._recent.add(pending.device, pending.time_ms, asked)

    def leave_out(self, pending: Pending) -> None:
        """Note that one of the two has no time for a window."""
        self._forget(pending.reading)
        if pending.is_heard is not self.is_on_probation:
            return  # the champion
        self._phase.left_out += 1
        if self.overload is Overload.BLOCK:
            self._phase.broke(Reason.TOO_SLOW, "it answers more slowly than readings come")

    def refuse(self, reading: Reading, device: str, delivery: Delivery, error: MalformedMessageError) -> None:
        """Note that the one who is heard cannot use a reading: a breach if only the champion can."""
        if not self.is_on_probation:
            return
        try:
            self.champion.take(reading, device, delivery, None)
        except MalformedMessageError:
            return
        self._refused(device, error)

    def _forget(self, reading: Reading | None) -> bool:
        """Wait for no more answers about the window of ``reading``; whether any were waited for."""
        asked = self._open.pop(id(reading), None)
        if asked is None:
            return False
        asked.reading = None  # it may hold a picture, and labels are waited for for long
        return True

    def _refused(self, device: str, error: MalformedMessageError) -> None:
        self._phase.broke(Reason.ANSWERS_FEWER, f"it cannot use a reading of {device}: {error.detail}")

    def time(self, times_s: list[float]) -> None:
        """Note how long an answer of the challenger took, for each call of its model."""
        for answer_s in times_s:
            self._phase.timed(answer_s)

    def note(self, answering: Answering, pending: Pending, answer: Answer | Reason) -> None:
        """Note what one of the two said of a window."""
        if answering is self.challenger and pending.is_heard is self.is_on_probation:
            self._note_challenger(pending, answer)
        elif answering is self.champion:
            asked = self._open.get(id(pending.reading))
            if isinstance(answer, Reason):
                self._forget(pending.reading)  # there is nothing to compare with
            elif asked is not None:
                asked.champion = answer.value
                self._close(asked)

    def label(self, device: str, label: Label) -> None:
        """Take in the truth about windows of ``device``."""
        for asked in self._recent.labelled(device, label, self._rules.label_tolerance_ms):
            self._close(asked)

    def judge(self, now_s: float) -> Verdict | None:
        """Return how the present phase ended, when it just has."""
        if self.verdict is not None:
            return None
        if now_s - self._looked_s >= _LOOK_S:
            self._look_mute(now_s)
        self.verdict = self._phase.verdict(now_s)
        return self.verdict

    def _look_mute(self, now_s: float) -> None:
        self._lived_s += min(now_s - self._looked_s, _TURN_S)
        self._looked_s = now_s
        waits = next((asked for asked in self._open.values() if asked.challenger is None), None)
        if waits is not None and self._lived_s - waits.asked_s > _MUTE_S:
            self._phase.broke(Reason.TOO_SLOW, f"it left a reading unanswered for {_MUTE_S:g} s")

    def report(self) -> TrialReport:
        """Return how it stands."""
        phase = self._phase
        return TrialReport(
            number=self._number,
            release=self._manifest.release,
            is_on_probation=self.is_on_probation,
            windows=phase.windows,
            labels=phase.error.count,
            disagreement=phase.disagreement.value,
            error=phase.error.value,
            champion_error=phase.champion_error,
            verdict=self.verdict,
        )

    def _note_challenger(self, pending: Pending, answer: Answer | Reason) -> None:
        asked = self._open.get(id(pending.reading))
        if isinstance(answer, Reason):
            self._forget(pending.reading)
            self._phase.broke(answer, f"it had no finite answer to a reading of {pending.device}")
            return
        self._phase.answered(answer.value)
        if asked is not None:
            asked.challenger = answer.value
            self._close(asked)

    def _close(self, asked: Asked) -> None:
        """Compare, and note the error, as soon as all is known that there is to know."""
        if asked.challenger is None or (asked.champion is None and not self.is_on_probation):
            return
        if self._forget(asked.reading) and asked.champion is not None:
            self._phase.compared(asked.champion, asked.challenger)
        if asked.label is not None and not asked.is_closed:
            asked.is_closed = True
            self._phase.labelled(asked.label, asked.challenger, asked.champion)
