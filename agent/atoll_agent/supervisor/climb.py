"""The way of one model's releases: waits, fetches, has them examined, and activated.

Each model climbs by itself. What is scarce is shared in turns: one bundle is fetched at a time, for
two minutes, then it is another model's turn; and one is examined at a time. So a large bundle on a
slow line holds nobody up for hours.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final

import structlog

from atoll_agent.ports import Child, ChildCrashedError, ChildTimeoutError, Line
from atoll_agent.rollout.machine import Event, Phase
from atoll_agent.rollout.release import Release
from atoll_agent.supervisor.activation import Activation
from atoll_agent.supervisor.backoff import Backoff
from atoll_agent.supervisor.means import Means, ModelPlan
from atoll_agent.supervisor.slots import Slots
from atoll_contract.errors import AtollError, BundleRejectedError, Reason, RequestRefusedError, TransientError
from atoll_infer.predictor import Predictor

log = structlog.get_logger()

_TURN_S: Final = 120.0
_RETRY_CAP_S: Final = 300.0
_ALONE_S: Final = 1.0
"""How often is looked whether a release may be loaded that must be so alone."""
_WRONG_BYTES_CAP_S: Final = 3600.0
"""Bytes that are not the signed ones cost two whole fetches each time."""


@dataclass(frozen=True, slots=True)
class _Offer:
    """What a refresh said last, as long as the slot does not know it."""

    wanted: Release | None


class _SupersededError(Exception):
    """Another release is wanted than the one on its way."""


class Climb:
    """Brings one model to the release that it should run, again and again."""

    def __init__(self, plan: ModelPlan, slots: Slots, means: Means) -> None:
        self._plan = plan
        self._model = plan.model
        self._slots = slots
        self._means = means
        self._activation = Activation(plan.model, slots, means.lane, self._require_wanted)
        self._offer: _Offer | None = None
        self._awake = asyncio.Event()
        self._backoff = Backoff()
        self._retry_s = 0.0
        self._start_s: float | None = None  # until the first offer after a start nothing is begun
        self._sha256: str | None = None
        self._is_bundle_at_work = False

    def offer(self, wanted: Release | None) -> None:
        """Say which release the model should run, by metadata verified just now."""
        self._offer = _Offer(wanted)
        self._awake.set()

    def skip_delay(self, release: int | None) -> None:
        """Begin at once with the release that waits for its drawn time; None: whichever it is.

        Raises:
            RequestRefusedError: None waits, or another one.
            StorageError: It cannot be stored; the release goes on waiting.
        """
        slot, now_ms = self._slots[self._model], time.time() * 1e3
        waits = slot.challenger if self._slots.is_waiting(self._model) and slot.wait_s(now_ms) else None
        if waits is None or release not in {None, waits.release}:
            which = "no release" if release is None else f"release {release} is not what"
            raise RequestRefusedError(f"{self._model}: {which} waits", Reason.NOTHING_WAITS)
        self._slots.keep(slot.without_wait(now_ms))
        if self._start_s is not None:
            self._start_s = time.monotonic()
        self._awake.set()

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self._wait()
            try:
                self._take_offer()
                if self._seconds_to_wait() == 0.0:
                    await self._climb()
            except _SupersededError:
                self._slots.break_off(self._model)
            except BundleRejectedError as error:
                self._slots.refuse(self._model, error.reason, error.detail)
            except AtollError as error:
                self._slots.interrupt(self._model, error.reason, error.detail)
                self._back_off(error.reason)

    # When to begin

    async def _wait(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(self._seconds_to_wait()):
                await self._awake.wait()
        self._awake.clear()

    def _seconds_to_wait(self) -> float | None:
        """Return how long to wait before the next step; None: until there is an offer."""
        if self._offer is not None:
            start_s = self._retry_s  # it could not be stored
        elif self._start_s is not None and self._slots.is_waiting(self._model):
            start_s = max(self._start_s, self._retry_s)
        else:
            return None
        return max(0.0, start_s - time.monotonic())

    def _take_offer(self) -> None:
        if self._offer is None:
            return
        wanted, now_ms = self._offer.wanted, time.time() * 1e3
        delay_s = random.uniform(0, wanted.max_delay_s if wanted else 0)  # noqa: S311 - spreads a fleet
        self._slots.aim(self._model, wanted, now_ms + delay_s * 1e3)
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

    # The way

    async def _climb(self) -> None:
        await self._fetch()
        await self._activation.run(await self._loaded())

    async def _loaded(self) -> Predictor:
        """Examine and load the fetched bundle, once that may be."""
        while True:
            async with self._means.examining:
                self._require_wanted()
                if self._slots.may_load(self._model):
                    await self._examine()
                    return await asyncio.to_thread(self._load, self._slots.challenger(self._model))
            await asyncio.sleep(_ALONE_S)  # not for ever: the other one leaves, or settles

    def _require_wanted(self) -> None:
        """Require that no other release is wanted than the one on its way; that may get other terms."""
        if self._offer is None:
            return
        wanted = self._offer.wanted
        if wanted is None or not wanted.is_same(self._slots.challenger(self._model)):
            raise _SupersededError

    async def _fetch(self) -> None:
        """Fetch the bundle, in as many turns as it takes."""
        while self._slots[self._model].phase is not Phase.VERIFYING:
            async with self._means.fetching:
                self._require_wanted()
                self._take_offer()
                if self._slots.is_waiting(self._model):
                    self._slots.advance(self._model, Event.FETCH_STARTED)
                await self._fetch_in_one_turn()

    async def _fetch_in_one_turn(self) -> None:
        release = self._slots.challenger(self._model)
        if self._means.store.has_bundle(release.sha256):
            self._slots.advance(self._model, Event.FETCHED)
            return
        request = {
            "release": asdict(release),
            "path": str(self._means.store.bundle_path(release.sha256)),
            "max_bytes": self._means.max_bundle_bytes,
            "turn_s": _TURN_S,
        }
        await self._follow(self._means.fetch, request)

    async def _examine(self) -> None:
        """Verify and self-test the fetched bundle in a child."""
        release = self._slots.challenger(self._model)
        self._is_bundle_at_work = False
        try:
            await self._follow(self._means.examine, self._means.examination(self._plan, release))
        except ChildTimeoutError as error:
            raise self._blame(error, Reason.SELF_TEST_TIMEOUT, is_sure=error.is_own_doing) from error
        except ChildCrashedError as error:
            raise self._blame(error, Reason.SELF_TEST_CRASHED, is_sure=error.is_own_doing) from error

    def _blame(self, error: AtollError, reason: Reason, *, is_sure: bool) -> AtollError:
        """Return what is to be said of a self-test that did not end: the bundle or the surroundings did it.

        A device that is busy, short of memory, or being upgraded must not refuse a release for good.
        """
        if self._is_bundle_at_work and (self._slots.doubt(self._model) or is_sure):
            return BundleRejectedError(error.detail, reason)
        return TransientError(error.detail, reason)

    def _load(self, release: Release) -> Predictor:
        return self._means.loader.load(release, self._plan.wish, may_wait=True)

    async def _follow(self, child: Child, request: dict[str, Any]) -> None:
        """Start ``child`` and heed what it says."""
        async with child(request) as lines:
            async for line in lines:
                self._heed(line)

    def _heed(self, line: Line) -> None:
        match line.event:
            case "paused":
                log.debug("fetch.paused", model=self._model)
            case "fetched":
                self._slots.advance(self._model, Event.FETCHED)
            case "begun":
                self._is_bundle_at_work = not line.facts["is_cramped"]
            case "verified":
                self._slots.advance(self._model, Event.VERIFIED)
            case "passed":
                self._means.loader.keep(self._slots.challenger(self._model).sha256, line.facts["contest"])
                self._slots.advance(self._model, Event.SELF_TEST_PASSED)
            case "failed":
                kind = BundleRejectedError if line.facts["is_refusal"] else TransientError
                raise kind(line.facts["detail"], Reason(line.facts["reason"]))
            case unknown:
                raise RuntimeError(f"a child said {unknown!r}")
