"""What the agent makes of its own end: which release it was, and when that has to go."""

from __future__ import annotations

import time
from dataclasses import replace

from support.climbs import release

from atoll_agent.ports import End, LaneReport
from atoll_agent.rollout.machine import Phase
from atoll_agent.rollout.slot import MAX_CRASHES, MAX_CRASHES_PROVEN, MAX_KILLS, MAX_REBOOTS, Slot
from atoll_agent.supervisor import activation, climb
from atoll_contract.errors import Reason


def crash(world, end=End.CRASHED) -> None:
    world.restart()
    world.slots.count_end(end)


def test_a_first_champion_that_crashes_the_agent_again_and_again_is_refused_and_the_one_before_comes_back(
    world,
):
    world.climb(1)
    world.climb(2)
    for _ in range(MAX_CRASHES):
        assert world.champion("big") == 2
        crash(world)

    slot = world.slots["big"]
    assert slot.champion is None
    assert slot.failure.reason is Reason.ACTIVATION_CRASHED
    assert "crashed 2 times soon after it had started with it" in slot.failure.detail
    assert slot.bad_digests == {release("big", 2).sha256}
    world.climb(1)
    assert world.champion("big") == 1
    world.restart()
    assert world.slots["big"].bad_digests == {release("big", 2).sha256}


def test_a_champion_that_has_worked_before_goes_later(world, monkeypatch):
    monkeypatch.setattr(activation, "_SETTLED_AFTER_S", 0.0)
    world.climb(1)
    world.run(lambda: world.slots["big"].is_proven, start=lambda: None)

    for _ in range(MAX_CRASHES_PROVEN):
        assert world.champion("big") == 1
        crash(world)

    assert world.champion("big") is None


def test_crashes_count_only_in_a_row(world):
    world.climb(1)
    crash(world)
    world.slots.settle_champion("big", release("big", 1))
    for _ in range(MAX_CRASHES_PROVEN - 1):
        crash(world)

    assert world.champion("big") == 1


def test_kills_by_the_kernel_cost_no_champion_that_the_agent_has_lived_with(world):
    world.climb(1)
    world.slots.settle_champion("big", release("big", 1))
    for _ in range(2 * MAX_KILLS):
        crash(world, End.KILLED)

    assert (world.champion("big"), world.slots["big"].champion_crashes) == (1, 0)


def test_a_first_champion_at_which_the_agent_is_killed_again_and_again_goes_in_the_end(world):
    world.climb(1)
    world.run(lambda: world.champion("small"), start=world.offer(release("small")))
    world.slots.settle_champion("small", release("small"))
    for number in range(MAX_KILLS):
        assert (world.champion("big"), world.slots["big"].champion_kills) == (1, number)
        crash(world, End.KILLED)

    slot = world.slots["big"]
    assert (slot.champion, world.champion("small")) == (None, 1)
    assert slot.failure.reason is Reason.ACTIVATION_CRASHED
    assert "was killed 10 times soon after it had started with it" in slot.failure.detail
    assert slot.bad_digests == {release("big", 1).sha256}


def test_kills_count_only_in_a_row_and_are_no_crashes(world):
    world.climb(1)
    for _ in range(MAX_KILLS - 1):
        crash(world, End.KILLED)
    crash(world)
    assert world.champion("big") == 1

    world.slots.settle_champion("big", release("big", 1))
    assert (world.slots["big"].champion_kills, world.slots["big"].champion_crashes) == (0, 0)


def test_when_one_champion_goes_the_others_are_given_time_anew(world):
    for model in ("big", "small"):
        world.run(lambda model=model: world.champion(model), start=world.offer(release(model)))
        world.slots.settle_champion(model, release(model))
    for _ in range(MAX_CRASHES_PROVEN + 1):
        crash(world)

    assert sorted([world.champion("big"), world.champion("small")], key=str) == [1, None]


def test_a_crash_with_a_release_on_trial_is_no_fault_of_the_champion(world):
    world.climb(1)
    world.lane.in_shadow = None  # no verdict yet
    world.run(lambda: world.phase() is Phase.SHADOW, start=world.offer(release("big", 3)))
    crash(world)

    assert (world.slots["big"].crashes, world.slots["big"].champion_crashes) == (1, 0)
    crash(world)  # before it was loaded again
    assert (world.slots["big"].crashes, world.slots["big"].champion_crashes) == (1, 1)


def test_of_several_champions_one_goes_at_a_time_and_those_that_have_worked_last(world):
    world.climb(1)
    world.run(lambda: world.champion("small"), start=world.offer(release("small")))
    world.slots.settle_champion("big", release("big", 1))
    for _ in range(MAX_CRASHES):
        crash(world)

    assert (world.champion("big"), world.champion("small")) == (1, None)


def both_in_shadow(world) -> None:
    """Have a release on trial for each of the two models, each beside a champion."""
    for model in ("big", "small"):
        champion = release(model, 1)
        world.slots.keep(replace(Slot(model, Phase.SHADOW, champion=champion), challenger=release(model, 2)))


def test_a_release_that_crashes_the_agent_long_after_it_was_loaded_is_refused_all_the_same(
    world, monkeypatch
):
    monkeypatch.setattr(activation, "_SETTLED_AFTER_S", 0.0)
    world.climb(1)
    for _ in range(MAX_CRASHES):
        world.lane.in_shadow = None  # no verdict yet
        world.run(lambda: world.slots["big"].has_settled, start=world.offer(release("big", 3)))
        crash(world)

    assert world.phase() is Phase.REFUSED
    assert (world.champion("big"), world.slots["big"].champion_crashes) == (1, 0)


def test_a_crash_is_the_doing_of_what_was_just_loaded_before_that_of_what_was_lived_with(world):
    both_in_shadow(world)
    world.slots.settle("big")
    crash(world)

    assert (world.slots["big"].crashes, world.slots["small"].crashes) == (0, 1)


def test_of_several_on_trial_each_is_loaded_alone_after_a_crash_and_the_guilty_one_refused(world):
    both_in_shadow(world)
    crash(world)
    assert world.slots.may_load("big")

    world.slots.keep(replace(world.slots["big"], phase=Phase.SHADOW))
    assert not world.slots.may_load("small")
    crash(world)  # by big

    assert world.phase() is Phase.REFUSED
    assert (world.slots["small"].phase, world.slots["small"].crashes) == (Phase.ANNOUNCED, 1)
    world.run(lambda: world.champion("small") == 2, start=world.offer(release("small", 2)))


def test_whoever_waits_to_be_loaded_alone_is_loaded_once_the_other_is_lived_with(world, monkeypatch):
    monkeypatch.setattr(climb, "_ALONE_S", 0.001)
    both_in_shadow(world)
    world.slots.keep(replace(world.slots["small"], phase=Phase.IDLE, challenger=None))
    crash(world)
    world.slots.keep(replace(world.slots["big"], phase=Phase.SHADOW))
    held = world.slots.may_load
    asked: list[bool] = []
    world.slots.may_load = lambda model: asked.append(held(model)) or asked[-1]

    def fact() -> bool:
        if asked == [False] * 3:
            world.slots.settle("big")
        return world.champion("small") == 2

    world.run(fact, start=world.offer(release("small", 2)))

    assert asked == [False] * 3 + [True]


def test_a_champion_that_has_answered_nothing_is_not_lived_with(world, monkeypatch):
    monkeypatch.setattr(activation, "_SETTLED_AFTER_S", 0.001)
    world.lane.report = LaneReport()
    world.climb(1)
    begun_s = time.monotonic()
    world.run(lambda: time.monotonic() > begun_s + 0.05, start=lambda: None)
    assert not world.slots["big"].is_proven

    world.lane.report = LaneReport(answered=frozenset({"big"}))
    world.run(lambda: world.slots["big"].is_proven, start=lambda: None)


def test_a_machine_that_goes_down_during_a_trial_refuses_the_release_later(world, monkeypatch):
    world.climb(1)
    for number in range(MAX_REBOOTS):
        assert world.slots["big"].crashes == number
        world.lane.in_shadow = None  # no verdict yet
        world.run(lambda: world.phase() is Phase.SHADOW, start=world.offer(release("big", 3)))
        monkeypatch.setattr("atoll_agent.adapters.store._boot", lambda number=number: f"boot {number}")
        world.restart()

    assert world.phase() is Phase.REFUSED
