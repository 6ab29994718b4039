"""When the next attempt to connect is due, and which version of MQTT it speaks."""

from __future__ import annotations

import random

import pytest

from atoll_link.attempts import Backoff, LevelChoice
from atoll_link.packets import Level

OLD, NEW = Level.MQTT_311, Level.MQTT_5
HOUR = 3600.0


def test_the_first_attempt_speaks_mqtt_5() -> None:
    assert LevelChoice().choose(0.0) is NEW


@pytest.mark.parametrize("was_refused", [True, False])
def test_a_broker_that_never_accepted_mqtt_5_is_spoken_to_in_the_old_one_at_once(
    *, was_refused: bool
) -> None:
    choice = LevelChoice()

    assert choice.fail(NEW, was_refused=was_refused)
    assert choice.choose(1.0) is OLD
    choice.accept(OLD, 1.0)
    assert choice.choose(2.0) is OLD
    assert choice.choose(HOUR) is OLD
    assert choice.choose(HOUR + 1.0) is NEW  # the broker may be a newer one by now


def test_a_failure_is_forgotten_when_the_old_version_fails_too() -> None:
    choice = LevelChoice()
    choice.fail(NEW, was_refused=False)
    choice.choose(1.0)

    assert not choice.fail(OLD, was_refused=False)
    assert choice.choose(2.0) is NEW


def test_a_broker_that_has_spoken_mqtt_5_stays_with_it_when_a_connection_fails() -> None:
    choice = LevelChoice()
    choice.accept(NEW, 0.0)

    assert not choice.fail(NEW, was_refused=False)
    assert choice.choose(1.0) is NEW


def test_a_broker_that_was_replaced_by_an_older_one_that_says_nothing_is_reached() -> None:
    choice = LevelChoice()
    choice.accept(NEW, 0.0)
    for _ in range(4):
        assert not choice.fail(choice.choose(1.0), was_refused=False)

    assert choice.fail(choice.choose(1.0), was_refused=False)
    assert choice.choose(1.0) is OLD
    choice.accept(OLD, 1.0)
    assert choice.choose(2.0) is OLD


def test_a_broker_that_answers_again_is_given_as_much_time_as_before() -> None:
    choice = LevelChoice()
    for _ in range(3):
        choice.accept(NEW, 0.0)
        for _ in range(4):
            assert not choice.fail(choice.choose(1.0), was_refused=False)


def test_a_broker_that_was_replaced_by_an_older_one_is_reached() -> None:
    choice = LevelChoice()
    choice.accept(NEW, 0.0)

    assert choice.fail(NEW, was_refused=True)
    assert choice.choose(1.0) is OLD


class Highest(random.Random):
    """Draws the longest wait that there may be."""

    def uniform(self, _low: float, high: float) -> float:
        return high


def waits(backoff: Backoff, *, is_accepted: bool) -> list[float]:
    found = []
    for _ in range(9):
        if is_accepted:
            backoff.lose(100.0, stood_s=1.0)
        else:
            backoff.fail(100.0)
        found.append(backoff.until - 100.0)
    return found


def test_a_broker_that_is_away_is_tried_less_and_less_often() -> None:
    assert waits(Backoff(source=Highest()), is_accepted=False) == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_a_line_that_is_cut_again_and_again_is_tried_after_a_few_seconds_each_time() -> None:
    assert waits(Backoff(source=Highest()), is_accepted=True) == [0.5, 1, 2, 4, 4, 4, 4, 4, 4]
