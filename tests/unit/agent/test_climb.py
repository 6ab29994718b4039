"""How models climb to their releases, beside each other, with children that do what the test says."""

from __future__ import annotations

from dataclasses import replace

import pytest
from structlog.testing import capture_logs
from support.climbs import failed, release

from atoll_agent.rollout.machine import Phase
from atoll_contract.errors import Reason, RequestRefusedError


def test_a_model_announced_later_does_not_wait_for_a_large_bundle_to_end(world):
    world.turns["big"] = 4

    world.run(
        lambda: world.champion("big") and world.champion("small"),
        start=world.offer(release("big"), release("small")),
    )

    assert world.fetches == ["big 1", "small 1", "big 1", "big 1", "big 1"]


def test_a_newer_release_takes_the_place_of_one_that_is_being_fetched(world):
    world.turns["big"] = 3
    world.during_turn = lambda: len(world.fetches) == 1 and world.climbs["big"].offer(release("big", 2))

    world.run(lambda: world.champion("big") == 2, start=world.offer(release("big", 1)))

    assert world.fetches == ["big 1", "big 2", "big 2"]


def test_a_release_withdrawn_while_it_is_fetched_is_not_fetched_on(world):
    world.turns["big"] = 3
    world.during_turn = world.withdraw

    world.run(
        lambda: world.slots["big"].phase is Phase.IDLE and world.fetches, start=world.offer(release("big"))
    )

    assert world.fetches == ["big 1"]
    assert world.champion("big") is None


def test_terms_signed_anew_during_a_fetch_do_not_begin_it_anew(world):
    world.turns["big"] = 3
    wider = release("big", rollout_percent=50)
    world.during_turn = lambda: world.climbs["big"].offer(wider)
    part = world.store.bundle_path(wider.sha256).with_suffix(".part")
    part.write_bytes(b"so far")

    world.run(lambda: world.champion("big"), start=world.offer(release("big")))

    assert len(world.fetches) == 3
    assert world.slots["big"].champion == wider
    assert part.exists()


def test_a_signed_delay_is_waited_for_and_a_restart_draws_none_anew(world):
    slow = release("big", max_delay_s=604_800)
    world.run(lambda: world.slots["big"].challenger, start=world.offer(slow))
    drawn = world.slots["big"].start

    for _ in range(3):
        world.restart()
        world.run(lambda: world.champion("small"), start=world.offer(slow, release("small")))
        world.slots.keep(replace(world.slots["small"], champion=None, phase=Phase.IDLE))
        world.turns["small"] = 1

    assert world.slots["big"].start == drawn
    assert drawn.time_ms > 0
    assert "big 1" not in world.fetches


def test_a_delay_signed_away_is_over(world):
    world.run(lambda: world.slots["big"].challenger, start=world.offer(release("big", max_delay_s=604_800)))

    world.run(lambda: world.champion("big"), start=world.offer(release("big")))


def test_after_a_restart_nothing_is_begun_before_the_metadata_are_known(world):
    world.failures = [failed(Reason.MISSING_CHUNK)]
    world.run(lambda: world.slots["big"].failure, start=world.offer(release("big")))
    world.restart()
    world.fetches.clear()

    world.run(lambda: world.champion("small"), start=world.offer(release("small")))
    assert world.fetches == ["small 1"]

    world.run(lambda: world.champion("big"), start=world.offer(release("big")))


def test_what_was_missing_is_tried_again_at_the_next_announcement(world, never):
    world.failures = [failed(Reason.MISSING_CHUNK)]
    world.run(lambda: world.slots["big"].failure, start=world.offer(release("big")))

    world.run(lambda: world.champion("big"), start=world.offer(release("big")))

    assert world.slots["big"].failure is None


def test_wrong_bytes_are_not_fetched_again_at_every_announcement(world, never):
    world.failures = [failed(Reason.DIGEST_MISMATCH)]
    world.run(lambda: world.slots["big"].failure, start=world.offer(release("big")))

    world.run(lambda: world.champion("small"), start=world.offer(release("big"), release("small")))
    assert world.fetches == ["big 1", "small 1"]

    world.run(lambda: world.champion("big") == 2, start=world.offer(release("big", 2)))


def test_a_bundle_that_is_refused_before_it_is_fetched_is_remembered_and_another_is_asked_for(world):
    world.failures = [failed(Reason.TOO_LARGE, is_refusal=True)]

    world.run(lambda: world.refusals, start=world.offer(release("big")))

    assert world.slots["big"].phase is Phase.REFUSED
    assert world.slots["big"].bad_digests == {release("big").sha256}


# What cannot be stored

BIG = release("big")


def test_a_full_disk_at_the_announcement_delays_the_release_but_needs_no_other_announcement(world, soon):
    world.store.refuse_once(Phase.ANNOUNCED)

    world.run(lambda: world.champion("big"), start=world.offer(BIG))

    assert world.store.load_slot("big", "same").champion == BIG


def test_a_full_disk_at_an_announcement_is_not_asked_again_at_once(world, never):
    refused = []
    world.store.refuses = lambda slot: slot.model == "big" and not refused.append(slot)

    world.run(lambda: world.champion("small"), start=world.offer(BIG, release("small")))

    assert len(refused) == 1


@pytest.mark.parametrize(
    "phase",
    [Phase.FETCHING, Phase.VERIFYING, Phase.SELF_TEST, Phase.ACTIVATING, Phase.CHAMPION],
)
def test_a_full_disk_at_any_step_is_told_and_the_release_tried_again(world, soon, phase):
    world.store.refuse_once(phase)
    told = []
    world.slots.on_change = lambda model: told.append(world.slots[model].failure)

    world.run(lambda: world.champion("big"), start=world.offer(BIG))

    assert Reason.NO_SPACE in {failure.reason for failure in told if failure}
    assert world.store.load_slot("big", "same").champion == BIG
    assert world.fetches == ["big 1"]


def test_a_champion_that_cannot_be_stored_does_not_answer(world, soon):
    world.climb(1)
    world.store.refuses = lambda slot: slot.phase is Phase.CHAMPION

    world.run(lambda: world.slots["big"].failure, start=world.offer(release("big", 2)))

    assert (world.champion("big"), world.lane.heard) == (1, [1])
    assert world.slots.predictors["big"].manifest.release == 1


def test_a_refusal_that_cannot_be_stored_is_remembered_by_this_process(world, soon):
    world.failures = [failed(Reason.TOO_LARGE, is_refusal=True)]
    world.store.refuses = lambda slot: slot.phase is Phase.REFUSED

    world.run(lambda: world.refusals, start=world.offer(BIG))
    world.turns["small"] = 1
    world.run(lambda: world.champion("small"), start=world.offer(BIG, release("small")))

    assert world.phase() is Phase.REFUSED
    assert world.fetches == ["big 1", "small 1"]


def test_a_refusal_is_stored_as_soon_as_there_is_room(world, soon):
    world.failures = [failed(Reason.TOO_LARGE, is_refusal=True)]
    world.store.refuse_once(Phase.REFUSED)
    world.run(lambda: world.refusals, start=world.offer(BIG))
    assert world.store.load_slot("big", "same").bad == ()

    world.run(lambda: world.store.load_slot("big", "same").bad, start=world.withdraw)

    assert world.store.load_slot("big", "same").bad_digests == {BIG.sha256}


def test_a_refusal_that_could_not_be_stored_is_stored_at_a_stop(world, never):
    world.failures = [failed(Reason.TOO_LARGE, is_refusal=True)]
    world.store.refuse_once(Phase.REFUSED)
    world.run(lambda: world.refusals, start=world.offer(BIG))

    world.slots.stop()

    assert world.store.load_slot("big", "same").bad_digests == {BIG.sha256}


def test_a_stop_on_a_full_disk_stores_what_it_can_and_is_clean(world):
    world.turns = {"big": 50, "small": 50}
    busy = Phase.FETCHING
    world.run(
        lambda: {world.slots[model].phase for model in world.turns} == {busy},
        start=world.offer(BIG, release("small")),
    )
    world.store.refuses = lambda slot: slot.model == "big"

    with capture_logs() as events:
        world.slots.stop()

    assert [(event["event"], event["model"], event["reason"]) for event in events] == [
        ("slot.unsaved", "big", "no_space")
    ]
    assert '"announced"' in (world.store.folder / "slots" / "small.json").read_text()


# What is wanted changes meanwhile


def test_a_release_withdrawn_while_it_is_examined_does_not_become_the_champion(world):
    world.climb(1)
    world.during_examination = lambda: world.climbs["big"].offer(BIG)

    world.run(lambda: world.phase() is Phase.IDLE, start=world.offer(release("big", 2)))

    assert (world.champion("big"), world.lane.heard) == (1, [1])


def test_an_offer_made_before_the_release_was_refused_does_not_bring_it_back(world):
    world.failures = [failed(Reason.TOO_LARGE, is_refusal=True)]
    world.during_turn = world.offer(replace(BIG, rollout_percent=50))

    world.run(lambda: world.refusals, start=world.offer(BIG))
    world.run(lambda: world.champion("small"), start=world.offer(BIG, release("small")))

    assert world.phase() is Phase.REFUSED
    assert world.fetches == ["big 1", "small 1"]


def test_a_delay_that_somebody_skips_is_over_for_this_release_alone(world):
    slow = release("big", max_delay_s=604_800)
    world.run(lambda: world.slots["big"].challenger, start=world.offer(slow))

    world.run(lambda: world.champion("big") == 1, start=lambda: world.climbs["big"].skip_delay(1))
    world.run(
        lambda: world.slots["big"].challenger, start=world.offer(release("big", 2, max_delay_s=604_800))
    )

    assert world.fetches == ["big 1"]


def test_a_skipped_delay_stays_skipped_over_a_restart(world):
    slow = release("big", max_delay_s=604_800)
    world.run(lambda: world.slots["big"].challenger, start=world.offer(slow))
    world.climbs["big"].skip_delay(None)
    world.restart()

    world.run(lambda: world.champion("big") == 1, start=world.offer(slow))


def test_where_nothing_waits_there_is_nothing_to_skip(world):
    for wanted in (None, 1):
        with pytest.raises(RequestRefusedError) as caught:
            world.climbs["big"].skip_delay(wanted)
        assert caught.value.reason is Reason.NOTHING_WAITS
    world.run(lambda: world.slots["big"].challenger, start=world.offer(release("big", max_delay_s=604_800)))
    with pytest.raises(RequestRefusedError, match="release 7 is not what waits"):
        world.climbs["big"].skip_delay(7)
