"""The loop's shell: what it hears, what it runs, what it says. One thread, one connection."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog

from atoll_contract.drift import DriftReport
from atoll_contract.errors import (
    AtollError,
    BrokerUnavailableError,
    MalformedMessageError,
    PeerError,
    Reason,
    RequestRefusedError,
    TransientError,
)
from atoll_contract.messages import Health, LoopState, Refusals, Status
from atoll_contract.requests import PROMOTE, RETRAIN, WITHDRAW
from atoll_contract.topics import DriftTopic, LabelTopic, SlotTopic, StatusTopic, parse
from atoll_link.broker import Broker, Will
from atoll_link.fleet import Agent, Fleet
from atoll_link.request_desk import Order, RequestDesk, release_of, text_of
from atoll_link.session import Connected, Delivery, Disconnected, Event, Session, Subscribed
from atoll_trainer.home import Home
from atoll_trainer.loop.course import Course, Ended, Job, JobKind
from atoll_trainer.loop.machine import Phase
from atoll_trainer.loop.state import LoopFile, LoopStore, ModelState
from atoll_trainer.loop.view import View
from atoll_trainer.loop.work import Means, Work
from atoll_trainer.repository import MAX_WHY_CHARS, Available, Repository

_FILTERS: Final = (StatusTopic.any_of(), SlotTopic.any_of(), DriftTopic.any_of())
_COUNTERS: Final = {
    JobKind.TRAIN: "trainings",
    JobKind.PUBLISH: "publications",
    JobKind.PROMOTE: "promotions",
    JobKind.WITHDRAW: "withdrawals",
}
_STEP_S: Final = 0.5
_COMPLETE_S: Final = 2.0
"""MQTT has no end of the retained messages: so long after the last subscription they have arrived."""
_RELEASES_S: Final = 5.0
_HEARTBEAT_S: Final = 60.0
_STORE_S: Final = 60.0
_NO_STEP: Final = {"labels": 0, "detail": None, "error_before": None}
"""What of a model's state may change without a need to store it at once."""
_MOST_DRIFTS: Final = 65_536
_MOST_ORDERS: Final = 32
_WHOLE: Final = 100

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Who:
    """Who runs the loop.

    Attributes:
        id: Of the trainer.
        site: Of the trainer: where its status is, and whose labels and requests it hears.
        token: Its client token.
        version: Of atoll.
        trusted_writers: Whose requests and labels count.
    """

    id: str
    site: str
    token: str
    version: str
    trusted_writers: frozenset[str]


class Loop:
    """Keeps models up to date until told to stop.

    Args:
        who: Who runs it.
        broker: Where.
        home: The trainer's folder.
        courses: The models, by id.
        means: What their commands are given, by model.
        store: Keeps the state.
        stored: What it holds.
    """

    def __init__(
        self,
        who: Who,
        broker: Broker,
        home: Home,
        courses: Mapping[str, Course],
        means: Mapping[str, Means],
        store: LoopStore,
        stored: LoopFile,
    ) -> None:
        self._who = who
        self._home = home
        self._courses = courses
        self._means = means
        self._store = store
        self._session_number = stored.session
        self._counts: Counter[str] = Counter(stored.counts)
        self._others = {model: state for model, state in stored.models.items() if model not in courses}
        self._desk = RequestDesk(who.site, who.id, who.trusted_writers, self._obey)
        self._status_topic = str(StatusTopic(who.site, who.id))
        self._session = Session(broker, f"{who.id}-run-{who.token}", will=self._will)
        self._fleet = Fleet()
        self._drifts: dict[str, dict[tuple[str, str], DriftReport]] = {model: {} for model in courses}
        self._filters = [*_FILTERS, self._desk.topic_filter]
        self._filters += [
            LabelTopic.any_of(site=who.site, model=model)
            for model, course in courses.items()
            if course.policy.on_labels
        ]
        self._unconfirmed: set[str] = set()
        self._subscribed_s: float | None = None
        self._training: Work | None = None
        self._publishing: Work | None = None
        self._waiting: deque[Job] = deque()
        self._orders: deque[tuple[Job, Order]] = deque()
        self._ordered: Order | None = None
        self._releases: list[Available] = []
        self._releases_s: float | None = None
        self._refusals: Counter[Reason] = Counter()
        self._last_refusal: dict[Reason, str] = {}
        self._told: Status | None = None
        self._told_s = 0.0
        self._stored: dict[str, ModelState] = {}
        self._stored_s = time.monotonic()
        self._started_ms = time.time() * 1e3

    @property
    def is_connected(self) -> bool:
        """Whether its connection to the broker stands."""
        return self._session.is_connected

    @property
    def wake(self) -> Callable[[], None]:
        """What makes a waiting step return."""
        return self._session.wake

    def run(self, is_over: Callable[[], bool], on_step: Callable[[], None]) -> None:
        """Go on until ``is_over``, asked at least every half second; commands at work are then ended.

        Raises:
            BrokerUnavailableError: The broker refuses a subscription.
            StorageError: The state cannot be stored.
        """
        for topic_filter in self._filters:
            self._session.subscribe(topic_filter)
        _log.info("loop.started", models=sorted(self._courses), site=self._who.site)
        try:
            while not is_over():
                for event in self._session.step(_STEP_S):
                    self._heed(event)
                self._turn(time.time() * 1e3)
                on_step()
        finally:
            for work in (self._training, self._publishing):
                if work is not None:
                    work.stop()
            self._save()
            if self._session.is_connected:
                goodbye = Status(
                    health=Health.OFFLINE,
                    session=self._session_number,
                    time_ms=time.time() * 1e3,
                    token=self._who.token[:8],
                    detail="stopped",
                )
                self._session.publish(self._status_topic, goodbye.encode(), retain=True)
            self._session.close()
        _log.info("loop.stopped", **self._counts)

    # What it hears

    def _heed(self, event: Event) -> None:
        match event:
            case Connected():
                self._unconfirmed = set(self._filters)
                self._subscribed_s = None
                self._told = None
                _log.info("broker.connected", session=self._session_number)
            case Disconnected(detail, was_connected):
                self._subscribed_s = None
                if was_connected:
                    _log.warning("broker.disconnected", detail=detail)
                else:
                    _log.info("broker.unavailable", detail=detail)
            case Subscribed(topic_filter, refused=True):
                message = f"the broker refuses the subscription to {topic_filter!r}: its access rules"
                raise BrokerUnavailableError(message, Reason.BROKER_REFUSED)
            case Subscribed(topic_filter):
                self._unconfirmed.discard(topic_filter)
                if not self._unconfirmed:
                    self._subscribed_s = time.monotonic()
            case Delivery():
                self._heed_delivery(event)
            case _:
                pass

    def _heed_delivery(self, delivery: Delivery) -> None:
        try:
            match parse(delivery.topic):
                case DriftTopic(site, agent, model):
                    self._take_drift(site, agent, model, delivery.payload)
                case LabelTopic() as topic:
                    self._take_label(topic, delivery)
                case StatusTopic() | SlotTopic():
                    if delivery.topic != self._status_topic:
                        self._fleet.take(delivery.topic, delivery.payload)
                case _:
                    answered = self._desk.heed(delivery, time.time() * 1e3)
                    if answered is not None:
                        topic_of_response, response = answered
                        self._session.publish(str(topic_of_response), response.encode())
        except PeerError as error:
            self._refusals[error.reason] += 1
            self._last_refusal[error.reason] = f"{delivery.topic}: {error.detail}"[:200]
            _log.debug("message.refused", topic=delivery.topic[:200], reason=error.reason.value)

    def _take_drift(self, site: str, agent: str, model: str, payload: bytes) -> None:
        reports = self._drifts.get(model)
        if reports is None:
            return
        if not payload:
            reports.pop((site, agent), None)
            return
        report = DriftReport.decode(payload)
        if (site, agent) in reports or len(reports) < _MOST_DRIFTS:
            reports[site, agent] = report

    def _take_label(self, topic: LabelTopic, delivery: Delivery) -> None:
        if topic.source != topic.device and topic.source not in self._who.trusted_writers:
            raise MalformedMessageError(
                f"{topic.source!r} is not in trusted_writers", Reason.UNTRUSTED_WRITER
            )
        if not delivery.is_retained and delivery.payload:
            self._courses[topic.model].labelled()

    # What operators ask for

    def _obey(self, order: Order) -> bool:
        name, request = order.topic.name, order.request
        if name not in {RETRAIN, PROMOTE, WITHDRAW}:
            raise RequestRefusedError(f"no request {name!r} is known here")
        model = text_of(request, "model")
        course = self._courses.get(model)
        if course is None:
            raise RequestRefusedError(f"this loop has no model {model!r}")
        if name == RETRAIN:
            course.order()
            self._save()
            return True
        release = release_of(request) or course.state.release
        if release is None:
            raise RequestRefusedError("argument release: no release is at work, so it must say which")
        why = text_of(request, "why") if "why" in request.arguments else f"asked for by {order.topic.writer}"
        percent = request.arguments.get("percent", _WHOLE)
        if not isinstance(percent, float | int) or isinstance(percent, bool) or not 0 < percent <= _WHOLE:
            raise RequestRefusedError(f"argument percent: {percent!r} is no share from 1 to 100")
        if len(self._orders) >= _MOST_ORDERS:
            raise RequestRefusedError("too many requests wait", Reason.OVERLOAD)
        kind = JobKind.PROMOTE if name == PROMOTE else JobKind.WITHDRAW
        job = Job(kind, model, release, why=why[:MAX_WHY_CHARS], percent=max(1, int(percent)))
        self._orders.append((job, order))
        return False

    # What it does

    def _turn(self, now_ms: float) -> None:
        self._finish_jobs(now_ms)
        self._read_releases()
        is_complete = self._subscribed_s is not None and time.monotonic() - self._subscribed_s >= _COMPLETE_S
        agents = self._fleet.agents
        for model, course in self._courses.items():
            releases = [one for one in self._releases if one.terms.model == model]
            before = course.state
            job = course.tick(View(releases, agents, self._drifts[model], is_complete), now_ms)
            self._tell_step(before, course.state)
            if job is not None:
                self._waiting.append(job)
        if any(self._stored.get(model) != course.state for model, course in self._courses.items()):
            is_step = any(
                self._stored.get(model) is None
                or self._stored[model].model_copy(update=_NO_STEP) != course.state.model_copy(update=_NO_STEP)
                for model, course in self._courses.items()
            )
            if is_step or time.monotonic() - self._stored_s > _STORE_S:
                self._save()
        self._begin_jobs(agents, now_ms)
        self._tell_status(now_ms)

    def _begin_jobs(self, agents: Sequence[Agent], now_ms: float) -> None:
        """Begin what waits: one training and one publication at a time, orders before the rest."""
        if self._publishing is None and self._orders:
            job, self._ordered = self._orders.popleft()
            self._publishing = self._begun(job, agents, now_ms)
        self._waiting = deque(job for job in self._waiting if self._courses[job.model].wants(job))
        for job in list(self._waiting):
            if job.kind is JobKind.TRAIN and self._training is None:
                self._waiting.remove(job)
                self._training = self._begun(job, agents, now_ms)
            elif job.kind is not JobKind.TRAIN and self._publishing is None:
                self._waiting.remove(job)
                self._publishing = self._begun(job, agents, now_ms)

    def _begun(self, job: Job, agents: Sequence[Agent], now_ms: float) -> Work | None:
        course = self._courses[job.model]
        if job.kind is JobKind.TRAIN:
            course.begun(job)
            self._save()
        try:
            return Work(job, self._means[job.model], agents)
        except AtollError as error:
            self._take_end(job, Ended(is_done=False, detail=error.detail), now_ms)
            return None

    def _finish_jobs(self, now_ms: float) -> None:
        if self._training is not None and (ended := self._training.poll()) is not None:
            job, self._training = self._training.job, None
            self._take_end(job, ended, now_ms)
        if self._publishing is not None and (ended := self._publishing.poll()) is not None:
            job, self._publishing = self._publishing.job, None
            self._take_end(job, ended, now_ms)

    def _take_end(self, job: Job, ended: Ended, now_ms: float) -> None:
        self._releases_s = None  # what is out may have changed
        course = self._courses[job.model]
        order, before = None, course.state
        if job.kind is not JobKind.TRAIN:
            order, self._ordered = self._ordered, None
        how = "_refused" if ended.is_refusal else "" if ended.is_done else "_failed"
        self._counts[_COUNTERS[job.kind] + how] += 1
        if not ended.is_done:
            _log.warning("job.failed", model=job.model, kind=job.kind.value, detail=ended.detail)
        if order is None:
            course.ended(job, ended, now_ms)
        else:
            is_promoted = ended.is_done and job.kind is JobKind.PROMOTE and job.percent == _WHOLE
            if is_promoted and job.release is not None:
                course.promoted(job.release, now_ms)
            error = None if ended.is_done else _OrderFailedError(ended.detail)
            topic, response = self._desk.finish(order, now_ms, error)
            self._session.publish(str(topic), response.encode())
        self._tell_step(before, course.state)

    def _read_releases(self) -> None:
        now_s = time.monotonic()
        if self._releases_s is not None and now_s - self._releases_s < _RELEASES_S:
            return
        self._releases = Repository.load(self._home.repository).all_releases()
        self._releases_s = now_s

    # What it says and stores

    def _tell_step(self, before: ModelState, after: ModelState) -> None:
        if before.phase is after.phase:
            return
        _log.info(
            "loop.advanced",
            model=after.model,
            phase=after.phase.value,
            before=before.phase.value,
            cause=None if after.cause is None else after.cause.value,
            release=after.release,
            detail=after.outcome if after.phase is Phase.IDLE else after.detail,
        )

    def _save(self) -> None:
        models = {model: course.state for model, course in self._courses.items()}
        stored = {**self._others, **models}
        self._store.write(LoopFile(session=self._session_number, models=stored, counts=dict(self._counts)))
        self._stored = models
        self._stored_s = time.monotonic()

    def _will(self) -> Will:
        self._session_number += 1
        self._save()
        status = Status(health=Health.OFFLINE, session=self._session_number, token=self._who.token[:8])
        return Will(self._status_topic, status.encode())

    def _tell_status(self, now_ms: float) -> None:
        if not self._session.is_connected:
            return
        status = self._status(now_ms)
        before = self._told
        is_same = before is not None and before.model_copy(update={"time_ms": now_ms}) == status
        if is_same and time.monotonic() - self._told_s < _HEARTBEAT_S:
            return
        self._told, self._told_s = status, time.monotonic()
        self._session.publish(self._status_topic, status.encode(), retain=True)

    def _status(self, now_ms: float) -> Status:
        states = [course.state for course in self._courses.values()]
        failing = [state for state in states if state.attempts]
        refusals = [
            Refusals(where="messages", reason=reason, count=count, last=self._last_refusal.get(reason))
            for reason, count in self._refusals.items()
        ]
        refusals += [
            Refusals(where="requests", reason=reason, count=count, last=self._desk.last_refusal.get(reason))
            for reason, count in self._desk.refusals.items()
        ]
        return Status(
            health=Health.DEGRADED if failing else Health.READY,
            session=self._session_number,
            time_ms=now_ms,
            started_ms=self._started_ms,
            token=self._who.token[:8],
            version=self._who.version,
            detail="; ".join(f"{state.model}: {state.phase.value} fails" for state in failing) or None,
            counts=dict(self._counts),
            refusals=refusals,
            loops=list(map(partial(_loop_state), states)),
        )


class _OrderFailedError(TransientError):
    """A command of an operator could not be carried out."""

    default_reason = Reason.COMMAND_FAILED


def _loop_state(state: ModelState) -> LoopState:
    return LoopState(
        model=state.model,
        phase=state.phase.value,
        since_ms=state.since_ms,
        cause=None if state.cause is None else state.cause.value,
        release=state.release,
        detail=state.detail,
        outcome=state.outcome,
    )
