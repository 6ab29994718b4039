"""What the agent makes of its own end: which release it was, and when that has to go."""

from __future__ import annotations

from support.climbs import release

from atoll_agent.rollout.machine import Phase
from atoll_agent.rollout.slot import MAX_CRASHES, MAX_CRASHES_PROVEN, MAX_REBOOTS
from atoll_agent.supervisor import activation
from atoll_contract.errors import Reason


def crash(world) -> None:
    world.restart()
    world.slots.count_crash()


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


def test_ends_that_are_no_crash_cost_no_champion(world):
    world.climb(1)
    for _ in range(20):
        world.restart()  # killed, or without power

    assert (world.champion("big"), world.slots["big"].champion_crashes) == (1, 0)


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


def test_a_machine_that_goes_down_during_a_trial_refuses_the_release_later(world, monkeypatch):
    world.climb(1)
    for number in range(MAX_REBOOTS):
        assert world.slots["big"].crashes == number
        world.lane.in_shadow = None  # no verdict yet
        world.run(lambda: world.phase() is Phase.SHADOW, start=world.offer(release("big", 3)))
        monkeypatch.setattr("atoll_agent.adapters.store._boot", lambda number=number: f"boot {number}")
        world.restart()

    assert world.phase() is Phase.REFUSED
