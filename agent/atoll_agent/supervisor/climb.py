"""The way of one model's releases: waits, fetches, has them tried, and heard.

Each model climbs by itself. What is scarce is shared in turns: one bundle is fetched at a time, for
two minutes, then it is another model's turn; and one release is tried at a time. So a large bundle on
a slow line holds nobody up for hours.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Mapping
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Final

import structlog

from atoll_agent.ports import Child, ChildCrashedError, ChildTimeoutError, LaneControl, Line, SlotStore
from atoll_agent.rollout.machine import BUSY, Event, Phase
from atoll_agent.rollout.release import Release
from atoll_agent.rollout.trial import Outcome, TrialReport, Verdict
from atoll_agent.supervisor.backoff import Backoff
from atoll_agent.supervisor.slots import Slots
from atoll_contract.bundle import Bundle
from atoll_contract.errors import AtollError, BundleRejectedError, Reason, StorageError
from atoll_infer import golden
from atoll_infer.predictor import Predictor
from atoll_infer.runtime import Runtime
from atoll_infer.tuning import tune

log = structlog.get_logger()

_TURN_S: Final = 120.0
_RETRY_CAP_S: Final = 300.0
_WRONG_BYTES_CAP_S: Final = 3600.0
"""Bytes that are not the signed ones cost two whole fetches each time."""
_TRIAL_POLL_S: Final = 0.25
_SETTLED_AFTER_S: Final = 60.0
"""With a release on trial for so long, the agent has not ended by it."""
_SWAP_TIMEOUT_S: Final = 300.0
"""The lane swaps within a step, but looking up a broker's name can hold it up."""


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """One ``[[model]]`` of the settings.

    Attributes:
        model: Its id.
        stream: The stream that it answers.
        channel: The channel that it follows.
        units: The values of the stream, with their units.
        is_shared: Whether other agents get a part of the stream's readings.
    """

    model: str
    stream: str
    channel: str
    units: Mapping[str, str | None]
    is_shared: bool


@dataclass(frozen=True, slots=True)
class Means:
    """What all climbs share.

    Attributes:
        store: Where bundles and slots are.
        runtime: What loads models.
        lane: What answers.
        fetch: The child that fetches a bundle.
        examine: The child that tries one.
        max_bundle_bytes: The largest bundle that this device takes.
        predictors: The champions at work, by model.
        turns: Held by the model whose bundle is being fetched; first come, first served.
        trial: Held by the model whose release is being tried.
    """

    store: SlotStore
    runtime: Runtime
    lane: LaneControl
    fetch: Child
    examine: Child
    max_bundle_bytes: int
    predictors: dict[str, Predictor] = field(default_factory=dict)
    turns: asyncio.Lock = field(default_factory=asyncio.Lock)
    trial: asyncio.Lock = field(default_factory=asyncio.Lock)

    def load(self, release: Release) -> Predictor:
        """Read, check and load a bundle that has passed its self-test in a child before."""
        bundle = Bundle.unpack(self.store.read_bundle(release.sha256))
        predictor = golden.self_test(bundle, self.runtime)
        tune(predictor, bundle, self.runtime)
        return predictor


@dataclass(frozen=True, slots=True)
class _Offer:
    wanted: Release | None


class Climb:
    """Brings one model to the release that it should run, again and again."""

    def __init__(self, plan: ModelPlan, slots: Slots, means: Means) -> None:
        self._plan = plan
        self._model = plan.model
        self._slots = slots
        self._means = means
        self._offer: _Offer | None = None
        self._awake = asyncio.Event()
        self._backoff = Backoff()
        self._retry_s = 0.0
        self._start_s: float | None = None  # until the first offer after a start nothing is begun
        self._sha256: str | None = None

    def offer(self, wanted: Release | None) -> None:
        """Say which release the model should run, by metadata verified just now."""
        self._offer = _Offer(wanted)
        self._awake.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self._wait()
            try:
                self._take_offer()
                if self._seconds_to_wait() == 0.0:
                    await self._climb()
            except AtollError as error:
                # The disk fails: nothing of what could not be stored has been acted on.
                log.warning(
                    "release.interrupted", model=self._model, reason=error.reason.value, detail=error.detail
                )
                self._means.lane.end_trial(self._model, has_passed=False)
                self._slots.break_off(self._model)
                self._back_off(error.reason)

    async def _wait(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._seconds_to_wait()):
                await self._awake.wait()
        self._awake.clear()

    def _seconds_to_wait(self) -> float | None:
        """Return how long to wait before the climb; None: until there is an offer."""
        if self._start_s is None or not self._slots.is_waiting(self._model):
            return None
        return max(0.0, max(self._start_s, self._retry_s) - time.monotonic())

    def _take_offer(self) -> None:
        if self._offer is None:
            return
        wanted, now_ms = self._offer.wanted, time.time() * 1e3
        delay_s = random.uniform(0, wanted.max_delay_s if wanted else 0)  # noqa: S311 - spreads a fleet
        self._slots.offer(self._model, wanted, now_ms + delay_s * 1e3)
        self._offer = None
        slot = self._slots[self._model]
        sha256 = slot.challenger.sha256 if slot.challenger else None
        if self._start_s is None or sha256 != self._sha256:
            self._sha256 = sha256
            self._start_s = time.monotonic() + slot.wait_s(now_ms)
            self._retry_s = 0.0
            self._backoff.reset()
        elif slot.challenger is not None:
            # The wall clock may have jumped since; what is signed may have become shorter.
            self._start_s = min(self._start_s, time.monotonic() + slot.challenger.max_delay_s)
            if slot.failure is None or slot.failure.reason is not Reason.DIGEST_MISMATCH:
                self._retry_s = 0.0  # what was missing may have been published again

    def _back_off(self, reason: Reason) -> None:
        cap_s = _WRONG_BYTES_CAP_S if reason is Reason.DIGEST_MISMATCH else _RETRY_CAP_S
        self._retry_s = time.monotonic() + self._backoff.next_s(cap_s)

    async def _climb(self) -> None:
        if not await self._fetch():
            return
        predictor = None
        async with self._means.trial:
            await self._try_out()
            if self._slots[self._model].phase is Phase.ACTIVATING:
                predictor = await self._load()
        if predictor is not None:
            await self._activate(predictor)

    # Fetching

    async def _fetch(self) -> bool:
        """Fetch the bundle, in as many turns as it takes; False: not now, or not this one."""
        while True:
            async with self._means.turns:
                if self._is_superseded():
                    self._slots.break_off(self._model)
                    self._awake.set()
                    return False
                if self._slots.is_waiting(self._model):
                    self._slots.advance(self._model, Event.FETCH_STARTED)
                await self._fetch_in_one_turn()
            match self._slots[self._model].phase:
                case Phase.VERIFYING:
                    return True
                case Phase.FETCHING:
                    continue
                case _:
                    return False

    def _is_superseded(self) -> bool:
        """Whether another release is on offer than the one on its way; the climb then begins anew."""
        return self._offer is not None and self._offer.wanted != self._slots.challenger(self._model)

    async def _fetch_in_one_turn(self) -> None:
        release = self._slots.challenger(self._model)
        path = self._means.store.bundle_path(release.sha256)
        if path.exists():
            self._slots.advance(self._model, Event.FETCHED)
            return
        request = {
            "release": asdict(release),
            "path": str(path),
            "max_bytes": self._means.max_bundle_bytes,
            "turn_s": _TURN_S,
        }
        try:
            async with self._means.fetch(request) as lines:
                async for line in lines:
                    self._heed_fetch(line)
        except (ChildCrashedError, ChildTimeoutError) as error:
            if self._is_busy():
                self._interrupt(error.reason, error.detail)

    def _heed_fetch(self, line: Line) -> None:
        match line.event:
            case "fetched":
                self._slots.advance(self._model, Event.FETCHED)
            case "paused":
                log.debug("fetch.paused", model=self._model)
            case "failed":
                self._heed_failure(line)
            case unknown:
                raise RuntimeError(f"the fetching child said {unknown!r}")

    # Verifying and activating

    async def _try_out(self) -> None:
        """Verify and self-test the fetched release in a child."""
        release = self._slots.challenger(self._model)
        request = {
            "path": str(self._means.store.bundle_path(release.sha256)),
            "sha256": release.sha256,
            "model": self._model,
            "release": release.release,
            "units": dict(self._plan.units),
            "is_shared": self._plan.is_shared,
        }
        try:
            async with self._means.examine(request) as lines:
                async for line in lines:
                    self._heed_examination(line)
        except ChildTimeoutError as error:
            if self._is_busy():
                self._slots.refuse(self._model, Reason.SELF_TEST_TIMEOUT, error.detail)
        except ChildCrashedError as error:
            if self._is_busy() and error.is_own_doing:
                self._slots.refuse(self._model, Reason.SELF_TEST_CRASHED, error.detail)
            elif self._is_busy():
                self._interrupt(error.reason, error.detail)

    def _heed_examination(self, line: Line) -> None:
        match line.event:
            case "verified":
                self._slots.advance(self._model, Event.VERIFIED)
            case "passed":
                self._slots.advance(self._model, Event.SELF_TEST_PASSED)
            case "failed":
                self._heed_failure(line)
            case unknown:
                raise RuntimeError(f"the examining child said {unknown!r}")

    async def _load(self) -> Predictor | None:
        try:
            return await asyncio.to_thread(self._means.load, self._slots.challenger(self._model))
        except BundleRejectedError as error:
            self._slots.refuse(self._model, error.reason, error.detail)
        except StorageError as error:
            self._interrupt(error.reason, error.detail)
        return None

    # On live readings

    async def _activate(self, predictor: Predictor) -> None:
        """Bring the loaded release to the champion, by way of shadow and probation if there is one."""
        lane, rules = self._means.lane, predictor.manifest.passing
        is_tried = bool(rules.shadow_windows or rules.probation_windows)
        if self._slots[self._model].champion is None or not is_tried:
            if await self._ordered(lane.swap(predictor, has_restarted=False)):
                self._become_champion(predictor)
            return
        if not await self._ordered(lane.try_out(predictor)):
            return
        self._slots.advance(self._model, Event.SHADOW_BEGUN)
        if not await self._has_passed(predictor, is_on_probation=False):
            return
        self._slots.advance(self._model, Event.SHADOW_PASSED)
        if not await self._ordered(lane.begin_probation(self._model)):
            return
        if await self._has_passed(predictor, is_on_probation=True):
            self._become_champion(predictor)
            lane.end_trial(self._model, has_passed=True)

    async def _has_passed(self, predictor: Predictor, *, is_on_probation: bool) -> bool:
        """Wait for the lane's verdict on a phase of the trial, or for another offer."""
        release = predictor.manifest.release
        settled_s = time.monotonic() + _SETTLED_AFTER_S
        while not self._is_superseded():
            report = self._means.lane.report.trials.get(self._model)
            is_this = report and (report.release, report.is_on_probation) == (release, is_on_probation)
            if report and is_this and report.verdict is not None:
                return self._heed_verdict(report, report.verdict)
            if time.monotonic() > settled_s:
                self._slots.settle(self._model)
            await asyncio.sleep(_TRIAL_POLL_S)
        self._means.lane.end_trial(self._model, has_passed=False)
        self._slots.break_off(self._model)
        self._awake.set()
        return False

    def _heed_verdict(self, report: TrialReport, verdict: Verdict) -> bool:
        phase = self._slots[self._model].phase
        log.info(
            "trial.ended",
            model=self._model,
            release=report.release,
            phase=phase.value,
            outcome=verdict.outcome.value,
            windows=report.windows,
            labels=report.labels,
            disagreement=report.disagreement,
            error=report.error,
            champion_error=report.champion_error,
        )
        if verdict.outcome is Outcome.PASSED:
            return True
        reason = verdict.reason or Reason.CHAMPION_DISAGREES
        self._slots.refuse(self._model, reason, f"{phase.value}: {verdict.detail}")
        return False

    async def _ordered(self, order: Future[None]) -> bool:
        """Wait until the lane has carried out ``order``; False: it cannot now."""
        try:
            await asyncio.wait_for(asyncio.wrap_future(order), _SWAP_TIMEOUT_S)
        except TimeoutError:
            self._means.lane.end_trial(self._model, has_passed=False)
            self._interrupt(Reason.BROKER_UNAVAILABLE, "the lane is busy connecting")
            return False
        return True

    def _become_champion(self, predictor: Predictor) -> None:
        before = self._slots[self._model].champion
        self._means.predictors[self._model] = predictor
        self._slots.advance(self._model, Event.ACTIVATED)
        self._backoff.reset()
        log.info(
            "model.activated",
            model=self._model,
            release=predictor.manifest.release,
            before=before.release if before else None,
            backend=predictor.backend,
        )
        self._slots.drop_bundles(also_keep=before)

    # Failures

    def _is_busy(self) -> bool:
        """Whether work is under way still: a child may say how it ended, and then crash all the same."""
        return self._slots[self._model].phase in BUSY

    def _heed_failure(self, line: Line) -> None:
        """Heed what ended a child's work."""
        reason, detail = Reason(line.facts["reason"]), line.facts["detail"]
        if line.facts["is_refusal"]:
            self._slots.refuse(self._model, reason, detail)
        else:
            self._interrupt(reason, detail)

    def _interrupt(self, reason: Reason, detail: str) -> None:
        self._slots.interrupt(self._model, reason, detail)
        self._back_off(reason)
