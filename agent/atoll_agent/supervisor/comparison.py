"""Champions that were loaded without a contest, as after an upgrade, get theirs while they answer."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import structlog

from atoll_agent.rollout.machine import LOADED
from atoll_agent.rollout.release import Release
from atoll_agent.supervisor.means import Means, ModelPlan
from atoll_agent.supervisor.slots import Slots
from atoll_contract.errors import AtollError, DeviceError, Reason
from atoll_infer.predictor import Predictor

log = structlog.get_logger()


async def compare_champions(plans: Mapping[str, ModelPlan], slots: Slots, means: Means) -> None:
    """Move each such champion to the backend that wins; where that cannot be, it stays on its own.

    To be cancelled before ``plans`` change.
    """
    for model, plan in plans.items():
        champion = slots[model].champion
        if champion is None or not means.loader.is_unsettled(champion.sha256):
            continue
        try:
            async with means.examining:
                predictor = await _compare(plan, champion, means)
        except AtollError as error:
            log.warning(
                "champion.uncompared",
                model=model,
                release=champion.release,
                reason=error.reason.value,
                detail=error.detail,
            )
            continue
        slot = slots[model]
        if slot.champion == champion and slot.phase not in LOADED:
            means.lane.swap(predictor, has_restarted=False)
            means.loader.settle(champion.sha256)  # here: a load that is broken off settles nothing
            slots.predictors[model] = predictor
            slots.on_change(model)
            log.info("model.loaded", model=model, release=champion.release, backend=predictor.backend)


async def _compare(plan: ModelPlan, champion: Release, means: Means) -> Predictor:
    if not means.loader.has_contest(champion.sha256):
        async with means.examine(means.examination(plan, champion)) as lines:
            async for line in lines:
                match line.event:
                    case "passed":
                        means.loader.keep(champion.sha256, line.facts["contest"])
                    case "failed":
                        raise DeviceError(line.facts["detail"], Reason(line.facts["reason"]))
    return await asyncio.to_thread(means.loader.load, champion, plan.wish, may_wait=True)
