"""The slots of all models: every step up is stored before it counts, and told.

A step down (a failure, a refusal) counts even when the disk is full or read-only: it only makes this
process more careful. It is stored with the next change that can be.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import structlog

from atoll_agent.ports import End, SlotStore
from atoll_agent.rollout.machine import BUSY, LOADED, Event, Phase
from atoll_agent.rollout.release import Release
from atoll_agent.rollout.slot import MAX_DOUBTS, Slot
from atoll_contract.errors import Reason, StorageError
from atoll_infer.predictor import Predictor

log = structlog.get_logger()


class Slots:
    """The slots, by model.

    Attributes:
        predictors: The champions at work.
        on_change: Called with the model whose slot changed.
        on_refused: Called when a release was refused: an earlier one may be what is wanted now.
    """

    def __init__(self, store: SlotStore, fingerprint: str) -> None:
        self._store = store
        self._fingerprint = fingerprint
        self._slots: dict[str, Slot] = {}
        self._coming: dict[str, Slot] = {}
        self._unsaved: set[str] = set()
        self.predictors: dict[str, Predictor] = {}
        self.on_change: Callable[[str], None] = lambda _model: None
        self.on_refused: Callable[[], None] = lambda: None

    def __getitem__(self, model: str) -> Slot:
        return self._slots[model]

    def all(self) -> dict[str, Slot]:
        """Return all slots, by model."""
        return dict(self._slots)

    def load(self, model: str) -> None:
        """Take up the slot of ``model`` as it starts after a restart."""
        self.add(self.read(model))

    def read(self, model: str) -> Slot:
        """Return the slot of ``model`` as it starts after a restart.

        It does not count yet, but its bundles are kept until it is added, or what was read is forgotten.
        """
        slot = self._coming[model] = self._store.load_slot(model, self._fingerprint)
        return slot

    def forget_read(self) -> None:
        """Let go of the slots that were read and not added."""
        self._coming.clear()

    def add(self, slot: Slot) -> None:
        """Let ``slot``, which was read, count."""
        self._coming.pop(slot.model, None)
        self._slots[slot.model] = slot
        if slot.is_blamed or slot.doubts:
            self._note(slot)  # the next end may come before anything else is stored

    def remove(self, model: str) -> None:
        """Forget the slot of ``model``, which the settings name no more; on disk it stays, as it is now."""
        if model in self._unsaved:
            self._try_to_store(self._slots[model])
        del self._slots[model]
        self.predictors.pop(model, None)
        self._unsaved.discard(model)

    def forgive(self, fingerprint: str) -> None:
        """Forget what was bad, if ``fingerprint`` says that what did not fit may fit now."""
        if fingerprint == self._fingerprint:
            return
        self._fingerprint = fingerprint
        for slot in self.all().values():
            self._note(slot.forgiven())

    def challenger(self, model: str) -> Release:
        """Return the release that is on its way to ``model``."""
        release = self._slots[model].challenger
        if release is None:
            raise RuntimeError(f"slot {model} is busy with no release")
        return release

    def keep(self, slot: Slot) -> None:
        """Store ``slot``, then let it count.

        Raises:
            StorageError: It cannot be stored; the slot stays as it was.
        """
        self._keep_untold(slot)
        self.on_change(slot.model)

    def advance(self, model: str, event: Event) -> None:
        """Let ``event`` happen to the release on its way.

        Raises:
            StorageError: It cannot be stored, and has not happened.
        """
        self.keep(self._slots[model].advanced(event))

    def advance_untold(self, model: str, event: Event) -> None:
        """Let ``event`` happen, which is told by whoever acts on it, once that is done.

        Raises:
            StorageError: It cannot be stored, and has not happened.
        """
        self._keep_untold(self._slots[model].advanced(event))

    def activate(self, model: str, predictor: Predictor) -> None:
        """Let the release on its way be the champion, which is told by whoever lets it answer.

        Raises:
            StorageError: It cannot be stored; the champion stays what it was.
        """
        self.advance_untold(model, Event.ACTIVATED)
        self.predictors[model] = predictor

    def aim(self, model: str, wanted: Release | None, start_ms: float) -> None:
        """Note which release this device should run, and when it begins to fetch it.

        Raises:
            StorageError: It cannot be stored; the slot stays as it was.
        """
        before = self._slots[model]
        slot = before.aimed(wanted, start_ms)
        if slot == before and model not in self._unsaved:
            return
        self.keep(slot)
        if slot.is_withdrawn and not before.is_withdrawn:
            log.warning("release.withdrawn", model=model)
        if slot.challenger is not None and not slot.challenger.is_same(before.challenger):
            wait_s = round(slot.wait_s(time.time() * 1e3), 1)
            log.info("release.announced", model=model, release=slot.challenger.release, wait_s=wait_s)
        self._store.drop_bundles_except(self._needed(), only_parts=True)

    def interrupt(self, model: str, reason: Reason, detail: str) -> None:
        """Note that the surroundings failed: the release, if there is one, is tried again."""
        log.warning("release.interrupted", model=model, reason=reason.value, detail=detail)
        if self._slots[model].challenger is not None:
            self._note(self._slots[model].interrupted(reason, detail, time.time() * 1e3))

    def refuse(self, model: str, reason: Reason, detail: str) -> None:
        """Note that the bundle is no good here."""
        release = self.challenger(model)
        log.error("release.refused", model=model, release=release.release, reason=reason.value, detail=detail)
        self._note(self._slots[model].refused(reason, detail, time.time() * 1e3))
        self.drop_bundles()
        self.on_refused()

    def may_load(self, model: str) -> bool:
        """Whether the release on its way may be loaded now.

        One at a time, where the agent has ended with a release: else one of another model that is
        loaded at the same time would be blamed with it.
        """
        crashes = self._slots[model].crashes
        return not any(
            (crashes or slot.crashes) and slot.phase in LOADED and not slot.has_settled
            for other, slot in self._slots.items()
            if other != model
        )

    def doubt(self, model: str) -> bool:
        """Note that the self-test of the release on its way did not end; whether that is too often."""
        self._note(self._slots[model].doubted())
        return self._slots[model].doubts >= MAX_DOUBTS

    def settle(self, model: str) -> None:
        """Note that the agent has lived with the loaded release for a while: a kill now is not its doing."""
        if self._slots[model].phase in LOADED and not self._slots[model].has_settled:
            self._note(self._slots[model].settled())

    def count_end(self, end: End) -> None:
        """Note that the last run crashed or was killed, and part with a champion at which that goes on.

        If a release was on trial, that is to blame, and first one that had just been loaded; of what it
        had lived with only a crash is. Nobody can tell which of several champions it was: one that has
        never worked goes first, and one at a time.
        """
        if any(slot.is_blamed for slot in self._slots.values()):
            return
        if end is End.CRASHED and self._blame_on_trial():
            return
        for slot in self.all().values():
            if slot.champion is not None:
                self._note(slot.champion_crashed() if end is End.CRASHED else slot.champion_killed())
        spent = [slot for slot in self._slots.values() if slot.is_champion_spent]
        for slot in sorted(spent, key=lambda slot: slot.is_proven)[:1]:
            self._note(slot.champion_refused(time.time() * 1e3))
            failure = self._slots[slot.model].failure
            log.error("champion.refused", model=slot.model, detail=failure.detail if failure else "")
            for other in self.all().values():  # perhaps it was this one alone
                self._note(other.champion_cleared())

    def _blame_on_trial(self) -> bool:
        """Note that releases on trial crashed the agent, however long it had lived with them; if any were."""
        again = [
            self._store.load_slot(model, self._fingerprint, blames_settled=True) for model in self._slots
        ]
        on_trial = [slot for slot in again if slot.is_blamed]
        for slot in on_trial:
            self._note(slot)
        return bool(on_trial)

    def settle_champion(self, model: str, champion: Release) -> None:
        """Note that the agent has lived with this champion for a while."""
        slot = self._slots.get(model)
        if slot is None:
            return  # the settings name the model no more
        settled = slot.champion_settled()
        if slot.champion is not None and slot.champion.sha256 == champion.sha256 and settled != slot:
            self._note(settled)

    def break_off(self, model: str) -> None:
        """Let the release on its way wait again: nothing failed. What takes its place is stored next."""
        if self._slots[model].phase not in BUSY:
            return
        self._slots[model] = self._slots[model].resumed()
        self._unsaved.add(model)
        self.on_change(model)

    def stop(self) -> None:
        """Store that work under way was stopped on purpose: it counts as no crash."""
        for slot in self.all().values():
            if slot.phase in BUSY or slot.model in self._unsaved:
                self._note(slot.resumed())

    def lose_champion(self, model: str, reason: Reason, detail: str) -> None:
        """Go on without a champion that cannot start again."""
        self._slots[model] = self._slots[model].without_champion(reason, detail, time.time() * 1e3)

    def is_waiting(self, model: str) -> bool:
        """Whether a release is announced, and no work on it under way."""
        return self._slots[model].phase is Phase.ANNOUNCED

    def drop_bundles(self, also_keep: Release | None = None) -> None:
        """Delete the bundles that no slot needs."""
        self._store.drop_bundles_except(self._needed() | ({also_keep.sha256} if also_keep else set()))

    def _note(self, slot: Slot) -> None:
        """Let ``slot`` count, and store it if that can be."""
        self._slots[slot.model] = slot
        self._try_to_store(slot)
        self.on_change(slot.model)

    def _try_to_store(self, slot: Slot) -> None:
        try:
            self._store_slot(slot)
        except StorageError as error:
            self._unsaved.add(slot.model)
            log.warning("slot.unsaved", model=slot.model, reason=error.reason.value, detail=error.detail)

    def _keep_untold(self, slot: Slot) -> None:
        self._store_slot(slot)
        self._slots[slot.model] = slot

    def _store_slot(self, slot: Slot) -> None:
        self._store.save_slot(slot, self._fingerprint)
        self._unsaved.discard(slot.model)

    def _needed(self) -> set[str]:
        """Return the digests of what answers and of what is on its way."""
        return {
            known.sha256
            for slot in [*self._slots.values(), *self._coming.values()]
            for known in (slot.champion, slot.challenger)
            if known
        }
