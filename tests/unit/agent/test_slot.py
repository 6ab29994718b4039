from __future__ import annotations

from dataclasses import replace

import pytest

from atoll_agent.rollout.machine import Event, Phase
from atoll_agent.rollout.release import Release
from atoll_agent.rollout.slot import MAX_BAD, Slot, Start
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
    slot = slot.offered(release)
    for event in WAY_UP[:steps]:
        slot = slot.advanced(event)
    return slot


def test_a_release_becomes_the_champion():
    slot = climbed(Slot("wear"), ONE)

    assert slot == Slot("wear", Phase.CHAMPION, champion=ONE, start=Start(ONE.sha256, 0.0))


def test_the_champion_offered_again_changes_nothing():
    slot = climbed(Slot("wear"), ONE)

    assert slot.offered(ONE) == slot


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


def test_an_interruption_is_told_and_the_release_stays_announced():
    slot = climbed(Slot("wear"), ONE, steps=1).interrupted(Reason.MISSING_CHUNK, "chunk 3", 1.0)

    assert slot.phase is Phase.ANNOUNCED
    assert slot.failure.reason is Reason.MISSING_CHUNK
    assert slot.bad == ()


def test_the_next_success_clears_the_failure():
    slot = climbed(Slot("wear"), ONE, steps=1).interrupted(Reason.MISSING_CHUNK, "chunk 3", 1.0)

    assert climbed(slot, ONE).failure is None


def test_a_withdrawn_champion_goes_on_and_says_so():
    slot = climbed(Slot("wear"), ONE).offered(None)

    assert slot.champion == ONE
    assert slot.is_withdrawn
    assert not slot.offered(ONE).is_withdrawn


def test_a_release_withdrawn_while_it_waits_is_forgotten():
    slot = Slot("wear").offered(ONE).offered(None)

    assert (slot.phase, slot.challenger, slot.is_withdrawn) == (Phase.IDLE, None, False)


def test_a_challenger_taken_back_in_favour_of_the_champion_is_forgotten():
    slot = climbed(Slot("wear"), ONE).offered(TWO).offered(ONE)

    assert (slot.phase, slot.challenger, slot.champion) == (Phase.IDLE, None, ONE)


def test_what_is_remembered_as_bad_is_bounded():
    slot = Slot("wear")
    for number in range(MAX_BAD + 5):
        release = Release("wear", number + 1, f"{number:064d}", 10)
        slot = climbed(slot, release, steps=2).refused(Reason.WRONG_MODEL, "", 0.0)

    assert len(slot.bad) == MAX_BAD


def test_changed_settings_or_versions_give_refused_releases_another_chance():
    slot = climbed(Slot("wear"), ONE, steps=2).refused(Reason.VALUES_MISSING, "", 0.0).forgiven()

    assert slot.bad_digests == frozenset()
    assert slot.offered(ONE).phase is Phase.ANNOUNCED


# The delay before a fetch

SLOW = replace(TWO, max_delay_s=3600)


def test_a_release_waits_for_the_start_that_was_drawn_for_it():
    slot = Slot("wear").offered(SLOW, start_ms=1_000_000.0)

    assert slot.wait_s(now_ms=400_000.0) == 600.0
    assert slot.wait_s(now_ms=1_000_001.0) == 0.0


@pytest.mark.parametrize(
    "change",
    [
        lambda slot: slot,
        lambda slot: slot.restarted(1.0),
        lambda slot: slot.offered(None),
        lambda slot: slot.offered(replace(SLOW, rollout_percent=50), 7.0),
    ],
)
def test_neither_restarts_nor_new_terms_draw_the_start_anew(change):
    slot = change(Slot("wear").offered(SLOW, start_ms=1_000_000.0)).offered(SLOW, start_ms=5.0)

    assert slot.start == Start(SLOW.sha256, 1_000_000.0)


def test_another_release_has_a_start_of_its_own():
    slot = Slot("wear").offered(SLOW, start_ms=1_000_000.0).offered(replace(SLOW, sha256="3" * 64), 5.0)

    assert slot.start == Start("3" * 64, 5.0)


def test_the_wait_is_never_longer_than_what_is_signed_whatever_the_clock_does():
    slot = Slot("wear").offered(SLOW, start_ms=1e15)

    assert slot.wait_s(now_ms=0.0) == 3600
    assert slot.offered(replace(SLOW, max_delay_s=10)).wait_s(now_ms=0.0) == 10
