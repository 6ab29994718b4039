"""The lane itself: one thread that works off the tracks of all streams.

It owns the wires, the windows and the fast models. The control plane speaks to it only through the
methods that the first part of :class:`Lane` has, and through the reports that it reads.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Final, TypeVar

import structlog

from atoll_agent.lane.answering import Answering, kind_of
from atoll_agent.lane.clock_step import ClockStep
from atoll_agent.lane.executors import Executor, LaneExecutor, ThreadExecutor
from atoll_agent.lane.handover import Handover
from atoll_agent.lane.outlet import Outlet
from atoll_agent.lane.spill import Replay, Spill
from atoll_agent.lane.survival import (
    restore,
    restore_rules,
    restore_windows,
    rules_as_bytes,
    save,
    save_bytes,
)
from atoll_agent.lane.track import Track
from atoll_agent.ports import ClockState, Kept, LanePlan, LaneReport, Spool, Waiter, WindowStore, Wire
from atoll_contract.errors import Reason
from atoll_infer.predictor import Predictor
from atoll_infer.tuning import SLOW_S
from atoll_ingest.stream import Stream
from atoll_signal.picture import decodes_late

log = structlog.get_logger()

Result = TypeVar("Result")

_STEP_S: Final = 1.0
_REPORT_EVERY_NS: Final = 500_000_000
_IDLE_NS: Final = 100_000
"""A wait that lasted so long was one: all that had come was answered."""
_BEHIND_AFTER_NS: Final = 1_000_000_000
_STOP_AFTER_S: Final = 5.0
_END_AFTER_S: Final = 2.0
"""After that, for what is left to reach the disk and for the connections to end, of all streams together."""


class Lane:
    """Answers the readings of all streams with the models that are swapped in.

    Attributes:
        handover: What the control plane gets to see of the readings that were answered.
    """

    def __init__(
        self,
        waiter: Waiter,
        plan: LanePlan,
        *,
        site: str,
        agent: str,
        clock: ClockState,
        shown_devices: int = 0,
        windows: WindowStore | None = None,
        spool: Spool | None = None,
        spool_after_s: float = 0.0,
    ) -> None:
        self._waiter = waiter
        self._spool = spool
        self._spill = None if spool is None else partial(Spill, spool, spool_after_s, waiter.wake)
        self._replay = None if spool is None else Replay(spool, waiter.wake)
        self._windows = windows
        self._plan = plan
        self._site = site
        self._agent = agent
        self._clock = clock
        self._shown_devices = shown_devices
        self.handover = Handover()
        self._tracks: dict[str, Track] = {}
        self._by_wire: dict[Wire, Track] = {}
        self._leaving: dict[str, float] = {}
        """Streams that are no longer answered, and when their connection ends at the latest."""
        self._outlets: dict[str, Outlet] = {}
        self._past_counts: Counter[str] = Counter()
        self._past_refusals: Counter[tuple[str, Reason]] = Counter()
        """Both of streams that are gone."""
        self._use(plan)
        self._orders: deque[Callable[[], None]] = deque()
        self._stopping = threading.Event()
        self._clock_step = ClockStep()
        self._trials = 0
        self._idle_ns = time.monotonic_ns()
        self._reported_ns = 0
        self.report = LaneReport()
        self.steps = 0

    # Called by other threads

    def swap(self, predictor: Predictor, *, has_restarted: bool) -> Future[None]:
        """Let ``predictor`` answer for its model from the next reading on; done when it does.

        The windows of its predecessor are taken over. ``has_restarted``: it was the champion before
        this process began. Its windows then begin as they were at a clean stop; after any other end
        predictions are missing before the first window.
        """
        model = predictor.manifest.model
        track = self._track(model)
        kept = (
            self._windows.take(model, Kept.WINDOWS) if self._windows is not None and has_restarted else None
        )

        def work() -> None:
            answering = self._answering(predictor, track, has_restarted=has_restarted)
            restore(model, Kept.WINDOWS, kept, partial(restore_windows, answering))
            track.swap(answering)

        return self._order(work)

    def try_out(self, predictor: Predictor) -> Future[int]:
        """Let ``predictor`` answer in shadow beside the champion; the number of the trial when it does.

        Its figures stand in the report under this number. If it fails it is taken out at once.
        """
        track = self._track(predictor.manifest.model)
        self._trials += 1
        number = self._trials

        def work() -> int:
            challenger = self._answering(predictor, track, has_restarted=False)
            track.try_out(challenger, predictor.manifest, number, time.monotonic())
            return number

        return self._order(work)

    def begin_probation(self, model: str) -> Future[None]:
        """Let the release on trial be heard, if it has not failed meanwhile."""
        return self._order(lambda: self._track(model).begin_probation(model, time.monotonic()))

    def end_trial(self, model: str, *, has_passed: bool) -> Future[None]:
        """End the trial of ``model``, if there is one: the release goes on alone, or the champion."""
        return self._order(lambda: self._track(model).end_trial(model, has_passed=has_passed))

    def change(self, plan: LanePlan, predictors: Sequence[Predictor]) -> Future[None]:
        """Go on by ``plan`` from the next reading on; done when it does.

        What was taken in is answered by the models that took it in, and acknowledged as ever. Windows stay
        where a model goes on answering its stream.

        Args:
            plan: What is to be done.
            predictors: The champions of models that are new, or new to their stream.
        """
        return self._order(lambda: self._change(plan, predictors))

    def stop(self) -> None:
        """End the lane: no new readings, what is at work gets 5 s to be answered and acknowledged."""
        self._stopping.set()
        self._waiter.wake()

    # The lane's thread

    def run(self) -> None:
        """Work until stopped."""
        if self._windows is not None:
            self.remember(self._windows)
            self._windows.drop()
        while not self._stopping.is_set():
            self.turn(_STEP_S)
        for track in self._tracks.values():
            track.stop()
        deadline = time.monotonic() + _STOP_AFTER_S
        while self._has_work_left() and time.monotonic() < deadline:
            self.turn(0.1)
        deadline = time.monotonic() + _END_AFTER_S
        for track in self._tracks.values():
            track.spill_rest(deadline)
        self._make_report(time.monotonic_ns())
        if self._windows is not None:
            self._keep(self._windows)
        for track in self._tracks.values():
            track.close(max(0.2, deadline - time.monotonic()))
        if self._spool is not None:
            self._spool.close()

    def remember(self, store: WindowStore) -> None:
        """Let rules, and streams that hold values, go on where a clean stop left them."""
        for model, outlet in self._outlets.items():
            if outlet.rules is not None:
                begin = partial(restore_rules, outlet.rules)
                restore(model, Kept.RULES, store.take(model, Kept.RULES), begin)
        for name, track in self._tracks.items():
            restore(name, Kept.VALUES, store.take(name, Kept.VALUES), track.intakes.present.restore)

    def _keep(self, store: WindowStore) -> None:
        for model, outlet in self._outlets.items():
            if outlet.rules is not None:
                save_bytes(model, Kept.RULES, rules_as_bytes(outlet.rules), store)
        for name, track in self._tracks.items():
            save(track.champions, store, is_idle=track.is_settled)
            save_bytes(name, Kept.VALUES, track.intakes.present.state(), store)

    def turn(self, timeout_s: float) -> None:
        """Do once all that is due: orders, what arrived, predictions out, acknowledgements out."""
        while self._orders:
            self._orders.popleft()()
        started_ns = time.monotonic_ns()
        ready = self._waiter.wait(timeout_s)
        now_ns = time.monotonic_ns()
        if now_ns - started_ns > _IDLE_NS:
            self._idle_ns = now_ns
        self.steps += 1
        # Before what has come is read: that is stamped by the new time.
        if step_ms := self._clock_step.look(time.time() * 1e3, now_ns / 1e6):
            for track in self._tracks.values():
                track.shift(step_ms)
            log.info("clock.stepped", step_ms=round(step_ms))
        for wire in ready:
            self._by_wire[wire].heed(wire.step(0.0))
        if self._leaving:
            self._let_go(now_ns / 1e9)
        for track in self._tracks.values():
            track.work(now_ns / 1e9, is_behind=now_ns - self._idle_ns > _BEHIND_AFTER_NS)
        if self._replay is not None:
            self._replay.work(self._tracks.values(), now_ns / 1e9)
        with_news = [track for track in self._tracks.values() if track.take_news()]
        if with_news or now_ns - self._reported_ns > _REPORT_EVERY_NS:
            self._make_report(now_ns)

    def _change(self, plan: LanePlan, predictors: Sequence[Predictor]) -> None:
        for model, stream in self._plan.stream_of.items():
            if plan.stream_of.get(model) != stream:
                self._tracks[stream].drop(model)
        self._use(plan)
        for predictor in predictors:
            track = self._track(predictor.manifest.model)
            track.swap(self._answering(predictor, track, has_restarted=True))

    def _use(self, plan: LanePlan) -> None:
        self._plan = plan
        wires = self._waiter.rewire(plan)
        now_s = time.monotonic()
        self._outlets = self._changed_outlets(plan)
        for stream in plan.streams:
            track = self._tracks.get(stream.name)
            if track is None:
                wire = wires[stream.name]
                track = Track(
                    stream,
                    wire,
                    site=self._site,
                    max_devices=plan.max_devices,
                    spill=self._spill,
                    handover=self.handover,
                )
                self._tracks[stream.name] = self._by_wire[wire] = track
            track.change(
                stream,
                max_devices=plan.max_devices,
                trusted_writers=plan.trusted_writers,
                topic_filters=plan.filters[stream.name],
                outlets=self._outlets,
                now_s=now_s,
            )
        self._leaving = {
            name: self._leaving.get(name, now_s + _STOP_AFTER_S)
            for name in self._tracks.keys() - {stream.name for stream in plan.streams}
        }

    def _changed_outlets(self, plan: LanePlan) -> dict[str, Outlet]:
        """Return the outlets by ``plan``; those whose rules are the same go on."""
        outlets: dict[str, Outlet] = {}
        for model in plan.rules.keys() | plan.exceptions.keys():
            outlet = outlets[model] = Outlet(plan.rules.get(model), plan.exceptions.get(model), self._clock)
            former = self._outlets.get(model)
            if former is not None and former.is_same(outlet):
                outlets[model] = former
            elif former is not None:
                outlet.adopt(former)
        for model, former in self._outlets.items():
            successor = outlets.get(model)
            if successor is None or successor.counts is not former.counts:
                self._past_counts.update(former.counts)
        return outlets

    def _let_go(self, now_s: float) -> None:
        """End the connections of streams that are gone, once all that they brought is answered.

        A broker that takes nothing is waited for, but no longer than a while where there is a spool or it is
        there. While it is away nothing else keeps those predictions: the stream leaves when it is back.
        """
        for name, until_s in list(self._leaving.items()):
            track = self._tracks[name]
            if self._spool is None and not track.is_connected and not track.is_idle:
                self._leaving[name] = now_s + _STOP_AFTER_S
            elif track.is_idle or now_s > until_s:
                track.work(now_s, is_behind=False)
                track.spill_rest(time.monotonic() + _END_AFTER_S)
                track.give_up()
                track.close(0.0)
                self._waiter.end(name)
                self._by_wire = {wire: other for wire, other in self._by_wire.items() if other is not track}
                self._past_counts.update(track.counts)
                self._past_refusals.update(track.refusals)
                del self._tracks[name], self._leaving[name]

    def _order(self, work: Callable[[], Result]) -> Future[Result]:
        """Have ``work`` done by the lane's thread, between two turns; a bug in it ends the lane."""
        done: Future[Result] = Future()

        def order() -> None:
            if not done.set_running_or_notify_cancel():
                return
            try:
                done.set_result(work())
            except BaseException as error:
                done.set_exception(error)
                raise

        self._orders.append(order)
        self._waiter.wake()
        return done

    def _track(self, model: str) -> Track:
        return self._tracks[self._plan.stream_of[model]]

    def _answering(self, predictor: Predictor, track: Track, *, has_restarted: bool) -> Answering:
        return kind_of(predictor.manifest)(
            predictor.manifest,
            self._executor(predictor, track.stream),
            stream=track.stream.name,
            site=self._site,
            agent=self._agent,
            max_devices=self._plan.max_devices,
            clock=self._clock,
            has_restarted=has_restarted,
            units=track.stream.units,
        )

    def _executor(self, predictor: Predictor, stream: Stream) -> Executor:
        is_fast = predictor.answer_s < SLOW_S and not predictor.model.is_remote
        if is_fast and not decodes_late(predictor.manifest):
            return LaneExecutor(predictor, stream.overload)
        return ThreadExecutor(predictor, stream.overload, self._waiter.wake)

    def _has_work_left(self) -> bool:
        return any(track.is_connected and not track.is_idle for track in self._tracks.values())

    def _make_report(self, now_ns: int) -> None:
        self._reported_ns = now_ns
        tracks = self._tracks.values()
        counts = self._past_counts.copy()
        refusals = self._past_refusals.copy()
        last_refusal: dict[tuple[str, Reason], str] = {}
        for track in tracks:
            counts.update(track.counts)
            refusals.update(track.refusals)
            last_refusal.update(track.last_refusal)
        for outlet in self._outlets.values():
            counts.update(outlet.counts)
        counts["devices"] = sum(track.devices for track in tracks)
        for track in tracks:
            counts.update(track.window_counts)
        if self._spool is not None and self._replay is not None:
            counts.update(self._replay.counts)
            state = self._spool.state
            counts.update(spool_rows=state.rows, spool_bytes=state.size_bytes, predictions_lost=state.lost)
        self.report = LaneReport(
            all(track.is_connected for track in tracks),
            dict(counts),
            dict(refusals),
            last_refusal,
            tuple(sorted({topic_filter for track in tracks for topic_filter in track.refused_filters})),
            {model: trial for track in tracks for model, trial in track.trials.items()},
            {
                model: devices
                for track in (tracks if self._shown_devices else ())
                for model, devices in track.known_devices(self._shown_devices).items()
            },
            None if self._spool is None else self._spool.state.fault,
            frozenset(champion.model for track in tracks for champion in track.champions if champion.devices),
        )
