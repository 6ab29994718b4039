"""Asks what this device should run, and lets each model climb to it.

The lane goes on answering with the champions all the time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Final

import structlog

from atoll_agent.ports import Child, ClockState, End
from atoll_agent.rollout.fit import require_fit
from atoll_agent.rollout.release import Release
from atoll_agent.rollout.slot import Slot
from atoll_agent.supervisor.activation import settle_later
from atoll_agent.supervisor.backoff import Backoff
from atoll_agent.supervisor.climb import Climb
from atoll_agent.supervisor.comparison import compare_champions
from atoll_agent.supervisor.means import Means, ModelPlan
from atoll_agent.supervisor.slots import Slots
from atoll_contract.errors import (
    AtollError,
    BrokerUnavailableError,
    BundleRejectedError,
    ConfigError,
    Reason,
    RequestRefusedError,
    StorageError,
)
from atoll_infer.predictor import Predictor

log = structlog.get_logger()

_RETRY_CAP_S: Final = 300.0
_ORDER_TIMEOUT_S: Final = 60.0
"""So long the lane may take to change; a machine that is busy can hold it up."""


@dataclass(frozen=True, slots=True)
class Course:
    """What settings say of releases.

    Attributes:
        plans: One for each model.
        means: What climbs share.
        fingerprint: Of all that decides whether a bundle fits.
    """

    plans: Mapping[str, ModelPlan]
    means: Means
    fingerprint: str


class Releases:
    """What moves the slots of all models.

    Attributes:
        slots: The slots of all models.
        trouble: Why the last refresh got nowhere, or None.
    """

    def __init__(
        self,
        plans: Mapping[str, ModelPlan],
        slots: Slots,
        means: Means,
        *,
        refresh: Child,
        clock: ClockState,
    ) -> None:
        self._plans = dict(plans)
        self.slots = slots
        self._means = means
        self._refresh = refresh
        self._clock = clock
        self._climbs = {model: Climb(plan, slots, means) for model, plan in plans.items()}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._group: asyncio.TaskGroup | None = None
        self._comparison: asyncio.Task[None] | None = None
        self._backoff = Backoff()
        self.trouble: Reason | None = None

    def start(self, end: End = End.ORDERLY) -> None:
        """Load the slots, and the champions from disk into the lane, before it runs.

        Args:
            end: How the last run of the agent ended.
        """
        for model in self._plans:
            self.slots.load(model)
        if end is not End.ORDERLY:
            self.slots.count_end(end)
        for model, plan in self._plans.items():
            champion = self.slots[model].champion
            if champion is None:
                continue
            try:
                predictor = self._restored(plan, champion)
            except (StorageError, BundleRejectedError) as error:
                _tell_lost(champion, error)
                self.slots.lose_champion(model, error.reason, error.detail)
                continue
            self._means.lane.swap(predictor, has_restarted=True)
            self.slots.predictors[model] = predictor

    def channel_of(self, model: str) -> str:
        """Return the channel that ``model`` follows, besides ``stable``."""
        return self._plans[model].channel

    def skip_delay(self, model: str, release: int | None) -> None:
        """Begin at once with the release of ``model`` that waits for its drawn time.

        Raises:
            RequestRefusedError: There is no such model, or nothing of it waits.
            StorageError: It cannot be stored.
        """
        if model not in self._climbs:
            raise RequestRefusedError(f"this agent has no model {model!r}")
        self._climbs[model].skip_delay(release)

    async def run(self) -> None:
        """Let all models climb until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            self._begin(self._plans)
            self._compare()
            await asyncio.get_running_loop().create_future()

    async def change(
        self, course: Course, change_lane: Callable[[Sequence[Predictor]], Future[None]]
    ) -> list[str]:
        """Go on by other plans, and have the lane change at the same time; return the models that are gone.

        A release that is on its way to a model whose plan changes begins again.

        Args:
            course: What to go on by.
            change_lane: Has the lane go on with the champions of models that are new, or loaded anew.

        Raises:
            BrokerUnavailableError: The lane was too busy; nothing has changed.
            ConfigError: A champion that answers cannot be loaded anew; nothing has changed.
        """
        before, after = self._plans, dict(course.plans)
        is_same = course.means is self._means
        kept = {model for model in before if is_same and before[model] == after.get(model)}
        new = [model for model in after if model not in before]
        await self._break_off(before.keys() - kept)
        try:
            predictors = await self._champions(
                plan
                for model, plan in after.items()
                if model in before and _is_loaded_anew(before[model], plan)
            )
            # Nobody sees the new slots before their plans count.
            slots = [await self._new_slot(after[model], predictors) for model in new]
            async with asyncio.timeout(_ORDER_TIMEOUT_S):
                await asyncio.wrap_future(change_lane(list(predictors.values())))
        except Exception as error:  # when cancelled, nothing begins again
            self.slots.forget_read()
            self._begin(before.keys() - kept)
            self._compare()
            if isinstance(error, TimeoutError):
                raise BrokerUnavailableError("the lane is busy connecting: try again") from error
            raise
        self._plans, self._means = after, course.means
        self.slots.predictors.update(predictors)
        gone = [model for model in before if model not in after]
        for model in gone:
            self.slots.remove(model)
            del self._climbs[model], self._tasks[model]
        for slot in slots:
            self.slots.add(slot)
        self.slots.forgive(course.fingerprint)
        self._begin(after.keys() - kept)
        self._compare()
        return gone

    async def refresh(self) -> float | None:
        """Ask the repository once and offer what it says; return when to ask again, in seconds.

        None: not before the next announcement.
        """
        try:
            self._set_trouble(await self._ask())
        except AtollError as error:
            log.warning("releases.interrupted", reason=error.reason.value, detail=error.detail)
            self._set_trouble(error.reason)
        if self.trouble is None:
            self._backoff.reset()
            return None
        return self._backoff.next_s(_RETRY_CAP_S)

    async def _ask(self) -> Reason | None:
        """Run the child that asks; return what was in its way."""
        plans = self._plans
        request = {
            "is_time_unsynced": self._clock.is_time_unsynced,
            "models": {
                model: {"channel": plan.channel, "bad": sorted(self.slots[model].bad_digests)}
                for model, plan in plans.items()
            },
        }
        trouble: Reason | None = None
        async with self._refresh(request) as lines:
            async for line in lines:
                match line.event:
                    case "refreshed":
                        for model, release in line.facts["wanted"].items():
                            if self._plans.get(model) == plans[model]:  # else what was asked is old
                                self._climbs[model].offer(None if release is None else Release(**release))
                    case "failed":
                        reason, detail = line.facts["reason"], line.facts["detail"]
                        log.warning("repository.failed", reason=reason, detail=detail)
                        trouble = Reason(reason)
                    case unknown:
                        raise RuntimeError(f"the refreshing child said {unknown!r}")
        return trouble

    def _begin(self, models: Iterable[str]) -> None:
        """Let these models climb, by their plans as they are now."""
        for model in models:
            if model in self._tasks or self._climbs.get(model) is None:
                self._climbs[model] = Climb(self._plans[model], self.slots, self._means)
            if self._group is not None:
                if (champion := self.slots[model].champion) is not None:
                    settle_later(self.slots, self._means.lane, model, champion)
                self._tasks[model] = self._group.create_task(self._climbs[model].run(), name=f"climb-{model}")

    def _compare(self) -> None:
        """Find out which backend is the best for champions of which that is not known."""
        if self._group is not None:
            comparison = compare_champions(self._plans, self.slots, self._means)
            self._comparison = self._group.create_task(comparison, name="comparison")

    async def _break_off(self, models: Iterable[str]) -> None:
        """End the comparison, and the climbs of these models; what was on its way waits."""
        if self._comparison is not None:
            self._comparison.cancel()
            await asyncio.wait([self._comparison])
        for model in models:
            self._tasks[model].cancel()
            await asyncio.wait([self._tasks[model]])
            self.slots.break_off(model)

    async def _champions(self, plans: Iterable[ModelPlan]) -> dict[str, Predictor]:
        """Return the champions of models that are new to their stream or backend, loaded from disk anew.

        Raises:
            ConfigError: One cannot be loaded; it goes on as it is.
        """
        found = {}
        for plan in plans:
            champion = self.slots[plan.model].champion
            if champion is None:
                continue
            try:
                found[plan.model] = await asyncio.to_thread(self._restored, plan, champion)
            except (StorageError, BundleRejectedError) as error:
                raise ConfigError(
                    f"model {plan.model!r}: its champion, release {champion.release}, cannot be loaded anew, "
                    f"and goes on as it is: {error.detail} [{error.reason}]"
                ) from error
        return found

    async def _new_slot(self, plan: ModelPlan, predictors: dict[str, Predictor]) -> Slot:
        """Return the slot of a new model, from disk; its champion, if it loads, joins ``predictors``."""
        slot = self.slots.read(plan.model)
        if slot.champion is not None:
            try:
                predictors[plan.model] = await asyncio.to_thread(self._restored, plan, slot.champion)
            except (StorageError, BundleRejectedError) as error:
                _tell_lost(slot.champion, error)
                slot = slot.without_champion(error.reason, error.detail, time.time() * 1e3)
        return slot

    def _restored(self, plan: ModelPlan, champion: Release) -> Predictor:
        """Return a champion, loaded from disk.

        Raises:
            StorageError: It cannot be read.
            BundleRejectedError: It does not fit, or not any more.
        """
        model = plan.model
        predictor = self._means.loader.load(champion, plan.wish, may_wait=False)
        require_fit(
            predictor.manifest,
            model=model,
            release=champion.release,
            units=plan.units,
            is_shared=plan.is_shared,
        )
        log.info("model.loaded", model=model, release=champion.release, backend=predictor.backend)
        return predictor

    def _set_trouble(self, trouble: Reason | None) -> None:
        if trouble != self.trouble:
            self.trouble = trouble
            for model in self._plans:
                self.slots.on_change(model)


def _tell_lost(champion: Release, error: StorageError | BundleRejectedError) -> None:
    log.error(
        "champion.lost",
        model=champion.model,
        release=champion.release,
        reason=error.reason.value,
        detail=error.detail,
    )


def _is_loaded_anew(before: ModelPlan, after: ModelPlan) -> bool:
    return before.stream != after.stream or before.wish != after.wish
