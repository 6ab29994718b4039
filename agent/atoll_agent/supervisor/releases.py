"""Carries out the release machine: asks for releases, fetches, has them tried, swaps them in.

Every step is stored before it is acted on, so that a kill at any point resumes. The lane goes on
answering with the champion all the time.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from atoll_agent.ports import Child, ChildCrashedError, ChildTimeoutError, LaneControl, Line, SlotStore
from atoll_agent.rollout.fit import require_fit
from atoll_agent.rollout.machine import BUSY, Event, Phase
from atoll_agent.rollout.release import Release
from atoll_agent.rollout.slot import Slot
from atoll_contract.bundle import Bundle
from atoll_contract.errors import AtollError, BundleRejectedError, Reason, StorageError
from atoll_infer import golden
from atoll_infer.predictor import Predictor
from atoll_infer.runtime import Runtime

log = structlog.get_logger()

_RETRY_BASE_S: Final = 2.0
_RETRY_CAP_S: Final = 300.0
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
    """

    model: str
    stream: str
    channel: str
    units: Mapping[str, str | None]


class Releases:
    """The slots of all models, and what moves them.

    Attributes:
        slots: By model.
        predictors: The champions at work, by model.
        trouble: Why the last check got no further than the repository, or None.
        on_change: Called with the model whose slot changed.
    """

    def __init__(
        self,
        plans: Mapping[str, ModelPlan],
        *,
        store: SlotStore,
        fingerprint: str,
        runtime: Runtime,
        lane: LaneControl,
        fetch: Child,
        examine: Child,
    ) -> None:
        self._plans = plans
        self._store = store
        self._fingerprint = fingerprint
        self._runtime = runtime
        self._lane = lane
        self._fetch = fetch
        self._examine = examine
        self._failures = 0
        self.slots: dict[str, Slot] = {}
        self.predictors: dict[str, Predictor] = {}
        self.trouble: Reason | None = None
        self.on_change: Callable[[str], None] = lambda _model: None

    def start(self) -> None:
        """Load the slots, and the champions from disk into the lane, before it runs."""
        for model in self._plans:
            slot = self._store.load_slot(model, self._fingerprint)
            if slot.champion is not None:
                slot = self._restored(slot, slot.champion)
            self.slots[model] = slot

    def channel_of(self, model: str) -> str:
        """Return the channel that ``model`` follows, besides ``stable``."""
        return self._plans[model].channel

    async def check(self) -> float | None:
        """Ask the repository once and do all that follows; return when to retry, in seconds.

        None: nothing to retry before the next announcement.
        """
        self.slots = {model: slot.resumed() for model, slot in self.slots.items()}
        try:
            await self._refresh_and_fetch()
        except AtollError as error:
            # The repository or the disk failed as a whole; single releases are handled below.
            log.warning("releases.interrupted", reason=error.reason.value, detail=error.detail)
            self.slots = {model: slot.resumed() for model, slot in self.slots.items()}
            self._set_trouble(error.reason)
        waiting = any(slot.phase is Phase.ANNOUNCED for slot in self.slots.values())
        if self.trouble is None and not waiting:
            self._failures = 0
            return None
        ceiling = min(_RETRY_CAP_S, _RETRY_BASE_S * 2.0**self._failures)
        self._failures = min(self._failures + 1, 16)
        return random.uniform(_RETRY_BASE_S / 2, ceiling)  # noqa: S311 - jitter, not a secret

    def _restored(self, slot: Slot, champion: Release) -> Slot:
        """Load a champion from disk into the lane; without it if that cannot be or it fits no more."""
        model = slot.model
        try:
            predictor = self._load(champion)
            require_fit(
                predictor.manifest, model=model, release=champion.release, units=self._plans[model].units
            )
        except (StorageError, BundleRejectedError) as error:
            log.error(  # noqa: TRY400 - foreseen; the detail says all
                "champion.lost",
                model=model,
                release=champion.release,
                reason=error.reason.value,
                detail=error.detail,
            )
            return slot.without_champion(error.reason, error.detail, time.time() * 1e3)
        self._lane.swap(predictor, has_restarted=True)
        self.predictors[model] = predictor
        log.info("model.loaded", model=model, release=champion.release, backend=predictor.backend)
        return slot

    async def _refresh_and_fetch(self) -> None:
        request = {
            "models": {
                model: {
                    "channel": plan.channel,
                    "bad": sorted(self.slots[model].bad_digests),
                    "champion": champion.sha256 if (champion := self.slots[model].champion) else None,
                }
                for model, plan in self._plans.items()
            }
        }
        async with self._fetch(request) as lines:
            async for line in lines:
                self._heed_fetch(line)
                # At once, while other bundles are still on their way.
                if line.event == "fetched":
                    await self._try_out(line.facts["model"])

    def _heed_fetch(self, line: Line) -> None:
        match line.event:
            case "refreshed":
                self._set_trouble(None)
                for model, release in line.facts["wanted"].items():
                    self._offer(model, None if release is None else Release(**release))
            case "fetching":
                self._advance(line.facts["model"], Event.FETCH_STARTED)
            case "fetched":
                self._advance(line.facts["model"], Event.FETCHED)
            case "failed" if "model" in line.facts:
                self._interrupt(line.facts["model"], Reason(line.facts["reason"]), line.facts["detail"])
            case "failed":
                log.warning("repository.failed", reason=line.facts["reason"], detail=line.facts["detail"])
                self._set_trouble(Reason(line.facts["reason"]))
            case unknown:
                raise RuntimeError(f"the fetching child said {unknown!r}")

    def _set_trouble(self, trouble: Reason | None) -> None:
        if trouble != self.trouble:
            self.trouble = trouble
            for model in self.slots:
                self.on_change(model)

    def stop(self) -> None:
        """Store that work under way was stopped on purpose: it counts as no crash."""
        for slot in self.slots.values():
            if slot.phase in BUSY:
                self._keep(slot.resumed())

    def _offer(self, model: str, wanted: Release | None) -> None:
        before = self.slots[model]
        slot = before.offered(wanted)
        if slot == before:
            return
        if slot.challenger is not None and slot.challenger != before.challenger:
            log.info("release.announced", model=model, release=slot.challenger.release)
        if slot.is_withdrawn and not before.is_withdrawn:
            log.warning("release.withdrawn", model=model)
        self._keep(slot)

    async def _try_out(self, model: str) -> None:
        """Verify and self-test the fetched release in a child, then load it and swap it in."""
        release = self._challenger(model)
        request = {
            "path": str(self._store.bundle_path(release.sha256)),
            "sha256": release.sha256,
            "model": model,
            "release": release.release,
            "units": dict(self._plans[model].units),
        }
        try:
            async with self._examine(request) as lines:
                async for line in lines:
                    self._heed_examination(model, line)
        except ChildTimeoutError as error:
            self._refuse(model, Reason.SELF_TEST_TIMEOUT, error.detail)
        except ChildCrashedError as error:
            if error.is_own_doing:
                self._refuse(model, Reason.SELF_TEST_CRASHED, error.detail)
            else:
                self._interrupt(model, error.reason, error.detail)
        if self.slots[model].phase is Phase.ACTIVATING:
            await self._activate(model, release)

    def _heed_examination(self, model: str, line: Line) -> None:
        match line.event:
            case "verified":
                self._advance(model, Event.VERIFIED)
            case "passed":
                self._advance(model, Event.SELF_TEST_PASSED)
            case "failed":
                reason, detail = Reason(line.facts["reason"]), line.facts["detail"]
                if line.facts["is_refusal"]:
                    self._refuse(model, reason, detail)
                else:
                    self._interrupt(model, reason, detail)
            case unknown:
                raise RuntimeError(f"the examining child said {unknown!r}")

    async def _activate(self, model: str, release: Release) -> None:
        started = time.monotonic()
        try:
            predictor = await asyncio.to_thread(self._load, release)
        except BundleRejectedError as error:
            self._refuse(model, error.reason, error.detail)
            return
        except StorageError as error:
            self._interrupt(model, error.reason, error.detail)
            return
        swapped = self._lane.swap(predictor, has_restarted=False)
        try:
            await asyncio.wait_for(asyncio.wrap_future(swapped), _SWAP_TIMEOUT_S)
        except TimeoutError:
            self._interrupt(model, Reason.BROKER_UNAVAILABLE, "the lane is busy connecting")
            return
        self.predictors[model] = predictor
        before = self.slots[model].champion
        self._advance(model, Event.ACTIVATED)
        log.info(
            "model.activated",
            model=model,
            release=release.release,
            before=before.release if before else None,
            backend=predictor.backend,
            load_ms=round((time.monotonic() - started) * 1e3, 1),
        )
        self._drop_bundles(also_keep=before)

    def _drop_bundles(self, also_keep: Release | None = None) -> None:
        """Delete the bundles that no slot needs."""
        keep = {also_keep.sha256} if also_keep else set()
        keep |= {
            known.sha256
            for slot in self.slots.values()
            for known in (slot.champion, slot.challenger)
            if known
        }
        self._store.drop_bundles_except(keep)

    def _load(self, release: Release) -> Predictor:
        """Read, check and load a bundle that has passed its self-test in a child before."""
        return golden.self_test(Bundle.unpack(self._store.read_bundle(release.sha256)), self._runtime)

    def _challenger(self, model: str) -> Release:
        release = self.slots[model].challenger
        if release is None:
            raise RuntimeError(f"slot {model} is busy with no release")
        return release

    def _advance(self, model: str, event: Event) -> None:
        self._keep(self.slots[model].advanced(event))

    def _interrupt(self, model: str, reason: Reason, detail: str) -> None:
        log.warning("release.interrupted", model=model, reason=reason.value, detail=detail)
        self._keep(self.slots[model].interrupted(reason, detail, time.time() * 1e3))

    def _refuse(self, model: str, reason: Reason, detail: str) -> None:
        release = self._challenger(model)
        log.error("release.refused", model=model, release=release.release, reason=reason.value, detail=detail)
        self._keep(self.slots[model].refused(reason, detail, time.time() * 1e3))
        self._drop_bundles()

    def _keep(self, slot: Slot) -> None:
        self._store.save_slot(slot, self._fingerprint)
        self.slots[slot.model] = slot
        self.on_change(slot.model)
