"""How a loaded release becomes the champion: at once, or by way of shadow and probation.

A release that leaves in any other way (by a breach of its rules, a newer one, a full disk, the end of
the agent) leaves the champion behind.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Final, TypeVar

import structlog

from atoll_agent.ports import LaneControl
from atoll_agent.rollout.machine import Event
from atoll_agent.rollout.release import Release
from atoll_agent.rollout.trial import Outcome, TrialReport, Verdict
from atoll_agent.supervisor.slots import Slots
from atoll_contract.errors import BrokerUnavailableError, BundleRejectedError
from atoll_infer.predictor import Predictor

log = structlog.get_logger()

_POLL_S: Final = 0.25
_SETTLED_AFTER_S: Final = 200.0
"""With a release loaded for so long, which has answered, the agent lives with it. Whoever watches over the
agent ends one that hangs before that: systemd after two minutes, the probe of a container after three."""
_QUIET_S: Final = 900.0
"""After so long a release is lived with that had nothing to answer."""
_ORDER_TIMEOUT_S: Final = 300.0
"""The lane carries out an order between two turns; a machine that is busy can hold it up."""

_T = TypeVar("_T")


def settle_later(slots: Slots, lane: LaneControl, model: str, champion: Release) -> None:
    """Have it noted that the agent lives with this champion, if it still does after a while."""
    loop = asyncio.get_running_loop()
    loaded_s = loop.time()

    def look() -> None:
        if model in lane.report.answered or loop.time() >= loaded_s + _QUIET_S:
            slots.settle_champion(model, champion)
        else:
            loop.call_later(_SETTLED_AFTER_S, look)

    loop.call_later(_SETTLED_AFTER_S, look)


class Activation:
    """The last steps of one model's releases.

    Args:
        model: The model.
        slots: The slots of all models.
        lane: What answers.
        require_wanted: Raises when another release is wanted than the one on its way.
    """

    def __init__(
        self, model: str, slots: Slots, lane: LaneControl, require_wanted: Callable[[], None]
    ) -> None:
        self._model = model
        self._slots = slots
        self._lane = lane
        self._require_wanted = require_wanted
        self._loaded_s = 0.0

    async def run(self, predictor: Predictor) -> None:
        """Let ``predictor``, of the release on its way, become the champion.

        Raises:
            BundleRejectedError: It broke its rules on live readings.
            BrokerUnavailableError: The lane was too busy to begin.
            StorageError: A step could not be stored, and was not made or was taken back.
        """
        self._require_wanted()
        rules, slot = predictor.manifest.passing, self._slots[self._model]
        is_tried = bool(rules.shadow_windows or rules.probation_windows)
        # A champion that was withdrawn is no measure of the release before it, and shall answer no longer.
        if slot.champion is None or slot.goes_back or not is_tried:
            await self._become_champion(predictor, partial(self._lane.swap, predictor, has_restarted=False))
            return
        self._loaded_s = time.monotonic()
        try:
            await self._try_out(predictor)
            await self._become_champion(
                predictor, partial(self._lane.end_trial, self._model, has_passed=True)
            )
        except BaseException:
            self._lane.end_trial(self._model, has_passed=False)
            raise

    async def _try_out(self, predictor: Predictor) -> None:
        """Let the release show what it has to, first unheard, then heard."""
        number = await self._carried_out(self._lane.try_out(predictor))
        self._slots.advance(self._model, Event.SHADOW_BEGUN)
        await self._pass(number, is_on_probation=False)
        self._slots.advance_untold(self._model, Event.SHADOW_PASSED)
        await self._carried_out(self._lane.begin_probation(self._model))
        self._slots.on_change(self._model)
        await self._pass(number, is_on_probation=True)

    async def _pass(self, number: int, *, is_on_probation: bool) -> None:
        """Wait for the lane's verdict on a phase of the trial ``number``."""
        while True:
            self._require_wanted()
            report = self._lane.report.trials.get(self._model)
            if report is not None and report.number == number:
                self._note_settled(report)
                has_failed = report.verdict is not None and report.verdict.outcome is Outcome.FAILED
                if report.verdict is not None and (has_failed or report.is_on_probation == is_on_probation):
                    self._heed(report, report.verdict)
                    return
            await asyncio.sleep(_POLL_S)

    def _note_settled(self, report: TrialReport) -> None:
        age_s = time.monotonic() - self._loaded_s
        if age_s >= _SETTLED_AFTER_S and (report.windows or age_s >= _QUIET_S):
            self._slots.settle(self._model)

    def _heed(self, report: TrialReport, verdict: Verdict) -> None:
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
        if verdict.outcome is Outcome.FAILED:
            raise BundleRejectedError(f"{phase.value}: {verdict.detail}", verdict.reason)

    async def _become_champion(self, predictor: Predictor, order: Callable[[], Future[None]]) -> None:
        """Store that the release is the champion, then have the lane carry out ``order``, then tell."""
        before = self._slots[self._model].champion
        champion = self._slots.challenger(self._model)
        self._slots.activate(self._model, predictor)
        settle_later(self._slots, self._lane, self._model, champion)
        with suppress(TimeoutError):
            async with asyncio.timeout(_ORDER_TIMEOUT_S):
                # No way leads back from here: however long the lane takes, it will carry it out.
                await asyncio.shield(asyncio.wrap_future(order()))
        self._slots.on_change(self._model)
        log.info(
            "model.activated",
            model=self._model,
            release=predictor.manifest.release,
            before=before.release if before else None,
            backend=predictor.backend,
        )
        self._slots.drop_bundles(also_keep=before)

    async def _carried_out(self, order: Future[_T]) -> _T:
        """Wait until the lane has carried out ``order``; after the deadline it will not."""
        try:
            async with asyncio.timeout(_ORDER_TIMEOUT_S):
                return await asyncio.wrap_future(order)
        except TimeoutError as error:
            raise BrokerUnavailableError("the lane is busy connecting") from error
