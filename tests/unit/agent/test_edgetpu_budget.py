from __future__ import annotations

from atoll_agent.adapters.edgetpu import EdgeTpu
from atoll_agent.adapters.edgetpu_care import Budget, Care, Placed
from atoll_contract.errors import AcceleratorLostError, BundleRejectedError, Reason


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


def test_a_model_that_ends_the_child_twice_waits_ever_longer_and_is_tried_again():
    # ends at 0 and 10: waits until 70, 70 + 120, 190 + 240 ... at most 16 times 60 s
    placed = Placed(b"", (None, None), lambda _model: None)
    placed.ended("SIGABRT", 0.0, 60.0)
    assert placed.is_due(0.0)

    now_s, waits = 10.0, []
    for _ in range(7):
        placed.ended("SIGABRT", now_s, 60.0)
        placed.forgive()  # of a new child
        wait_s = next(s for s in range(2000) if placed.is_due(now_s + s))
        waits.append(wait_s)
        now_s += wait_s

    assert waits == [60, 120, 240, 480, 960, 960, 960]
    assert isinstance(placed.fault, AcceleratorLostError)  # nothing is said against the bundle
    placed.passed()
    assert placed.fault is None
    placed.ended("SIGABRT", now_s, 60.0)
    assert placed.is_due(now_s)


def test_a_model_that_is_refused_by_a_device_that_answers_waits_for_the_next_child():
    placed = Placed(b"", (None, None), lambda _model: None)
    for _ in range(2):
        placed.ended("SIGABRT", 0.0, 60.0)
    assert placed.is_due(60.0)

    placed.refused(BundleRejectedError("other outputs", Reason.GOLDEN_MISMATCH))

    assert not placed.is_due(1e6)
    placed.forgive()
    assert placed.is_due(60.0)


def test_a_device_that_is_back_gets_all_models_again_unless_it_was_only_reset():
    tpu = EdgeTpu(None, Care(), (), lambda: None)
    tpu._models[1] = placed = Placed(b"", (None, None), lambda _model: None)
    for _ in range(2):
        placed.ended("SIGABRT", 0.0, 60.0)

    for now_s, is_there in ((1.0, False), (2.0, False), (3.0, True)):
        tpu._note_presence(now_s, is_there=is_there)
    placed.forgive()
    assert not placed.is_due(3.0)

    for now_s, is_there in ((4.0, False), (5.0, False), (7.0, True)):
        tpu._note_presence(now_s, is_there=is_there)
    placed.forgive()
    assert placed.is_due(7.0)
