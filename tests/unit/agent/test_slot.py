from __future__ import annotations

from dataclasses import replace

import pytest

from atoll_agent.rollout.machine import Event, IllegalTransitionError, Phase
from atoll_agent.rollout.release import Release
from atoll_agent.rollout.slot import MAX_BAD, MAX_DOUBTS, Slot, Start
from atoll_contract.errors import Reason

ONE, TWO = (Release("wear", number, str(number) * 64, 10) for number in (1, 2))
WAY_UP = (
    Event.FETCH_STARTED,
    Event.FETCHED,
    Event.VERIFIED,
    Event.SELF_TEST_PASSED,
    Event.ACTIVATED,
)


def climbed(slot: Slot, release: Release, steps: int = len(WAY_UP)) -> Slot:
    slot = slot.aimed(release)
    for event in WAY_UP[:steps]:
        slot = slot.advanced(event)
    return slot


def test_a_release_becomes_the_champion():
    slot = climbed(Slot("wear"), ONE)

    assert slot == Slot("wear", Phase.CHAMPION, champion=ONE, start=Start(ONE.sha256, 0.0))


def test_the_champion_offered_again_changes_nothing():
    slot = climbed(Slot("wear"), ONE)

    assert slot.aimed(ONE) == slot


def test_a_refused_release_leaves_the_champion_and_is_remembered():
    slot = climbed(climbed(Slot("wear"), ONE), TWO, steps=3)

    refused = slot.refused(Reason.GOLDEN_MISMATCH, "differs", 5.0)

    assert refused.champion == ONE
    assert refused.challenger is None
    assert refused.bad_digests == {TWO.sha256}
    assert refused.failure.reason is Reason.GOLDEN_MISMATCH


@pytest.mark.parametrize("steps", range(1, len(WAY_UP)))
def test_a_restart_in_any_busy_phase_tries_the_release_again(steps):
    slot = climbed(climbed(Slot("wear"), ONE), TWO, steps=steps)

    resumed = slot.restarted(1.0)

    assert (resumed.phase, resumed.challenger, resumed.champion) == (Phase.ANNOUNCED, TWO, ONE)


def test_a_release_that_ends_the_agent_twice_while_it_is_loaded_is_refused():
    slot = climbed(climbed(Slot("wear"), ONE), TWO, steps=4)

    once = slot.restarted(1.0)
    twice = climbed(once, TWO, steps=4).restarted(2.0)

    assert once.phase is Phase.ANNOUNCED
    assert (twice.phase, twice.champion) == (Phase.REFUSED, ONE)
    assert twice.failure.reason is Reason.ACTIVATION_CRASHED


def test_a_kill_long_after_loading_counts_as_no_crash_and_makes_none_before_undone():
    once = climbed(climbed(Slot("wear"), ONE), TWO, steps=4).restarted(1.0)

    settled = climbed(once, TWO, steps=4).settled().restarted(2.0)
    again = climbed(settled, TWO, steps=4)

    assert (settled.phase, settled.crashes) == (Phase.ANNOUNCED, 1)
    assert again.restarted(3.0).phase is Phase.REFUSED


def test_a_crash_counts_however_long_after_loading():
    slot = climbed(climbed(Slot("wear"), ONE), TWO, steps=4).settled()

    assert slot.restarted(1.0).crashes == 0
    assert slot.restarted(1.0, blames_settled=True).crashes == 1


def test_a_self_test_that_ends_with_the_agent_is_not_tried_for_ever():
    slot = climbed(Slot("wear"), ONE)
    for number in range(MAX_DOUBTS):
        assert slot.doubts == number
        slot = climbed(slot, TWO, steps=3).restarted(1.0)

    assert (slot.phase, slot.champion) == (Phase.REFUSED, ONE)
    assert slot.failure.reason is Reason.SELF_TEST_CRASHED


def test_self_tests_that_ended_with_the_agent_are_forgotten_at_one_that_passes():
    slot = climbed(Slot("wear"), TWO, steps=3).restarted(1.0)

    assert climbed(slot, TWO, steps=3).doubts == 1
    assert climbed(slot, TWO, steps=4).doubts == 0
    assert slot.aimed(replace(TWO, release=3, sha256="3" * 64)).doubts == 0


# The way back


def test_the_way_back_to_an_earlier_release_is_gone_at_once_and_told():
    slot = climbed(climbed(Slot("wear"), ONE), TWO)
    slow = replace(ONE, max_delay_s=604_800)

    back = slot.aimed(slow, start_ms=1e12)

    assert (back.goes_back, back.is_withdrawn, back.wait_s(now_ms=0.0)) == (True, True, 0.0)
    assert not climbed(slot, slow).is_withdrawn
    assert not slot.aimed(replace(TWO, release=3, sha256="3" * 64)).goes_back


@pytest.mark.parametrize(
    "leave",
    [
        lambda slot: slot.advanced(Event.ACTIVATED),
        lambda slot: slot.refused(Reason.TOO_SLOW, "", 1.0),
        lambda slot: slot.interrupted(Reason.NO_SPACE, "", 1.0),
        lambda slot: slot.resumed(),
        lambda slot: slot.restarted(1.0),
    ],
)
def test_who_has_settled_with_a_release_has_not_settled_with_the_next(leave):
    slot = leave(climbed(climbed(Slot("wear"), ONE), TWO, steps=4).settled())

    assert not slot.has_settled


def test_an_interruption_is_told_and_the_release_stays_announced():
    slot = climbed(Slot("wear"), ONE, steps=1).interrupted(Reason.MISSING_CHUNK, "chunk 3", 1.0)

    assert slot.phase is Phase.ANNOUNCED
    assert slot.failure.reason is Reason.MISSING_CHUNK
    assert slot.bad == ()


def test_an_interruption_before_the_work_has_begun_is_told_too():
    slot = Slot("wear").aimed(ONE).interrupted(Reason.NO_SPACE, "full", 1.0)

    assert (slot.phase, slot.failure.reason) == (Phase.ANNOUNCED, Reason.NO_SPACE)


def test_the_next_success_clears_the_failure():
    slot = climbed(Slot("wear"), ONE, steps=1).interrupted(Reason.MISSING_CHUNK, "chunk 3", 1.0)

    assert climbed(slot, ONE).failure is None


def test_a_withdrawn_champion_goes_on_and_says_so():
    slot = climbed(Slot("wear"), ONE).aimed(None)

    assert slot.champion == ONE
    assert slot.is_withdrawn
    assert not slot.aimed(ONE).is_withdrawn


def test_a_release_withdrawn_while_it_waits_is_forgotten():
    slot = Slot("wear").aimed(ONE).aimed(None)

    assert (slot.phase, slot.challenger, slot.is_withdrawn) == (Phase.IDLE, None, False)


def test_a_challenger_taken_back_in_favour_of_the_champion_is_forgotten():
    slot = climbed(Slot("wear"), ONE).aimed(TWO).aimed(ONE)

    assert (slot.phase, slot.challenger, slot.champion) == (Phase.IDLE, None, ONE)


def test_a_refused_release_is_not_taken_from_an_offer_that_is_older_than_the_refusal():
    slot = climbed(climbed(Slot("wear"), ONE), TWO, steps=3).refused(Reason.GOLDEN_MISMATCH, "", 5.0)

    assert slot.aimed(TWO) == slot


# New terms for the release on its way

WIDER = replace(TWO, rollout_percent=50)


@pytest.mark.parametrize("steps", range(1, len(WAY_UP)))
def test_new_terms_are_taken_over_while_work_on_the_release_is_under_way(steps):
    slot = climbed(climbed(Slot("wear"), ONE), TWO, steps=steps)

    assert slot.aimed(WIDER) == replace(slot, challenger=WIDER)


def test_new_terms_do_not_make_crashes_undone():
    slot = climbed(climbed(Slot("wear"), ONE), TWO, steps=4).restarted(1.0)

    assert slot.aimed(WIDER).crashes == 1
    assert slot.aimed(replace(TWO, release=3, sha256="3" * 64)).crashes == 0


@pytest.mark.parametrize("wanted", [None, ONE, replace(TWO, release=3), replace(TWO, sha256="3" * 64)])
def test_another_release_takes_no_place_while_work_is_under_way(wanted):
    slot = climbed(climbed(Slot("wear"), replace(ONE, sha256="0" * 64)), TWO, steps=2)

    if wanted is None:
        assert slot.aimed(None).challenger == TWO
    else:
        with pytest.raises(IllegalTransitionError):
            slot.aimed(wanted)


def test_what_is_remembered_as_bad_is_bounded():
    slot = Slot("wear")
    for number in range(MAX_BAD + 5):
        release = Release("wear", number + 1, f"{number:064d}", 10)
        slot = climbed(slot, release, steps=2).refused(Reason.WRONG_MODEL, "", 0.0)

    assert len(slot.bad) == MAX_BAD


def test_changed_settings_or_versions_give_refused_releases_another_chance():
    slot = climbed(Slot("wear"), ONE, steps=2).refused(Reason.VALUES_MISSING, "", 0.0).forgiven()

    assert slot.bad_digests == frozenset()
    assert slot.aimed(ONE).phase is Phase.ANNOUNCED


# The delay before a fetch

SLOW = replace(TWO, max_delay_s=3600)


def test_a_release_waits_for_the_start_that_was_drawn_for_it():
    slot = Slot("wear").aimed(SLOW, start_ms=1_000_000.0)

    assert slot.wait_s(now_ms=400_000.0) == 600.0
    assert slot.wait_s(now_ms=1_000_001.0) == 0.0


@pytest.mark.parametrize(
    "change",
    [
        lambda slot: slot,
        lambda slot: slot.restarted(1.0),
        lambda slot: slot.aimed(None),
        lambda slot: slot.aimed(replace(SLOW, rollout_percent=50), 7.0),
    ],
)
def test_neither_restarts_nor_new_terms_draw_the_start_anew(change):
    slot = change(Slot("wear").aimed(SLOW, start_ms=1_000_000.0)).aimed(SLOW, start_ms=5.0)

    assert slot.start == Start(SLOW.sha256, 1_000_000.0)


def test_another_release_has_a_start_of_its_own():
    slot = Slot("wear").aimed(SLOW, start_ms=1_000_000.0).aimed(replace(SLOW, sha256="3" * 64), 5.0)

    assert slot.start == Start("3" * 64, 5.0)


def test_the_wait_is_never_longer_than_what_is_signed_whatever_the_clock_does():
    slot = Slot("wear").aimed(SLOW, start_ms=1e15)

    assert slot.wait_s(now_ms=0.0) == 3600
    assert slot.aimed(replace(SLOW, max_delay_s=10)).wait_s(now_ms=0.0) == 10
