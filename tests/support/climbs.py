"""Climbs of two models on a real state folder, with children and a lane that do what the test says."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
from support.bundles import make_bundle

from atoll_agent.adapters.store import StateStore
from atoll_agent.ports import LaneReport, Line
from atoll_agent.rollout.machine import Phase
from atoll_agent.rollout.release import Release
from atoll_agent.rollout.slot import Slot
from atoll_agent.rollout.trial import Outcome, TrialReport, Verdict
from atoll_agent.supervisor.climb import Climb
from atoll_agent.supervisor.loading import Loader
from atoll_agent.supervisor.means import Means, ModelPlan
from atoll_agent.supervisor.slots import Slots
from atoll_contract.errors import Reason, StorageError
from atoll_contract.manifest import PassRules
from atoll_infer.contest import Contest, Contestant

PASSED = Verdict(Outcome.PASSED)
FAILED = Verdict(Outcome.FAILED, Reason.OUTPUT_OUT_OF_RANGE, "it answered 9")

ANSWERED = frozenset({"big", "small"})

ASKS_FOR_A_TRIAL = PassRules(shadow_windows=5, probation_windows=5)

BUNDLES = {
    (model, number): make_bundle(model, release=number).pack()
    for model in ("big", "small")
    for number in (1, 2)
} | {
    ("big", number): make_bundle("big", release=number, passing=ASKS_FOR_A_TRIAL).pack() for number in (3, 4)
}
"""By model and release; those of 3 and 4 ask for a trial."""


def release(model: str, number: int = 1, **terms: int) -> Release:
    content = BUNDLES[model, number]
    return Release(model, number, hashlib.sha256(content).hexdigest(), len(content), **terms)


def failed(reason: Reason, *, is_refusal: bool = False) -> Line:
    return Line("failed", {"reason": reason.value, "detail": "so it is", "is_refusal": is_refusal})


class ObedientLane:
    """Carries out orders at once, unless it is busy, and judges at once, unless the verdict is None.

    Attributes:
        heard: Which releases answered for ``big``, one after the other.
        in_shadow: The verdict on every release in shadow.
        on_probation: That on every release on probation.
        windows: How many windows a release in shadow has answered.
        held: Orders that were not carried out since it is busy.
    """

    def __init__(self) -> None:
        self.heard: list[int] = []
        self.in_shadow: Verdict | None = PASSED
        self.on_probation: Verdict | None = PASSED
        self.is_busy = False
        self.held: list[Future] = []
        self.trials = 0
        self.windows = 1
        self.report = LaneReport(answered=ANSWERED)
        self._champion: int | None = None

    def swap(self, predictor, *, has_restarted):
        return self._do(lambda: self._hear(predictor))

    def try_out(self, predictor):
        return self._do(lambda: self._begin(predictor.manifest.release))

    def begin_probation(self, model):
        return self._do(self._begin_probation)

    def end_trial(self, model, *, has_passed):
        return self._do(lambda: self._end(has_passed=has_passed))

    def restore(self, champion: int | None) -> None:
        """Begin as after a restart."""
        self._champion = champion
        self.heard = [] if champion is None else [champion]

    @property
    def trial(self) -> TrialReport | None:
        return self.report.trials.get("big")

    def judge_again(self) -> None:
        """Judge the release in shadow anew."""
        self._show(replace(self.trial, verdict=self.in_shadow))

    def _do(self, work):
        done: Future = Future()
        if self.is_busy:
            self.held.append(done)
        else:
            done.set_result(work())
        return done

    def _hear(self, predictor) -> None:
        if predictor.manifest.model == "big":
            self._champion = predictor.manifest.release
            self.heard.append(self._champion)

    def _begin(self, number: int) -> int:
        self.trials += 1
        report = TrialReport(
            number=self.trials,
            release=number,
            is_on_probation=False,
            windows=self.windows,
            labels=0,
            disagreement=0.0,
            error=0.0,
            champion_error=None,
            verdict=self.in_shadow,
        )
        self._show(report)
        return self.trials

    def _begin_probation(self) -> None:
        self.heard.append(self.trial.release)
        self._show(replace(self.trial, is_on_probation=True, verdict=self.on_probation))
        if self.on_probation is FAILED:
            self.heard.append(self._champion)

    def _end(self, *, has_passed: bool) -> None:
        if self.trial is None:
            return
        if has_passed:
            self._champion = self.trial.release
        elif self.heard[-1] != self._champion:
            self.heard.append(self._champion)
        self.report = LaneReport(answered=ANSWERED)

    def _show(self, report: TrialReport) -> None:
        self.report = LaneReport(trials={"big": report}, answered=ANSWERED)


class NoAccelerators:
    """Implements ``ports.Accelerators``: there are none."""

    states = ()

    def fault(self, _path):
        return "none found"


class FillingStore(StateStore):
    """A state folder whose disk is full for what the test says.

    Attributes:
        refuses: Whether there is no room for this slot.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.refuses: Callable[[Slot], bool] = lambda _slot: False

    def save_slot(self, slot: Slot, fingerprint: str) -> None:
        if self.refuses(slot):
            raise StorageError("no room", Reason.NO_SPACE)
        super().save_slot(slot, fingerprint)

    def refuse_once(self, phase: Phase) -> None:
        """Let the next slot in ``phase`` find no room, and all others some."""
        left = [1]

        def refuses(slot: Slot) -> bool:
            if slot.phase is not phase or not left:
                return False
            left.pop()
            return True

        self.refuses = refuses


class World:
    """A state folder, climbs of two models, and the children that they start."""

    def __init__(self, folder: Path, loop: asyncio.Runner) -> None:
        self.loop = loop
        self.store = FillingStore(folder)
        self.store.enrol(b"{}")
        for name in ("slots", "bundles"):
            (folder / name).mkdir(exist_ok=True)
        self.fetches: list[str] = []
        self.turns = {"big": 1, "small": 1}
        self.failures: list[Line] = []
        self.during_turn: Callable[[], object] = lambda: None
        self.during_examination: Callable[[], object] = lambda: None
        self.examined: Line | None = None
        self.examination_ends_by: Exception | None = None
        self.is_cramped = False
        self.refusals = 0
        self.restart()

    def restart(self) -> None:
        self.lane = ObedientLane()
        self.slots = Slots(self.store, "same")
        self.slots.on_refused = self._count
        self.means = Means(
            store=self.store,
            loader=Loader(self.store, self.store, NoAccelerators(), library="libedgetpu.so.1"),
            lane=self.lane,
            fetch=self._fetch,
            examine=self._examine,
            max_bundle_bytes=10**6,
        )
        self.plans = {
            model: ModelPlan(model, "press", "stable", {"x": None}, is_shared=False)
            for model in ("big", "small")
        }
        self.climbs = {model: Climb(plan, self.slots, self.means) for model, plan in self.plans.items()}
        for model in self.climbs:
            self.slots.load(model)
        self.lane.restore(self.champion("big"))

    def _count(self) -> None:
        self.refusals += 1

    @asynccontextmanager
    async def _fetch(self, request):
        yield self._fetch_lines(request)

    async def _fetch_lines(self, request):
        wanted = request["release"]
        self.fetches.append(f"{wanted['model']} {wanted['release']}")
        self.during_turn()
        await asyncio.sleep(0)
        if self.failures:
            yield self.failures.pop(0)
            return
        self.turns[wanted["model"]] -= 1
        if self.turns[wanted["model"]] > 0:
            yield Line("paused", {})
            return
        bundle = BUNDLES[wanted["model"], wanted["release"]]
        Path(request["path"]).write_bytes(bundle)  # noqa: ASYNC240 - as the child would, at once
        yield Line("fetched", {})

    @asynccontextmanager
    async def _examine(self, request):
        async def lines():
            yield Line("begun", {"is_cramped": self.is_cramped})
            yield Line("verified", {})
            if self.examination_ends_by is not None:
                raise self.examination_ends_by
            self.during_examination()
            if self.examined is not None:
                yield self.examined
                return
            row = Contestant("tflite-runtime CPU", "tflite-runtime", answer_us=1.0)
            yield Line("passed", {"contest": msgspec.to_builtins(Contest(request["key"], [row]))})

        yield lines()

    def run(
        self, fact: Callable[[], object], *, start: Callable[[], object], timeout_s: float = 20.0
    ) -> None:
        """Let the climbs run until ``fact`` holds."""

        async def work() -> None:
            async with asyncio.timeout(timeout_s), asyncio.TaskGroup() as group:
                tasks = [group.create_task(climb.run()) for climb in self.climbs.values()]
                start()
                while not fact():  # noqa: ASYNC110 - the fact is any
                    await asyncio.sleep(0)
                for task in tasks:
                    task.cancel()

        self.loop.run(work())

    def offer(self, *releases: Release) -> Callable[[], None]:
        """Return what offers ``releases`` to their models."""

        def say() -> None:
            for one in releases:
                self.climbs[one.model].offer(one)

        return say

    def withdraw(self) -> None:
        """Offer nothing to ``big``."""
        self.climbs["big"].offer(None)

    def climb(self, number: int) -> None:
        """Let ``big`` climb to a release."""
        self.run(lambda: self.champion("big") == number, start=self.offer(release("big", number)))

    def champion(self, model: str) -> int | None:
        champion = self.slots[model].champion
        return champion.release if champion else None

    def phase(self) -> Phase:
        """Return where the release on its way to ``big`` stands."""
        return self.slots["big"].phase
