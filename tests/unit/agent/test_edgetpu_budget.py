from __future__ import annotations

from atoll_agent.adapters.edgetpu_care import Budget


def test_the_first_failure_waits_for_nothing_and_those_in_a_row_ever_longer():
    budget = Budget(restarts_per_minute=100, return_after_s=60)
    waits = []

    for _ in range(7):
        budget.failed(0.0, has_answered=False)
        waits.append(budget.wait_s(0.0))

    assert waits == [0.0, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    assert budget.in_row == 7


def test_an_answer_in_between_begins_the_row_anew():
    budget = Budget(restarts_per_minute=100, return_after_s=60)

    for has_answered in (False, False, True):
        budget.failed(0.0, has_answered=has_answered)

    assert budget.in_row == 1
    assert budget.wait_s(0.0) == 0.0


def test_more_failures_in_a_minute_than_allowed_let_it_rest():
    # 0  10  20 ... and the third within the minute rests until 20 + 60
    budget = Budget(restarts_per_minute=2, return_after_s=60)

    waits = []
    for now_s in (0.0, 10.0, 20.0):
        budget.failed(now_s, has_answered=True)
        waits.append(budget.wait_s(now_s))

    assert waits == [0.0, 0.0, 60.0]
    assert budget.wait_s(79.0) == 1.0
    assert budget.wait_s(80.0) == 0.0


def test_once_it_rests_each_failure_rests_again_until_it_has_lived_for_a_minute():
    budget = Budget(restarts_per_minute=0, return_after_s=300)
    budget.failed(0.0, has_answered=True)

    budget.failed(300.0, has_answered=True)
    assert budget.wait_s(300.0) == 300.0
    budget.lives(600.0, 659.0)
    assert budget.is_resting
    budget.lives(600.0, 660.0)
    assert not budget.is_resting


def test_failures_spread_over_minutes_are_no_burst():
    budget = Budget(restarts_per_minute=1, return_after_s=60)

    for now_s in (0.0, 61.0, 122.0):
        budget.failed(now_s, has_answered=True)

    assert not budget.is_resting
