"""How models climb to their releases, beside each other, with children that do what the test says."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support.bundles import make_bundle

from atoll_agent.adapters.store import StateStore
from atoll_agent.ports import ChildCrashedError, Line
from atoll_agent.rollout.machine import Phase
from atoll_agent.rollout.release import Release
from atoll_agent.supervisor import climb as climb_module
from atoll_agent.supervisor.climb import Climb, Means, ModelPlan
from atoll_agent.supervisor.slots import Slots
from atoll_contract.errors import Reason, StorageError
from atoll_infer.runtime import choose_runtime

BUNDLES = {
    (model, number): make_bundle(model, release=number).pack()
    for model in ("big", "small")
    for number in (1, 2)
}


def release(model: str, number: int = 1, **terms: int) -> Release:
    content = BUNDLES[model, number]
    return Release(model, number, hashlib.sha256(content).hexdigest(), len(content), **terms)


class Lane:
    """Swaps at once."""

    def swap(self, predictor, *, has_restarted):
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def end_trial(self, model, *, has_passed):
        pass


class World:
    """A state folder, climbs of two models, and the children that they start."""

    def __init__(self, folder: Path, loop: asyncio.Runner) -> None:
        self.loop = loop
        self.store = StateStore(folder)
        self.store.enrol(b"{}")
        for name in ("slots", "bundles"):
            (folder / name).mkdir(exist_ok=True)
        self.fetches: list[str] = []
        self.turns = {"big": 1, "small": 1}
        self.failures: list[Line] = []
        self.crashes: list[Exception] = []
        self.during_turn: Callable[[], None] = lambda: None
        self.refusals = 0
        self.restart()

    def restart(self) -> None:
        self.slots = Slots(self.store, "same")
        self.slots.on_refused = self._count
        means = Means(
            store=self.store,
            runtime=choose_runtime().runtime,
            lane=Lane(),
            fetch=self._fetch,
            examine=self._examine,
            max_bundle_bytes=10**6,
        )
        self.climbs = {
            model: Climb(ModelPlan(model, "press", "stable", {"x": None}, is_shared=False), self.slots, means)
            for model in ("big", "small")
        }
        for model in self.climbs:
            self.slots.load(model)

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
            if self.crashes:
                raise self.crashes.pop(0)
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
            yield Line("verified", {})
            yield Line("passed", {"backend": "CPU"})

        yield lines()

    def run(self, fact: Callable[[], object], *, start: Callable[[], None], timeout_s: float = 20.0) -> None:
        """Let the climbs run until ``fact`` holds."""

        async def work() -> None:
            async with asyncio.timeout(timeout_s), asyncio.TaskGroup() as group:
                tasks = [group.create_task(climb.run()) for climb in self.climbs.values()]
                start()
                while not fact():  # noqa: ASYNC110 - the fact is any
                    await asyncio.sleep(0.001)
                for task in tasks:
                    task.cancel()

        self.loop.run(work())

    def champion(self, model: str) -> int | None:
        champion = self.slots[model].champion
        return champion.release if champion else None


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with asyncio.Runner() as loop:
        yield World(tmp_path / "state", loop)


def failed(reason: Reason, *, is_refusal: bool = False) -> Line:
    return Line("failed", {"reason": reason.value, "detail": "so it is", "is_refusal": is_refusal})


def offer(world: World, *releases: Release) -> Callable[[], None]:
    def say() -> None:
        for one in releases:
            world.climbs[one.model].offer(one)

    return say


def test_a_model_announced_later_does_not_wait_for_a_large_bundle_to_end(world):
    world.turns["big"] = 4

    world.run(
        lambda: world.champion("big") and world.champion("small"),
        start=offer(world, release("big"), release("small")),
    )

    assert world.fetches == ["big 1", "small 1", "big 1", "big 1", "big 1"]


def test_a_newer_release_takes_the_place_of_one_that_is_being_fetched(world):
    world.turns["big"] = 3
    world.during_turn = lambda: len(world.fetches) == 1 and world.climbs["big"].offer(release("big", 2))

    world.run(lambda: world.champion("big") == 2, start=offer(world, release("big", 1)))

    assert world.fetches == ["big 1", "big 2", "big 2"]


def test_a_release_withdrawn_while_it_is_fetched_is_not_fetched_on(world):
    world.turns["big"] = 3
    world.during_turn = lambda: world.climbs["big"].offer(None)

    world.run(
        lambda: world.slots["big"].phase is Phase.IDLE and world.fetches, start=offer(world, release("big"))
    )

    assert world.fetches == ["big 1"]
    assert world.champion("big") is None


def test_terms_signed_anew_during_a_fetch_do_not_begin_it_anew(world):
    world.turns["big"] = 3
    wider = release("big", rollout_percent=50)
    world.during_turn = lambda: world.climbs["big"].offer(wider)
    part = world.store.bundle_path(wider.sha256).with_suffix(".part")
    part.write_bytes(b"so far")

    world.run(lambda: world.champion("big"), start=offer(world, release("big")))

    assert len(world.fetches) == 3
    assert world.slots["big"].champion == wider
    assert part.exists()


def test_a_signed_delay_is_waited_for_and_a_restart_draws_none_anew(world):
    slow = release("big", max_delay_s=604_800)
    world.run(lambda: world.slots["big"].challenger, start=offer(world, slow))
    drawn = world.slots["big"].start

    for _ in range(3):
        world.restart()
        world.run(lambda: world.champion("small"), start=offer(world, slow, release("small")))
        world.slots.keep(replace(world.slots["small"], champion=None, phase=Phase.IDLE))
        world.turns["small"] = 1

    assert world.slots["big"].start == drawn
    assert drawn.time_ms > 0
    assert "big 1" not in world.fetches


def test_a_delay_signed_away_is_over(world):
    world.run(lambda: world.slots["big"].challenger, start=offer(world, release("big", max_delay_s=604_800)))

    world.run(lambda: world.champion("big"), start=offer(world, release("big")))


def test_after_a_restart_nothing_is_begun_before_the_metadata_are_known(world):
    world.failures = [failed(Reason.MISSING_CHUNK)]
    world.run(lambda: world.slots["big"].failure, start=offer(world, release("big")))
    world.restart()
    world.fetches.clear()

    world.run(lambda: world.champion("small"), start=offer(world, release("small")))
    assert world.fetches == ["small 1"]

    world.run(lambda: world.champion("big"), start=offer(world, release("big")))


def test_what_was_missing_is_tried_again_at_the_next_announcement(world, monkeypatch):
    monkeypatch.setattr(climb_module.Backoff, "next_s", lambda _self, _cap_s: 3600.0)
    world.failures = [failed(Reason.MISSING_CHUNK)]
    world.run(lambda: world.slots["big"].failure, start=offer(world, release("big")))

    world.run(lambda: world.champion("big"), start=offer(world, release("big")))

    assert world.slots["big"].failure is None


def test_wrong_bytes_are_not_fetched_again_at_every_announcement(world, monkeypatch):
    monkeypatch.setattr(climb_module.Backoff, "next_s", lambda _self, _cap_s: 3600.0)
    world.failures = [failed(Reason.DIGEST_MISMATCH)]
    world.run(lambda: world.slots["big"].failure, start=offer(world, release("big")))

    world.run(lambda: world.champion("small"), start=offer(world, release("big"), release("small")))
    assert world.fetches == ["big 1", "small 1"]

    world.run(lambda: world.champion("big") == 2, start=offer(world, release("big", 2)))


def test_a_bundle_that_is_refused_before_it_is_fetched_is_remembered_and_another_is_asked_for(world):
    world.failures = [failed(Reason.TOO_LARGE, is_refusal=True)]

    world.run(lambda: world.refusals, start=offer(world, release("big")))

    assert world.slots["big"].phase is Phase.REFUSED
    assert world.slots["big"].bad_digests == {release("big").sha256}


def test_a_child_that_says_how_it_ended_and_then_crashes_ends_nothing_else(world):
    world.failures = [failed(Reason.MISSING_CHUNK)]
    world.crashes = [ChildCrashedError("signal 11", is_own_doing=True)]
    world.run(lambda: world.slots["big"].failure and not world.crashes, start=offer(world, release("big")))

    world.run(lambda: world.champion("big"), start=offer(world, release("big")))


def test_a_disk_that_cannot_be_written_for_a_while_ends_nothing(world, monkeypatch):
    monkeypatch.setattr(climb_module.Backoff, "next_s", lambda _self, _cap_s: 0.01)
    save, refusals = world.store.save_slot, [0]

    def fail_for_a_while(slot, fingerprint):
        refusals[0] += 1
        if 2 <= refusals[0] <= 5:
            raise StorageError("no room", Reason.NO_SPACE)
        save(slot, fingerprint)

    world.store.save_slot = fail_for_a_while

    world.run(lambda: world.champion("big"), start=offer(world, release("big")))

    assert world.store.load_slot("big", "same").champion == release("big")
