"""One stream's way through the lane, on a connection of its own: a slow model holds up its stream only.

decode -> window -> model -> encode -> send, batch in, batch out.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final

import structlog

from atoll_agent.lane.answering import Answering
from atoll_agent.lane.handover import Handover
from atoll_agent.lane.held import Held
from atoll_agent.lane.intakes import Intakes
from atoll_agent.lane.labels import Labels
from atoll_agent.lane.ledger import Entry, Ledger, Resent
from atoll_agent.lane.live_trial import LiveTrial
from atoll_agent.lane.outgoing import Outgoing
from atoll_agent.lane.outlet import Outlet
from atoll_agent.lane.pending import Pending
from atoll_agent.lane.spill import BATCH, Spill
from atoll_agent.lane.twins import Twins
from atoll_agent.ports import Stored, Wire
from atoll_agent.rollout.trial import Outcome, TrialReport
from atoll_contract.errors import MalformedMessageError, Reason
from atoll_contract.manifest import Manifest
from atoll_contract.messages import Reading
from atoll_infer.predictor import Answer
from atoll_ingest.stream import Overload, Stream
from atoll_link.session import Connected, Delivery, Disconnected, Event, Published, Refused, Subscribed

log = structlog.get_logger()

_OVERDUE_EVERY_S: Final = 0.5


class Track:
    """Answers the readings of one stream.

    Attributes:
        stream: The stream.
        intakes: How its messages are read.
        is_connected: Whether its connection stands.
        counts: Counters by name.
        refusals: How many messages were refused, by where and why.
        last_refusal: The latest detail for each of them.
        refused_filters: Subscriptions that the broker refused.
    """

    def __init__(
        self,
        stream: Stream,
        wire: Wire,
        *,
        site: str,
        max_devices: int,
        spill: Callable[[Counter[str]], Spill] | None = None,
        handover: Handover | None = None,
        wall_ms: Callable[[], float] = lambda: time.time() * 1e3,
    ) -> None:
        self.stream = stream
        self._wall_ms = wall_ms
        self._handover = handover
        self.is_connected = False
        self.counts: Counter[str] = Counter()
        self.refusals: Counter[tuple[str, Reason]] = Counter()
        self.last_refusal: dict[tuple[str, Reason], str] = {}
        self.refused_filters: set[str] = set()
        self._wire = wire
        self.intakes = Intakes(stream, self.counts, max_devices)
        self._topic_filters: frozenset[str] = frozenset()
        self._twins = Twins()
        self._answering: dict[str, Answering] = {}
        self._retiring: list[Answering] = []
        self._trials: dict[str, LiveTrial] = {}
        self._failed_trials: dict[str, TrialReport] = {}
        self._labels = Labels(site, stream.name, self.counts, handover)
        self._ledger = Ledger()
        self._outgoing = Outgoing(
            wire, self._ledger, self.counts, None if spill is None else spill(self.counts)
        )
        self._outlets: Mapping[str, Outlet] = {}
        self._held = Held()
        self._is_stopping = False
        self._has_news = False
        self._look_overdue_s = math.inf if self.intakes.is_plain else 0.0

    @property
    def is_idle(self) -> bool:
        """Whether no reading waits for an answer, and no prediction for its PUBACK."""
        heard = [*self._answering.values(), *self._retiring]
        is_answered = not any(answering.executor.waiting for answering in heard)
        return is_answered and not self._outgoing.waiting and not self._held

    @property
    def is_settled(self) -> bool:
        """Whether each reading was answered, and acknowledged on the connection that stands."""
        return self.is_idle and self.is_connected and not self._ledger.waiting

    @property
    def has_time(self) -> bool:
        """Whether it is connected, and hardly anything live is on its way."""
        return self.is_connected and self._outgoing.waiting < BATCH

    @property
    def devices(self) -> int:
        """How many devices its models have answered."""
        return sum(answering.devices for answering in self._answering.values())

    def known_devices(self, most: int) -> dict[str, tuple[str, ...]]:
        """Return up to ``most`` devices that were answered, by model."""
        return {model: answering.known_devices(most) for model, answering in self._answering.items()}

    @property
    def champions(self) -> list[Answering]:
        """Who answers for good: a release on trial is not among them."""
        on_trial = {model: trial.champion for model, trial in self._trials.items()}
        return list((self._answering | on_trial).values())

    @property
    def window_counts(self) -> Counter[str]:
        """Counters of its models' windows, by name."""
        counts: Counter[str] = Counter()
        for answering in self._answering.values():
            counts.update(answering.counts)
        return counts

    @property
    def trials(self) -> dict[str, TrialReport]:
        """How the releases on trial stand, or stood when they failed, by model."""
        return self._failed_trials | {model: trial.report() for model, trial in self._trials.items()}

    def swap(self, answering: Answering) -> None:
        """Let ``answering`` answer from the next reading on, with the windows of its predecessor."""
        self.end_trial(answering.model, has_passed=False)
        champion = self._answering.get(answering.model)
        if champion is not None:
            answering.succeed(champion)
            self._retiring.append(champion)
        self._answering[answering.model] = answering
        self.counts["swaps"] += 1

    def try_out(self, challenger: Answering, manifest: Manifest, number: int, now_s: float) -> None:
        """Let ``challenger`` answer in shadow beside the champion, which there must be."""
        model = challenger.model
        champion = self._answering[model]
        self.end_trial(model, has_passed=False)
        challenger.succeed(champion)
        self._trials[model] = LiveTrial(number, champion, challenger, manifest, self.stream.overload, now_s)

    def begin_probation(self, model: str, now_s: float) -> None:
        """Let the release on trial be heard, if it has not failed meanwhile."""
        trial = self._trials.get(model)
        if trial is not None:
            trial.begin_probation(now_s)
            self._answering[model] = trial.challenger
            self.counts["swaps"] += 1

    def end_trial(self, model: str, *, has_passed: bool) -> None:
        """End the trial of ``model``, if there is one: the release goes on alone, or the champion."""
        self._failed_trials.pop(model, None)
        trial = self._trials.pop(model, None)
        if trial is None:
            return
        stays, goes = trial.champion, trial.challenger
        if has_passed:
            stays, goes = goes, stays
        self._answering[model] = stays
        self._retiring.append(goes)
        for pending in goes.executor.cancel():
            self._hand_over(pending, stays)

    def shift(self, step_ms: float) -> None:
        """Move all times that came from arrival: the wall clock was set by ``step_ms``."""
        self.intakes.shift(step_ms)
        for answering in self._at_work():
            answering.shift(step_ms)

    def change(
        self,
        stream: Stream,
        *,
        max_devices: int,
        trusted_writers: Collection[str],
        topic_filters: Collection[str],
        outlets: Mapping[str, Outlet],
        now_s: float,
    ) -> None:
        """Read messages as ``stream`` says from the next one on; windows and what is at work stay.

        What arrives on topics that only the settings before named is read as those said.
        """
        self._twins.expect(topic_filters, self._topic_filters, now_s)
        self._topic_filters = frozenset(topic_filters)
        self.refused_filters &= self._topic_filters
        self._labels.trusted_writers = frozenset(trusted_writers)
        self._outlets = outlets
        self.intakes.change(stream, max_devices)
        self._look_overdue_s = math.inf if self.intakes.is_plain else 0.0
        self.stream = stream
        # Those that retire have taken in all that they ever will, and may need what the stream has no more.
        for answering in {*self._at_work()} - {*self._retiring}:
            answering.adjust(max_devices, stream.units)
        for answering in self._at_work():
            answering.executor.obey(stream.overload)
        for trial in self._trials.values():
            trial.overload = stream.overload

    def drop(self, model: str) -> None:
        """Let ``model`` answer no more; what waits for it is still answered."""
        self.end_trial(model, has_passed=False)
        answering = self._answering.pop(model, None)
        if answering is not None:
            self._retiring.append(answering)

    def take_news(self) -> bool:
        """Whether something happened since the last call that the control plane waits for."""
        has_news, self._has_news = self._has_news, False
        return has_news

    def stop(self) -> None:
        """Take in no more readings."""
        self._is_stopping = True
        self._held.clear()

    def send_stored(self, stored: Sequence[Stored]) -> list[Resent]:
        """Send predictions from the spool; each entry tells when one is acknowledged."""
        return self._outgoing.send_stored(stored)

    def spill_rest(self, deadline: float) -> None:
        """Bring to disk, where there is a spool, what was not delivered: nothing is sent any more.

        What has its place there is acknowledged. Monotonic time.
        """
        self._outgoing.finish(deadline)
        self._acknowledge()

    def give_up(self) -> None:
        """Count what is neither delivered nor on disk as lost: the broker is about to forget its readings."""
        answerers = [*self._answering.values(), *self._retiring]
        lost = self._outgoing.undelivered + sum(answering.executor.waiting for answering in answerers)
        if lost:
            self.counts["predictions_lost"] += lost
            log.warning("predictions.lost", stream=self.stream.name, count=lost)

    def close(self, timeout_s: float) -> None:
        """End the models' threads and the connection; the broker has so long to take what was written."""
        for answering in self._at_work():
            answering.executor.close()
        self._wire.close(timeout_s)

    def heed(self, events: Sequence[Event]) -> None:
        """Take in what happened on the connection."""
        if self._held or self._outgoing.is_full:
            events = self._held.hold(events)
        for event in events:
            if isinstance(event, Delivery):
                self._take(event)
            elif isinstance(event, Published):
                self._outgoing.settle(event.mid)
            elif isinstance(event, Refused):
                what = self._outgoing.refused(event.mid, is_passing=event.is_passing)
                self._refuse(self.stream.name, Reason.BROKER_REFUSED, f"{what}: {event.detail}")
            else:
                self._heed_connection(event)

    def work(self, now_s: float, *, is_behind: bool) -> None:
        """Do what is due: predictions out, acknowledgements out.

        Args:
            now_s: On a monotonic clock.
            is_behind: Whether readings have come faster for a while than they were answered.
        """
        while self._held and not self._outgoing.is_full:
            self._take(self._held.popleft())
        if now_s >= self._look_overdue_s and not self._is_stopping:
            self._take_overdue(now_s)
        self._twins.look(now_s)
        for answering in self._at_work():
            answering.executor.relieve(is_behind=is_behind)
            self._collect(answering)
        self._labels.join(self._trials)
        for model, trial in list(self._trials.items()):
            self._judge(model, trial, now_s)
        self._retiring = [answering for answering in self._retiring if not self._is_retired(answering)]
        self._outgoing.work(is_connected=self.is_connected, now_s=now_s)
        self._acknowledge()

    def _acknowledge(self) -> None:
        due = self._ledger.due()
        if due:
            for delivery in due:
                self._wire.acknowledge(delivery)
            self.counts["readings_acknowledged"] += len(due)
        self._wire.flush()

    # Readings in

    def _take(self, delivery: Delivery) -> None:
        if self._is_stopping:
            return  # not acknowledged: the broker keeps it for the next start
        entry = None
        if delivery.qos > 0:
            entry = self._ledger.arrive(delivery)
            if entry is None:
                self.counts["redelivered"] += 1
                return
        if self._twins.is_due and self._twins.is_second(delivery):
            self.counts["delivered_twice"] += 1
            return
        self.counts["messages"] += 1
        if entry is None and self._outgoing.is_full:
            self._refuse(self.stream.name, Reason.OVERLOAD, "more readings than the broker takes predictions")
            return
        intake = self.intakes.present
        try:
            device = intake.device(delivery.topic)
            if device is None:
                self._take_other(delivery, entry)
                return
            readings = intake.readings(delivery, device)  # as nearly always
        except MalformedMessageError as error:
            self._refuse(self.stream.name, error.reason, f"{delivery.topic}: {error.detail}")
            return
        for reading in readings:
            self._take_reading(reading, device, delivery, entry)

    def _take_overdue(self, now_s: float) -> None:
        """Take in readings of which not all values came; nobody waits for them, so they go at QoS 0."""
        self._look_overdue_s = now_s + _OVERDUE_EVERY_S
        self._take_overdue_at(self._wall_ms())

    def _take_overdue_at(self, now_ms: float) -> None:
        for device, reading, arrival_ms in self.intakes.overdue(now_ms):
            delivery = Delivery("", b"", 0, 0, False, False, 0, arrival_ms, time.monotonic_ns())
            self._take_reading(reading, device, delivery, None)

    def _take_other(self, delivery: Delivery, entry: Entry | None) -> None:
        """Take a label, or read a message the long way, by the settings that know its topic."""
        if self._labels.is_one(delivery.topic):
            self._labels.take(delivery)
            return
        # As the trainer does with a recording: what is joined does not depend on when the lane has time.
        self._take_overdue_at(delivery.arrival_ms)
        for device, reading in self.intakes.told(delivery):
            self._take_reading(reading, device, delivery, entry)

    def _take_reading(self, reading: Reading, device: str, delivery: Delivery, entry: Entry | None) -> None:
        if not self._answering:
            self.counts["readings_without_model"] += 1
        for model, answering in self._answering.items():
            trial = self._trials.get(model)
            try:
                pending = answering.take(reading, device, delivery, entry)
            except MalformedMessageError as error:
                self._refuse(model, error.reason, f"{device}: {error.detail}")
                if trial is not None:
                    trial.refuse(reading, device, delivery, error)
                continue
            if trial is not None:
                trial.take(reading, device, delivery)
                if trial.unheard.executor.is_full:
                    self._collect(trial.unheard)
            if pending is not None:
                self._submit(answering, pending, trial)

    def _submit(self, answering: Answering, pending: Pending, trial: LiveTrial | None) -> None:
        if pending.entry is not None:
            pending.entry.outstanding += 1
        if trial is not None and trial.is_on_probation:
            trial.expect(pending)
        left_out = answering.executor.submit(pending)
        if left_out is not None:
            if trial is not None:
                trial.leave_out(left_out)
            self._leave_out(answering.model, left_out)
        if answering.executor.is_full:
            self._collect(answering)

    def _hand_over(self, pending: Pending, successor: Answering) -> None:
        """Have a reading answered by another release than the one that it waited for, if that can be."""
        if not pending.is_heard:
            return
        if not successor.keeps_readings:  # windows hold the reading already
            try:
                again = successor.take(pending.reading, pending.device, pending.delivery, pending.entry)
            except MalformedMessageError as error:  # it needs more than the one that leaves
                if pending.entry is not None:
                    pending.entry.outstanding -= 1
                self._refuse(successor.model, error.reason, f"{pending.device}: {error.detail}")
                return
            left_out = again if again is None else successor.executor.submit(again)
            if again is not None and left_out is not again:
                if left_out is not None:
                    self._leave_out(successor.model, left_out)
                return
        self._leave_out(successor.model, pending, "its release left before it answered")

    def _leave_out(self, model: str, pending: Pending, why: str = "readings come too fast") -> None:
        if pending.entry is not None:
            pending.entry.outstanding -= 1
        if self.stream.overload is Overload.BLOCK:
            self._refuse(model, Reason.OVERLOAD, f"{pending.device}: {why}")
        else:
            self.counts["readings_left_out"] += 1

    # Predictions out

    def _at_work(self) -> list[Answering]:
        unheard = [trial.unheard for trial in self._trials.values()]
        return [*self._answering.values(), *unheard, *self._retiring]

    def _is_retired(self, answering: Answering) -> bool:
        if answering.executor.waiting:
            return False
        answering.executor.close()
        return True

    def _judge(self, model: str, trial: LiveTrial, now_s: float) -> None:
        """At a breach of the rules the champion goes on alone, from the next turn on."""
        verdict = trial.judge(now_s)
        if verdict is None:
            return
        self._has_news = True
        if verdict.outcome is Outcome.FAILED:
            self.end_trial(model, has_passed=False)
            self._failed_trials[model] = trial.report()

    def _collect(self, answering: Answering) -> None:
        trial = self._trials.get(answering.model)
        outlet = self._outlets.get(answering.model)
        answered = answering.executor.finished()
        if trial is not None and answering is trial.challenger:
            trial.time(answering.executor.take_times_s())
        now_ns = time.monotonic_ns()
        is_answerer = answering is self._answering.get(answering.model)
        if self._handover is not None and answered and is_answerer:
            self._handover.offer(answering, answered, now_ns)
        for pending, answer in answered:
            if trial is not None:
                trial.note(answering, pending, answer)
            if not pending.is_heard:
                continue
            if isinstance(answer, Answer):
                if outlet is None or self._is_told(outlet, answering, pending, answer, now_ns):
                    self._outgoing.predict(*answering.prediction(pending, answer, now_ns), pending.entry)
                continue
            if pending.entry is not None:
                pending.entry.outstanding -= 1
            self._refuse(answering.model, answer, f"{pending.device}: {answer.value}")

    def _is_told(
        self, outlet: Outlet, answering: Answering, pending: Pending, answer: Answer, now_ns: int
    ) -> bool:
        """Let the rules judge an answer; whether the prediction is published too."""
        quality = answering.quality(pending, answer)
        acts = outlet.acts(pending, answer, answering.release, quality, now_ns)
        for act in acts:
            self._outgoing.act(act.topic, act.payload, pending.entry)
        if outlet.is_worth_telling(pending, answer, answering.release, quality):
            return True
        if pending.entry is not None:
            pending.entry.outstanding -= 1
        return False

    def _refuse(self, where: str, reason: Reason, detail: str) -> None:
        key = (where, reason)
        self.refusals[key] += 1
        self.last_refusal[key] = detail[:200]
        log.debug("reading.refused", where=where, reason=reason.value, detail=detail[:200])

    # The connection

    def _heed_connection(self, event: Event) -> None:
        match event:
            case Connected(_, session_present):
                self.is_connected = self._has_news = True
                self.counts["connections"] += 1
                self._ledger.reconnect(session_present=session_present)
                log.info("lane.connected", stream=self.stream.name, session_present=session_present)
            case Disconnected(detail, was_connected, was_refused):
                self.is_connected = False
                self._has_news = True
                if was_connected:
                    log.warning("lane.disconnected", stream=self.stream.name, detail=detail)
                elif was_refused:
                    log.warning("broker.refused", detail=detail, plane="lane")
            case Subscribed(topic_filter, refused):
                self.refused_filters.discard(topic_filter)
                if refused:
                    self.refused_filters.add(topic_filter)
                    log.error("subscription.refused", topic_filter=topic_filter, plane="lane")
            case _:
                pass
