"""Asks what this device should run, and lets each model climb to it.

The lane goes on answering with the champions all the time.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Final

import structlog

from atoll_agent.ports import Child, ClockState
from atoll_agent.rollout.fit import require_fit
from atoll_agent.rollout.release import Release
from atoll_agent.supervisor.activation import settle_later
from atoll_agent.supervisor.backoff import Backoff
from atoll_agent.supervisor.climb import Climb
from atoll_agent.supervisor.means import Means, ModelPlan
from atoll_agent.supervisor.slots import Slots
from atoll_contract.errors import AtollError, BundleRejectedError, Reason, StorageError

log = structlog.get_logger()

_RETRY_CAP_S: Final = 300.0


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
        self._plans = plans
        self.slots = slots
        self._means = means
        self._refresh = refresh
        self._clock = clock
        self._climbs = {model: Climb(plan, slots, means) for model, plan in plans.items()}
        self._backoff = Backoff()
        self.trouble: Reason | None = None

    def start(self, *, has_crashed: bool = False) -> None:
        """Load the slots, and the champions from disk into the lane, before it runs.

        Args:
            has_crashed: Whether the last run of the agent ended by its own doing.
        """
        for model in self._plans:
            self.slots.load(model)
        if has_crashed:
            self.slots.count_crash()
        for model, slot in self.slots.all().items():
            if slot.champion is not None:
                self._restore(model, slot.champion)

    def channel_of(self, model: str) -> str:
        """Return the channel that ``model`` follows, besides ``stable``."""
        return self._plans[model].channel

    async def run(self) -> None:
        """Let all models climb until cancelled."""
        for model, slot in self.slots.all().items():
            if slot.champion is not None:
                settle_later(self.slots, model, slot.champion)
        async with asyncio.TaskGroup() as group:
            for model, climb in self._climbs.items():
                group.create_task(climb.run(), name=f"climb-{model}")

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
        request = {
            "is_time_unsynced": self._clock.is_time_unsynced,
            "models": {
                model: {"channel": plan.channel, "bad": sorted(self.slots[model].bad_digests)}
                for model, plan in self._plans.items()
            },
        }
        trouble: Reason | None = None
        async with self._refresh(request) as lines:
            async for line in lines:
                match line.event:
                    case "refreshed":
                        for model, release in line.facts["wanted"].items():
                            self._climbs[model].offer(None if release is None else Release(**release))
                    case "failed":
                        reason, detail = line.facts["reason"], line.facts["detail"]
                        log.warning("repository.failed", reason=reason, detail=detail)
                        trouble = Reason(reason)
                    case unknown:
                        raise RuntimeError(f"the refreshing child said {unknown!r}")
        return trouble

    def _restore(self, model: str, champion: Release) -> None:
        """Load a champion from disk into the lane; without it if that cannot be or it fits no more."""
        plan = self._plans[model]
        try:
            predictor = self._means.load(champion)
            require_fit(
                predictor.manifest,
                model=model,
                release=champion.release,
                units=plan.units,
                is_shared=plan.is_shared,
            )
        except (StorageError, BundleRejectedError) as error:
            log.error(  # noqa: TRY400 - foreseen; the detail says all
                "champion.lost",
                model=model,
                release=champion.release,
                reason=error.reason.value,
                detail=error.detail,
            )
            self.slots.lose_champion(model, error.reason, error.detail)
            return
        self._means.lane.swap(predictor, has_restarted=True)
        self.slots.predictors[model] = predictor
        log.info("model.loaded", model=model, release=champion.release, backend=predictor.backend)

    def _set_trouble(self, trouble: Reason | None) -> None:
        if trouble != self.trouble:
            self.trouble = trouble
            for model in self._plans:
                self.slots.on_change(model)
