"""What a reload does to slots, climbs and champions, whose plans change while they are at work."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from contextlib import asynccontextmanager
from dataclasses import asdict, replace

import pytest
from support.climbs import World, release

from atoll_agent.compose import require_champions_fit
from atoll_agent.ports import Accelerator, Line
from atoll_agent.rollout.machine import Phase
from atoll_agent.settings import AgentSettings
from atoll_agent.supervisor import activation
from atoll_agent.supervisor.loading import Wish
from atoll_agent.supervisor.releases import Course, Releases
from atoll_contract.errors import BrokerUnavailableError, ConfigError


class SetClock:
    """A clock that is set."""

    is_time_unsynced = False


class Followed:
    """Releases on the state folder of a world, and what the repository offers."""

    def __init__(self, world: World) -> None:
        self._loop = world.loop
        self.means = world.means
        self.offered: list = []
        plans = {"big": world.plans["big"]}
        self.releases = Releases(plans, world.slots, world.means, refresh=self._refresh, clock=SetClock())
        self.slots = world.slots
        self.slots.remove("small")
        self.releases.start()
        self.slots.on_change = self.releases.channel_of  # what tells of a slot tells its channel

    def run(self, work: Callable[[], Awaitable[None]]) -> None:
        """Let the models climb while ``work`` goes on."""

        async def both() -> None:
            async with asyncio.timeout(20), asyncio.TaskGroup() as group:
                climbing = group.create_task(self.releases.run())
                await asyncio.sleep(0)
                await work()
                climbing.cancel()

        self._loop.run(both())

    async def change(self, *plans, change_lane=None) -> list[str]:
        course = Course({plan.model: plan for plan in plans}, self.means, "same")
        return await self.releases.change(course, change_lane or done)

    @asynccontextmanager
    async def _refresh(self, _request):
        async def lines():
            wanted = {one.model: asdict(one) for one in self.offered}
            yield Line("refreshed", {"wanted": wanted})

        yield lines()


def done(_predictors) -> Future:
    future: Future = Future()
    future.set_result(None)
    return future


async def until(fact: Callable[[], object]) -> None:
    while not fact():  # noqa: ASYNC110 - the fact is any
        await asyncio.sleep(0)


def test_a_new_model_is_seen_only_with_its_plan(world):
    world.run(lambda: world.champion("small"), start=world.offer(release("small")))
    followed = Followed(world)
    seen = []

    def look(_predictors) -> Future:
        followed.slots.drop_bundles()  # as a climb that ends meanwhile would
        seen.append([followed.releases.channel_of(model) for model in followed.slots.all()])
        return done(_predictors)

    async def work() -> None:
        await followed.change(*world.plans.values(), change_lane=look)
        for model in followed.slots.all():
            assert followed.releases.channel_of(model) == "stable"

    followed.run(work)

    assert seen == [["stable"]]
    assert followed.slots.all().keys() == {"big", "small"}
    assert world.store.has_bundle(release("small").sha256)


def test_a_model_removed_during_its_trial_is_charged_no_crash_when_it_comes_back(world):
    world.climb(1)
    world.lane.in_shadow = None  # no verdict yet
    followed = Followed(world)
    followed.offered = [release("big", 3)]

    async def work() -> None:
        await followed.releases.refresh()
        await until(lambda: followed.slots["big"].phase is Phase.SHADOW)
        assert await followed.change(world.plans["small"]) == ["big"]

    followed.run(work)
    followed.slots.settle_champion("big", release("big", 1))  # a minute later, nobody minds

    slot = world.store.load_slot("big", "same")
    assert (slot.phase, slot.crashes, slot.is_blamed) == (Phase.ANNOUNCED, 0, False)


def test_a_champion_that_cannot_run_on_what_is_demanded_stays_and_the_reload_is_refused(world):
    world.climb(1)
    followed = Followed(world)
    demanding = replace(world.plans["big"], wish=Wish(Accelerator.EDGETPU))

    async def work() -> None:
        with pytest.raises(ConfigError, match=r"'big': its champion, release 1, .* no model_edgetpu.tflite"):
            await followed.change(demanding)
        followed.offered = [release("big", 2)]
        await followed.releases.refresh()
        await until(lambda: world.champion("big") == 2)  # it climbs on

    assert followed.slots.predictors["big"].manifest.release == 1
    followed.run(work)


def test_a_new_model_whose_champion_is_damaged_begins_without_it(world):
    world.climb(1)
    followed = Followed(world)
    world.store.bundle_path(release("big", 1).sha256).write_bytes(b"damaged")

    async def work() -> None:
        await followed.change(world.plans["small"])
        await followed.change(*world.plans.values())

    followed.run(work)

    assert followed.slots["big"].champion is None
    assert "its bytes have changed" in followed.slots["big"].failure.detail


def test_a_stop_during_a_reload_is_no_crash(world):
    followed = Followed(world)

    async def work() -> None:
        async with asyncio.TaskGroup() as group:
            climbing = group.create_task(followed.releases.run())
            waiting: list[Future] = []

            def hold(_predictors) -> Future:
                waiting.append(Future())
                return waiting[0]

            await asyncio.sleep(0)
            moved = replace(world.plans["big"], channel="canary")
            changing = group.create_task(followed.change(moved, change_lane=hold))
            await until(lambda: waiting)
            climbing.cancel()
            changing.cancel()

    world.loop.run(work())

    assert followed.releases.channel_of("big") == "stable"


def test_a_reload_ends_the_comparison_before_it_begins_another(world):
    world.climb(1)
    world.store.write_contest(release("big", 1).sha256, b"")
    world.restart()
    at_work: list[str] = []

    @asynccontextmanager
    async def examine(_request):
        at_work.append("begun")
        try:
            await asyncio.get_running_loop().create_future()
            yield
        finally:
            at_work.append("ended")

    world.means = replace(world.means, examine=examine)
    followed = Followed(world)

    def refuse(_predictors) -> Future:
        raise BrokerUnavailableError("busy")

    async def work() -> None:
        await until(lambda: at_work == ["begun"])
        await followed.change(replace(world.plans["big"], channel="canary"))
        await until(lambda: at_work == ["begun", "ended", "begun"])
        with pytest.raises(BrokerUnavailableError):
            await followed.change(world.plans["big"], change_lane=refuse)
        await until(lambda: at_work == ["begun", "ended"] * 2 + ["begun"])

    followed.run(work)


def test_settings_that_demand_an_edge_tpu_which_a_stored_champion_is_not_compiled_for_are_refused(
    world, tmp_path
):
    world.climb(1)
    path = tmp_path / "agent.toml"
    text = (
        '[agent]\nid = "pi"\nsite = "site"\n[[stream]]\nname = "press"\nvalues = { x = {} }\n'
        '[[model]]\nname = "big"\nstream = "press"\n'
    )

    path.write_text(text)
    require_champions_fit(path, AgentSettings.read(path), world.store)
    path.write_text(text + 'accelerator = "edgetpu"\n')
    with pytest.raises(
        ConfigError, match=r"'big': its champion, release 1, does not fit accelerator"
    ) as told:
        require_champions_fit(path, AgentSettings.read(path), world.store)

    assert "no model_edgetpu.tflite" in str(told.value)
    assert "[model_not_compiled]" in str(told.value)


def test_a_champion_that_comes_with_a_reload_is_lived_with_like_any_other(world, monkeypatch):
    world.run(lambda: world.champion("small"), start=world.offer(release("small")))
    followed = Followed(world)
    monkeypatch.setattr(activation, "_SETTLED_AFTER_S", 0.0)

    async def work() -> None:
        await followed.change(world.plans["big"], world.plans["small"])
        assert not followed.slots["small"].is_proven
        await until(lambda: followed.slots["small"].is_proven)

    followed.run(work)
