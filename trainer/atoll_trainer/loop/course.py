"""What one model's loop does next: pure, by what it sees and the time that it is given."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from atoll_contract.drift import DriftReport, ErrorShift
from atoll_contract.release import is_in_rollout
from atoll_link.cohort import Cohort, Standing
from atoll_link.fleet import Agent
from atoll_trainer.loop import errors
from atoll_trainer.loop.machine import OUT, WORKING, Event, Phase, advance
from atoll_trainer.loop.state import Cause, Learnt, ModelState
from atoll_trainer.loop.view import View
from atoll_trainer.repository import Available
from atoll_trainer.rollout import Following, Verdict

_MOST_ATTEMPTS: Final = 6
"""To publish a release; then it waits for the next reason to learn."""
_MOST_STARTS: Final = 2
"""Of a training that is interrupted each time: it may be what ends the machine."""
_RETRY_MS: Final = 5_000.0
_MOST_RETRY_MS: Final = 300_000.0
_MAX_DETAIL: Final = 300
_MOST_FOLLOW_UPS: Final = 3
"""After one drift."""


@dataclass(frozen=True, slots=True)
class Policy:
    """How one model is kept up to date; see :class:`atoll_trainer.settings.ModelTable`."""

    model: str
    on_drift: bool = True
    drift_agents: int = 1
    on_labels: int = 0
    every_s: float = 0.0
    history_s: float = 604_800.0
    fresh_s: float = 600.0
    cool_down_s: float = 3600.0
    settle_s: float = 3600.0
    watch_s: float = 600.0
    withdraw_above: float = 0.2


class JobKind(StrEnum):
    """What a command does."""

    TRAIN = "train"
    PUBLISH = "publish"
    PROMOTE = "promote"
    WITHDRAW = "withdraw"


@dataclass(frozen=True, slots=True)
class Job:
    """A command, or a row of them, that is to be run.

    Attributes:
        kind: What it does.
        model: To which model.
        release: To which release; of a training None: the next free number.
        run: Name of the run folder.
        since_ms: Event time from which on a training learns.
        why: Of a withdrawal.
        percent: Of a promotion by request: share of the devices of its channel.
    """

    kind: JobKind
    model: str
    release: int | None = None
    run: str | None = None
    since_ms: float | None = None
    why: str = ""
    percent: int | None = None


@dataclass(frozen=True, slots=True)
class Ended:
    """How a job ended.

    Attributes:
        is_done: Whether it succeeded.
        is_refusal: Whether the gate refused the release.
        is_signed: Of a publication that failed: whether the release is available all the same.
        detail: For people, if it failed.
        run: Of a training: name of the run folder.
        release: Of a training or a publication: number of the release.
        percent: Of a publication: whom it is for.
    """

    is_done: bool
    is_refusal: bool = False
    is_signed: bool = False
    detail: str = ""
    run: str | None = None
    release: int | None = None
    percent: int | None = None


class Course:
    """One model's loop.

    Attributes:
        state: Where it is; whoever lets it go on stores it.
    """

    def __init__(self, policy: Policy, state: ModelState) -> None:
        self.policy = policy
        self.state = state
        self._job: Job | None = None
        self._following: Following | None = None

    def tick(self, view: View, now_ms: float) -> Job | None:
        """Let pass what is due, and return what is to be run."""
        if view.is_complete:
            self._look(view, now_ms)
        state = self.state
        if state.phase not in WORKING or self._job is not None or now_ms < state.retry_ms:
            return None
        if state.phase is Phase.PUBLISHING and not view.is_complete:
            return None  # who is there decides for whom it is
        if state.phase is Phase.TRAINING and state.starts >= _MOST_STARTS:
            outcome = f"training failed: interrupted {state.starts} times; see the log of the service"
            self._change(attempt_ms=now_ms)
            self._end(Event.FAILED, outcome, now_ms)
            return None
        self._job = self._due()
        return self._job

    def _due(self) -> Job:
        state = self.state
        match state.phase:
            case Phase.TRAINING:
                return Job(JobKind.TRAIN, state.model, since_ms=state.data_since_ms)
            case Phase.PUBLISHING:
                return Job(JobKind.PUBLISH, state.model, state.release, state.run)
            case Phase.PROMOTING:
                return Job(JobKind.PROMOTE, state.model, state.release)
            case _:
                why = (state.detail or "it disappointed")[:_MAX_DETAIL]
                return Job(JobKind.WITHDRAW, state.model, state.release, why=why)

    def wants(self, job: Job) -> bool:
        """Whether ``job`` is still to be done: an operator may have been faster."""
        return job is self._job

    def begun(self, job: Job) -> None:
        """Count that a training begins; stored before it does, this outlives what it may end."""
        if job.kind is JobKind.TRAIN:
            self._change(starts=self.state.starts + 1)

    def ended(self, job: Job, ended: Ended, now_ms: float) -> None:
        """Take in how a job that :meth:`tick` returned has ended, unless it is wanted no more."""
        if not self.wants(job):
            return
        self._job = None
        phase, state = self.state.phase, self.state
        if ended.is_done:
            self._done(ended, now_ms)
            return
        attempts = state.attempts + 1
        if phase is Phase.PUBLISHING and ended.release is not None:
            self._change(release=ended.release)
        if ended.is_refusal:
            self._end(Event.REFUSED, f"the gate refused it: {ended.detail}", now_ms)
        elif phase is Phase.PUBLISHING and attempts >= _MOST_ATTEMPTS and ended.is_signed:
            detail = f"publishing failed: {ended.detail}"[:_MAX_DETAIL]
            self._go(Event.DISAPPOINTED, now_ms, detail=detail)
        elif phase is Phase.TRAINING or (phase is Phase.PUBLISHING and attempts >= _MOST_ATTEMPTS):
            self._end(Event.FAILED, f"{phase.value} failed: {ended.detail}", now_ms)
        else:
            wait_ms = min(_RETRY_MS * 2 ** (attempts - 1), _MOST_RETRY_MS)
            self._change(attempts=attempts, retry_ms=now_ms + wait_ms, detail=ended.detail[:_MAX_DETAIL])

    # Operators

    def order(self) -> None:
        """Learn anew as soon as nothing else is going on, whatever the cool-down."""
        self._change(is_ordered=True)

    def promoted(self, release: int, now_ms: float) -> None:
        """Note that an operator let a release be for all."""
        if release == self.state.release and self.state.phase in OUT:
            self._go(Event.PROMOTED, now_ms, detail="by request")

    def labelled(self) -> None:
        """Count a label."""
        self.state = self.state.model_copy(update={"labels": self.state.labels + 1})

    # What passes by itself

    def _look(self, view: View, now_ms: float) -> None:
        if self.state.phase is not Phase.IDLE:
            self._change(error_before=self._error_before(view))
        match self.state.phase:
            case Phase.IDLE:
                self._look_for_cause(view, now_ms)
            case Phase.COLLECTING:
                self._collect(view, now_ms)
            case Phase.CANARY | Phase.WATCHING | Phase.PROMOTING | Phase.ROLLOUT:
                self._follow(view, now_ms)
            case Phase.WITHDRAWING if self._job is None and self._held(view) is None:
                self._end(Event.DONE, f"release {self.state.release} is gone: {self.state.detail}", now_ms)
            case _:
                pass

    def _look_for_cause(self, view: View, now_ms: float) -> None:
        state, policy = self.state, self.policy
        oldest_ms = max(0.0, state.learns_from_ms, now_ms - policy.history_s * 1e3)
        if state.is_ordered:
            self._want(Cause.REQUEST, "an operator asked for it", oldest_ms, now_ms, now_ms)
            return
        if state.attempt_ms is not None and now_ms < state.attempt_ms + policy.cool_down_s * 1e3:
            return
        drifting = self._drifting(view) if policy.on_drift else []
        if not view.releases:
            ready_ms = state.created_ms + policy.fresh_s * 1e3
            self._want(Cause.FIRST, "no release is out", oldest_ms, ready_ms, now_ms)
        elif drifting and len(drifting) >= policy.drift_agents:
            onset_ms = min(
                report.time_ms if report.since_ms is None else report.since_ms for report in drifting
            )
            detail = f"{_agents(len(drifting))}: {drifting[0].detail or 'drifting'}"
            ready_ms = onset_ms + policy.fresh_s * 1e3
            self._want(Cause.DRIFT, detail, max(oldest_ms, onset_ms), ready_ms, now_ms)
        elif policy.on_drift and (promised := self._too_large_a_promise(view)) and state.learnt is not None:
            learnt, usual = state.learnt, state.usual_error
            detail = f"release {learnt.release} promises an error of {promised:.4g}, {usual:.4g} is usual"
            ready_ms = learnt.began_ms + policy.fresh_s * 1e3
            self._want(Cause.FOLLOW_UP, detail, max(oldest_ms, learnt.began_ms), ready_ms, now_ms)
        elif 0 < policy.on_labels <= state.labels:
            self._want(Cause.LABELS, f"{state.labels} new labels", oldest_ms, now_ms, now_ms)
        elif policy.every_s and now_ms >= (state.trained_ms or state.created_ms) + policy.every_s * 1e3:
            self._want(Cause.SCHEDULE, f"every {policy.every_s:g} s", oldest_ms, now_ms, now_ms)

    def _collect(self, view: View, now_ms: float) -> None:
        state, drifting = self.state, self._drifting(view)
        if state.is_ordered and state.cause is not Cause.REQUEST:
            self._end(Event.CALLED_OFF, "an operator wants it to learn at once", now_ms)
        elif state.cause is Cause.DRIFT and not drifting:
            self._end(Event.CALLED_OFF, "the drift has ended", now_ms)
        elif state.cause is Cause.FOLLOW_UP and len(drifting) >= self.policy.drift_agents:
            self._end(Event.CALLED_OFF, "it drifts again", now_ms)
        elif now_ms >= state.ready_ms:
            self._note_cause(drifting)
            self._go(Event.READY, now_ms, attempt_ms=now_ms, is_ordered=False, labels=0)

    def _note_cause(self, drifting: Sequence[DriftReport]) -> None:
        learnt, cause = self.state.learnt, self.state.cause
        if cause is Cause.FOLLOW_UP and learnt is not None:
            self._change(learnt=learnt.model_copy(update={"follow_ups": learnt.follow_ups + 1}))
        elif cause is Cause.DRIFT:
            told = [self.state.usual_error, *(errors.promised([one], one.release) for one in drifting)]
            self._change(usual_error=min((one for one in told if one), default=None))

    def _drifting(self, view: View) -> list[DriftReport]:
        """Return the reports that tell of drift."""
        return [report for report in view.reports(self.policy.model) if report.drifting]

    def _too_large_a_promise(self, view: View) -> float | None:
        """Judge the release that a drift made learn; return what it promises if it is to be followed up.

        What is learnt while the world still changes fits neither what was nor what will be. Its untouched
        part was measured meanwhile: agents expect a large error of it, and tell no drift.
        """
        learnt, usual = self.state.learnt, self.state.usual_error
        if learnt is None or usual is None:
            return None
        promised = errors.promised(view.reports(self.policy.model), learnt.release)
        if promised is None:
            return None
        if promised <= errors.UNFINISHED * usual:
            self._change(learnt=None)
        elif learnt.follow_ups >= _MOST_FOLLOW_UPS:
            self._change(learnt=None, usual_error=promised)  # the world has become harder
        else:
            return promised
        return None

    def _follow(self, view: View, now_ms: float) -> None:
        state, held = self.state, self._held(view)
        if held is None:
            self._end(Event.GONE, f"release {state.release} is not available any more", now_ms)
            return
        if state.phase is Phase.PROMOTING:
            return
        if self._following is None:
            left_ms = self.policy.settle_s * 1e3
            if state.phase is not Phase.WATCHING:
                left_ms -= now_ms - state.since_ms
            self._following = Following(
                held.terms, held.sha256, (now_ms + left_ms) / 1e3, self.policy.withdraw_above
            )
        available = [one.terms for one in view.releases]
        cohort, verdict = self._following.look(view.agents, available, now_ms / 1e3)
        if (detail := described(cohort)) != state.detail:
            self._change(detail=detail)
        if verdict is Verdict.TOO_MANY_REFUSED:
            reasons = ", ".join(f"{reason} {count}" for reason, count in cohort.refusals())
            self._go(Event.DISAPPOINTED, now_ms, detail=f"{detail}: {reasons}"[:_MAX_DETAIL])
        elif state.phase is Phase.WATCHING:
            self._watch(view, held, cohort, now_ms)
        elif verdict in {Verdict.SETTLED, Verdict.TIME_UP}:
            self._settle(cohort, detail, now_ms)
        elif now_ms / 1e3 >= self._following.deadline_s:
            self._give_up(view, detail, now_ms)

    def _held(self, view: View) -> Available | None:
        return next((one for one in view.releases if one.terms.release == self.state.release), None)

    def _give_up(self, view: View, detail: str, now_ms: float) -> None:
        """Wait no longer for devices of which none is there; a canary only if others are."""
        if self.state.phase is Phase.ROLLOUT:
            self._end(Event.SETTLED, f"release {self.state.release} is out; {detail}", now_ms)
        elif any(not one.is_silent and self.policy.model in one.slots for one in view.agents):
            self._go(Event.DISAPPOINTED, now_ms, detail=f"nobody who should try it is connected; {detail}")

    def _settle(self, cohort: Cohort, detail: str, now_ms: float) -> None:
        if self.state.phase is Phase.ROLLOUT:
            self._end(Event.SETTLED, f"release {self.state.release} is out; {detail}", now_ms)
        elif cohort.count(Standing.RUNS) or cohort.count(Standing.NEWER):
            self._go(Event.SETTLED, now_ms, detail=detail)
        else:
            self._go(Event.DISAPPOINTED, now_ms, detail=f"nobody runs it; {detail}")

    def _watch(self, view: View, held: Available, cohort: Cohort, now_ms: float) -> None:
        following, before = self._following, self.state.error_before
        is_time_up = following is not None and now_ms / 1e3 >= following.deadline_s
        is_open = False
        for agent, error in self._beyond(view, cohort):
            is_worse = errors.is_worse(error, before, is_time_up=is_time_up)
            if is_worse:
                detail = f"on {agent} its error is {error.mean:.4g} instead of {error.expected:.4g}"
                detail = (
                    detail if before is None else f"{detail}, and {before:.4g} where another release runs"
                )
                self._go(Event.DISAPPOINTED, now_ms, detail=detail)
                return
            is_open = is_open or is_worse is None
        if is_open or now_ms < self.state.since_ms + self.policy.watch_s * 1e3:
            return
        running, fallen = self._pulse(view, held, cohort)
        is_alive = running > 0 or (not fallen and cohort.count(Standing.NEWER) > 0)
        if is_alive and fallen <= self.policy.withdraw_above * (running + fallen):
            self._go(Event.PASSED, now_ms)
        elif is_time_up:
            detail = f"{_agents(fallen)} fell silent while running it, {running} still run it"
            self._go(Event.DISAPPOINTED, now_ms, detail=detail)

    def _beyond(self, view: View, cohort: Cohort) -> Iterator[tuple[str, ErrorShift]]:
        """Yield the agents of a cohort on which the release errs more than it promised."""
        for member in cohort.members:
            report = view.drifts.get((member.site, member.agent))
            if report is None or report.release != self.state.release or report.error is None:
                continue
            if report.error.statistic > report.error.limit:
                yield member.agent, report.error

    def _error_before(self, view: View) -> float | None:
        state = self.state
        doubted = state.learnt.release if state.cause is Cause.FOLLOW_UP and state.learnt else None
        return errors.of_others(view.reports(self.policy.model), state.release, doubted, state.error_before)

    def _pulse(self, view: View, held: Available, cohort: Cohort) -> tuple[int, int]:
        """Return how many of a cohort run the release now, and how many ran it when they fell silent."""
        members = {(member.site, member.agent) for member in cohort.members}
        silent = []
        for agent in view.agents:
            slot = agent.slots.get(self.policy.model)
            champion = None if slot is None else slot.champion
            if (agent.site, agent.name) in members and champion and champion.sha256 == held.sha256:
                silent.append(agent.is_silent)
        return silent.count(False), silent.count(True)

    def _want(self, cause: Cause, detail: str, data_since_ms: float, ready_ms: float, now_ms: float) -> None:
        self._go(
            Event.WANTED,
            now_ms,
            cause=cause,
            detail=detail[:_MAX_DETAIL],
            data_since_ms=data_since_ms,
            ready_ms=ready_ms,
            release=None,
            run=None,
            percent=None,
            error_before=None,
        )

    def _done(self, ended: Ended, now_ms: float) -> None:
        match self.state.phase:
            case Phase.TRAINING:
                self._go(Event.DONE, now_ms, run=ended.run, release=ended.release, trained_ms=now_ms)
            case Phase.PUBLISHING:
                self._go(
                    Event.DONE, now_ms, percent=ended.percent, release=ended.release or self.state.release
                )
            case Phase.WITHDRAWING:
                release, why = self.state.release, self.state.detail
                self._end(Event.DONE, f"release {release} was withdrawn: {why}", now_ms)
            case _:
                self._go(Event.DONE, now_ms)

    def _end(self, event: Event, outcome: str, now_ms: float) -> None:
        self._go(event, now_ms, outcome=outcome[:_MAX_DETAIL], cause=None, detail=None)

    def _go(self, event: Event, now_ms: float, **changes: object) -> None:
        state = self.state
        phase = advance(state.phase, event)
        if (state.phase, event) == (Phase.ROLLOUT, Event.SETTLED):
            changes |= self._learnt()
        self._following = self._job = None
        self._change(phase=phase, since_ms=now_ms, attempts=0, starts=0, retry_ms=0.0, **changes)

    def _learnt(self) -> dict[str, object]:
        """Return what changes once a release is out for all."""
        state, before = self.state, self.state.learnt
        if state.release is None or (before is None and state.cause is not Cause.DRIFT):
            return {}
        follow_ups = 0 if before is None or state.cause is Cause.DRIFT else before.follow_ups
        learnt = Learnt(release=state.release, began_ms=state.attempt_ms or 0.0, follow_ups=follow_ups)
        found: dict[str, object] = {"learnt": learnt}
        if state.cause in {Cause.DRIFT, Cause.FOLLOW_UP}:
            found["learns_from_ms"] = state.data_since_ms  # what was before is another world
        return found

    def _change(self, **changes: object) -> None:
        self.state = self.state.model_copy(update=changes)


def canary_percent(wished: int, salt: str, model: str, agents: Sequence[Agent]) -> int:
    """Return the least share from ``wished`` on that includes an agent that is connected and has the model.

    Without any it is as wished: in a small fleet a tenth may be nobody.
    """
    names = [agent.name for agent in agents if not agent.is_silent and model in agent.slots]
    for percent in range(wished, 101):
        if any(is_in_rollout(name, percent=percent, salt=salt) for name in names):
            return percent
    return wished


def described(cohort: Cohort) -> str:
    """Return where the agents of a cohort stand, in words."""
    if not cohort.members:
        return "no agent is known that it is for"
    counts = [f"{count} {standing.value}" for standing in Standing if (count := cohort.count(standing))]
    return f"{_agents(len(cohort.members))}: {', '.join(counts)}"


def _agents(count: int) -> str:
    return "1 agent" if count == 1 else f"{count} agents"
