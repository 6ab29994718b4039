"""Champions that were loaded before it was known which backend is the best for them."""

from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs
from support.climbs import failed

from atoll_agent.supervisor.comparison import compare_champions
from atoll_contract.errors import Reason


@pytest.fixture
def restarted(world):
    """The champion of ``big`` was loaded after a restart, under other versions than its contest was held."""
    world.climb(1)
    sha256 = world.slots["big"].champion.sha256
    world.store.write_contest(sha256, b"")
    world.restart()
    champion = world.slots["big"].champion
    predictor = world.means.loader.load(champion, world.plans["big"].wish, may_wait=False)
    world.slots.predictors["big"] = predictor
    return world


def compare(world) -> None:
    world.loop.run(compare_champions(world.plans, world.slots, world.means))


def test_such_a_champion_is_compared_and_moved_while_it_answers(restarted):
    before = restarted.slots.predictors["big"]

    compare(restarted)

    after = restarted.slots.predictors["big"]
    assert before.why == "not compared with others yet"
    assert "µs" in after.why
    assert restarted.lane.heard == [1, 1]
    assert not restarted.means.loader.is_unsettled(restarted.slots["big"].champion.sha256)


def test_a_champion_whose_contest_is_known_is_left_alone(restarted):
    compare(restarted)
    compare(restarted)

    assert restarted.lane.heard == [1, 1]


def test_one_whose_comparison_is_broken_off_is_compared_later(restarted):
    restarted.during_examination = lambda: asyncio.current_task().cancel()
    with pytest.raises(asyncio.CancelledError):
        compare(restarted)
    restarted.during_examination = lambda: None

    compare(restarted)

    assert restarted.lane.heard == [1, 1]


def test_one_that_cannot_be_compared_goes_on_where_it_is(restarted):
    restarted.examined = failed(Reason.SELF_TEST_CRASHED, is_refusal=True)

    with capture_logs() as logs:
        compare(restarted)

    assert restarted.lane.heard == [1]
    assert [line["reason"] for line in logs if line["event"] == "champion.uncompared"] == [
        "self_test_crashed"
    ]


def test_a_champion_that_another_release_took_the_place_of_meanwhile_does_not_come_back(restarted):
    def replace() -> None:
        restarted.slots.lose_champion("big", Reason.STORAGE, "gone")

    restarted.during_examination = replace

    compare(restarted)

    assert restarted.lane.heard == [1]
