"""How a release goes through its trial, and every way in which it may leave it."""

from __future__ import annotations

import time
from functools import partial

import pytest
from support.climbs import FAILED, release

from atoll_agent.rollout.machine import Phase
from atoll_agent.supervisor import activation
from atoll_contract.errors import Reason

THREE, FOUR = release("big", 3), release("big", 4)
ON_TRIAL = [Phase.SHADOW, Phase.PROBATION]


def reach(world, phase: Phase) -> None:
    """Let release 3 reach ``phase`` and stay there; 1 is the champion."""
    world.climb(1)
    stay(world, phase)
    world.run(lambda: world.phase() is phase, start=world.offer(THREE))


def stay(world, phase: Phase) -> None:
    if phase is Phase.SHADOW:
        world.lane.in_shadow = None
    else:
        world.lane.on_probation = None


def test_a_release_is_the_champion_after_shadow_and_probation(world):
    world.climb(1)

    world.climb(3)

    assert world.lane.heard == [1, 3]
    assert world.slots.predictors["big"].manifest.release == 3
    assert world.lane.trial is None


def test_where_no_champion_is_a_release_needs_no_trial(world):
    world.climb(3)

    assert (world.lane.heard, world.lane.trials) == ([3], 0)


@pytest.mark.parametrize("phase", ON_TRIAL)
def test_a_breach_of_its_rules_refuses_the_release(world, phase):
    world.climb(1)
    if phase is Phase.SHADOW:
        world.lane.in_shadow = FAILED
    else:
        world.lane.on_probation = FAILED

    world.run(lambda: world.refusals, start=world.offer(THREE))

    assert world.slots["big"].failure.detail == f"{phase.value}: it answered 9"
    assert (world.champion("big"), world.lane.heard[-1]) == (1, 1)
    assert not world.store.has_bundle(THREE.sha256)
    assert world.lane.trial is None


@pytest.mark.parametrize("phase", ON_TRIAL)
def test_a_release_that_is_superseded_leaves_for_the_next_one(world, phase):
    world.climb(1)
    stay(world, phase)
    offers = [THREE, FOUR]

    def fact() -> bool:
        if world.phase() is phase and offers == [FOUR]:
            world.climbs["big"].offer(offers.pop())
        return world.phase() is phase and world.slots["big"].challenger == FOUR

    world.run(fact, start=world.offer(offers.pop(0)))

    assert world.lane.heard == ([1] if phase is Phase.SHADOW else [1, 3, 1, 4, 1])
    assert world.slots["big"].bad == ()
    assert world.slots["big"].failure is None


@pytest.mark.parametrize("phase", ON_TRIAL)
def test_a_release_that_is_withdrawn_leaves_the_champion(world, phase):
    world.climb(1)
    stay(world, phase)

    def fact() -> bool:
        if world.phase() is phase:
            world.climbs["big"].offer(release("big", 1))
        return world.phase() is Phase.IDLE

    world.run(fact, start=world.offer(THREE))

    assert (world.champion("big"), world.lane.heard[-1], world.lane.trial) == (1, 1, None)
    assert world.store.load_slot("big", "same").challenger is None


@pytest.mark.parametrize("phase", ON_TRIAL)
def test_terms_signed_anew_do_not_begin_a_trial_anew(world, phase):
    world.climb(1)
    stay(world, phase)
    wider = release("big", 3, rollout_percent=50)
    turns = []

    def fact() -> bool:
        if world.phase() is phase:
            world.climbs["big"].offer(wider)
            turns.append(None)
        return len(turns) > 20

    world.run(fact, start=world.offer(THREE))

    assert world.lane.trials == 1
    assert world.lane.heard.count(3) == (phase is Phase.PROBATION)


@pytest.mark.parametrize("phase", ON_TRIAL)
def test_a_clean_stop_leads_back_to_the_champion_and_counts_as_no_crash(world, phase):
    reach(world, phase)

    world.slots.stop()

    assert (world.lane.heard[-1], world.lane.trial) == (1, None)
    stored = world.store.load_slot("big", "same")
    assert (stored.phase, stored.challenger, stored.crashes) == (Phase.ANNOUNCED, THREE, 0)


def test_a_report_of_an_earlier_trial_is_not_heeded(world, soon):
    world.climb(1)
    world.lane.in_shadow = FAILED
    begin = world.lane._begin

    def begin_late(number: int) -> int:
        begin(number)
        return world.lane.trials + 1  # the report of the one that was ordered is not there yet

    world.lane._begin = begin_late
    world.run(lambda: world.phase() is Phase.SHADOW, start=world.offer(THREE))
    world.run(lambda: world.champion("small"), start=world.offer(release("small")))

    assert world.refusals == 0


def test_the_verdict_on_the_shadow_is_none_on_the_probation(world):
    world.climb(1)
    world.lane._begin_probation = lambda: None  # the report of the probation is not there yet

    world.run(lambda: world.phase() is Phase.PROBATION, start=world.offer(THREE))
    world.run(lambda: world.champion("small"), start=world.offer(release("small")))

    assert world.champion("big") == 1


def test_a_release_that_fails_before_its_probation_has_begun_is_refused(world):
    world.climb(1)
    fail_in_shadow = partial(setattr, world.lane, "in_shadow", FAILED)
    world.lane._begin_probation = lambda: (fail_in_shadow(), world.lane.judge_again())

    world.run(lambda: world.refusals, start=world.offer(THREE))

    assert (world.champion("big"), world.lane.heard) == (1, [1])


def test_a_phase_is_told_when_the_lane_is_in_it(world):
    world.climb(1)
    told = []
    world.slots.on_change = lambda _model: told.append((world.phase(), world.lane.heard[-1]))

    world.run(lambda: (Phase.CHAMPION, 3) in told, start=world.offer(THREE))

    assert told[-3:] == [(Phase.SHADOW, 1), (Phase.PROBATION, 3), (Phase.CHAMPION, 3)]


def test_the_way_back_from_a_withdrawn_champion_needs_no_trial_and_no_delay(world):
    world.climb(1)
    world.climb(4)
    trials, world.lane.in_shadow = world.lane.trials, FAILED

    world.run(lambda: world.champion("big") == 3, start=world.offer(release("big", 3, max_delay_s=604_800)))

    assert (world.lane.heard, world.lane.trials) == ([1, 4, 3], trials)
    assert not world.slots["big"].is_withdrawn


# What cannot be stored, or not be carried out


@pytest.mark.parametrize("phase", [Phase.ACTIVATING, *ON_TRIAL, Phase.CHAMPION])
def test_a_full_disk_at_any_step_leads_back_to_the_champion_and_the_trial_begins_anew(world, soon, phase):
    world.climb(1)
    world.store.refuse_once(phase)

    world.run(lambda: world.champion("big") == 3, start=world.offer(THREE))

    assert world.lane.heard == ([1, 3, 1, 3] if phase is Phase.CHAMPION else [1, 3])
    assert world.store.load_slot("big", "same").champion == THREE


def test_a_release_that_passed_and_cannot_be_stored_does_not_stay(world, never):
    world.climb(1)
    world.store.refuses = lambda slot: slot.phase is Phase.CHAMPION

    world.run(lambda: world.slots["big"].failure, start=world.offer(THREE))

    assert (world.champion("big"), world.lane.heard) == (1, [1, 3, 1])
    assert world.slots.predictors["big"].manifest.release == 1
    assert world.phase() is Phase.ANNOUNCED


def test_a_breach_on_a_full_disk_is_remembered_and_the_release_is_heard_no_more(world, soon):
    world.climb(1)
    world.lane.on_probation = FAILED
    world.store.refuses = lambda slot: slot.phase is Phase.REFUSED

    world.run(lambda: world.refusals, start=world.offer(THREE))
    world.run(lambda: world.champion("small"), start=world.offer(THREE, release("small")))

    assert world.lane.heard == [1, 3, 1]
    assert world.slots["big"].bad_digests == {THREE.sha256}


def test_a_release_that_was_broken_off_on_a_full_disk_is_stored_at_a_stop(world, never):
    world.climb(1)
    stay(world, Phase.PROBATION)

    def fact() -> bool:
        if world.phase() is Phase.PROBATION:
            world.store.refuses = lambda _slot: True
            world.climbs["big"].offer(FOUR)
        return world.phase() is Phase.ANNOUNCED and world.lane.heard == [1, 3, 1]

    world.run(fact, start=world.offer(THREE))
    world.store.refuses = lambda _slot: False
    world.slots.stop()

    assert world.store.load_slot("big", "same").crashes == 0


def test_a_stop_right_after_a_release_was_broken_off_counts_as_no_crash(world):
    reach(world, Phase.SHADOW)

    world.slots.break_off("big")
    world.slots.stop()

    assert world.store.load_slot("big", "same").crashes == 0


def test_a_trial_that_the_lane_cannot_begin_in_time_is_told_and_tried_again(world, soon, monkeypatch):
    monkeypatch.setattr(activation, "_ORDER_TIMEOUT_S", 0.01)
    world.climb(1)
    world.lane.is_busy = True

    world.run(lambda: world.slots["big"].failure, start=world.offer(THREE))
    assert world.slots["big"].failure.reason is Reason.BROKER_UNAVAILABLE
    assert world.lane.held[0].cancelled()
    world.lane.is_busy = False
    world.climb(3)

    assert world.lane.heard == [1, 3]


def test_a_swap_that_is_stored_is_made_however_long_the_lane_takes(world, monkeypatch):
    monkeypatch.setattr(activation, "_ORDER_TIMEOUT_S", 0.01)
    world.lane.is_busy = True
    told = []
    world.slots.on_change = lambda _model: told.append(world.champion("big"))

    world.run(lambda: 1 in told, start=world.offer(release("big", 1)))

    assert [order.cancelled() for order in world.lane.held] == [False]


# Ends of the agent


def test_a_minute_with_a_release_is_stored(world):
    reach(world, Phase.SHADOW)

    world.slots.settle("big")

    assert world.store.load_slot("big", "same").crashes == 0


def test_a_minute_with_a_release_that_has_left_says_nothing_of_the_next(world, monkeypatch):
    monkeypatch.setattr(activation, "_SETTLED_AFTER_S", 0.02)
    world.climb(1)
    world.lane.in_shadow = FAILED
    begun_s = time.monotonic()
    offers = [THREE, FOUR]

    def fact() -> bool:
        if world.refusals and offers:
            monkeypatch.setattr(activation, "_SETTLED_AFTER_S", 60.0)
            stay(world, Phase.SHADOW)
            world.climbs["big"].offer(offers.pop())
        return world.phase() is Phase.SHADOW and time.monotonic() > begun_s + 0.1

    world.run(fact, start=world.offer(offers.pop(0)))

    assert world.slots["big"].challenger == FOUR
    assert not world.slots["big"].has_settled


def test_a_kill_long_after_loading_is_no_crash(world, monkeypatch):
    monkeypatch.setattr(activation, "_SETTLED_AFTER_S", 0.0)
    world.climb(1)
    stay(world, Phase.SHADOW)
    for _ in range(3):
        world.run(lambda: world.slots["big"].has_settled, start=world.offer(THREE))
        world.restart()
        stay(world, Phase.SHADOW)
        assert (world.phase(), world.slots["big"].crashes) == (Phase.ANNOUNCED, 0)


def test_a_release_that_has_answered_nothing_is_not_lived_with_until_much_later(world, monkeypatch):
    monkeypatch.setattr(activation, "_SETTLED_AFTER_S", 0.0)
    world.climb(1)
    stay(world, Phase.SHADOW)
    world.lane.windows = 0
    begun_s = time.monotonic()

    world.run(
        lambda: world.phase() is Phase.SHADOW and time.monotonic() > begun_s + 0.05, start=world.offer(THREE)
    )
    assert not world.slots["big"].has_settled

    world.slots.break_off("big")
    monkeypatch.setattr(activation, "_QUIET_S", 0.0)
    world.run(lambda: world.slots["big"].has_settled, start=world.offer(THREE))


def test_ends_soon_after_loading_refuse_the_release_whatever_was_in_between(world, monkeypatch):
    reach(world, Phase.SHADOW)
    world.restart()
    assert world.slots["big"].crashes == 1
    stay(world, Phase.SHADOW)
    monkeypatch.setattr(activation, "_SETTLED_AFTER_S", 0.0)
    world.run(lambda: world.slots["big"].has_settled, start=world.offer(THREE))
    world.restart()
    assert world.slots["big"].crashes == 1
    stay(world, Phase.SHADOW)
    monkeypatch.setattr(activation, "_SETTLED_AFTER_S", 60.0)

    world.run(lambda: world.phase() is Phase.SHADOW, start=world.offer(THREE))
    world.restart()

    assert world.phase() is Phase.REFUSED
    assert world.slots["big"].failure.reason is Reason.ACTIVATION_CRASHED
