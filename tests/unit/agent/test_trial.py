from __future__ import annotations

import random

import pytest

from atoll_agent.rollout.trial import Mean, Outcome, TrialPhase
from atoll_contract.errors import Reason
from atoll_contract.manifest import PassRules, Task


def phase(task=Task.REGRESSION, windows=3, champion_error=None, **rules) -> TrialPhase:
    return TrialPhase(PassRules(**rules), task, windows, started_s=100.0, champion_error=champion_error)


def test_it_passes_after_as_many_windows_as_were_asked_for_and_not_before():
    one = phase()

    one.answered(1.0)
    one.answered(1.0)
    before = one.verdict(100.0)
    one.answered(1.0)

    assert before is None
    assert one.verdict(100.0).outcome is Outcome.PASSED


def test_a_phase_of_no_windows_passes_at_once():
    assert phase(windows=0).verdict(100.0).outcome is Outcome.PASSED


def test_when_its_time_is_over_what_was_seen_decides_and_nothing_seen_decides_nothing():
    one = phase(max_s=10.0)

    unseen = one.verdict(111.0)
    one.answered(1.0)

    assert unseen is None
    assert one.verdict(109.0) is None
    assert one.verdict(110.0).outcome is Outcome.PASSED


@pytest.mark.parametrize(("value", "is_out"), [(-0.1, True), (10.1, True), (0.0, False), (10.0, False)])
def test_one_value_outside_its_range_fails_it_at_once(value, is_out):
    one = phase(low=0.0, high=10.0)

    one.answered(value)

    verdict = one.verdict(100.0)
    assert (verdict.reason if verdict else None) is (Reason.OUTPUT_OUT_OF_RANGE if is_out else None)


def test_the_first_breach_is_the_one_that_is_told():
    one = phase(low=0.0)

    one.broke(Reason.OUTPUT_NOT_FINITE, "NaN")
    one.answered(-1.0)

    assert one.verdict(100.0).reason is Reason.OUTPUT_NOT_FINITE


def test_a_few_slow_answers_are_no_breach_and_half_of_the_last_twenty_are():
    one = phase(windows=1000, latency_ms=5.0)

    for answer_s in [0.001] * 20 + [0.1] * 9:
        one.timed(answer_s)
    few = one.verdict(100.0)
    one.timed(0.1)

    assert few is None
    assert one.verdict(100.0).reason is Reason.TOO_SLOW


def test_disagreement_is_a_mean_difference_and_for_a_classifier_a_share():
    number, label = (
        phase(task, windows=4, max_disagreement=0.4) for task in (Task.REGRESSION, Task.CLASSIFICATION)
    )

    for one in (number, label):
        for champion, challenger in ((1, 1), (1, 1), (1, 4), (1, 1)):
            one.answered(challenger)
            one.compared(champion, challenger)

    assert number.disagreement.value == 0.75
    assert number.verdict(100.0).reason is Reason.CHAMPION_DISAGREES
    assert label.disagreement.value == 0.25
    assert label.verdict(100.0).outcome is Outcome.PASSED


def test_where_disagreement_counts_windows_that_were_not_compared_do_not_suffice():
    one = phase(windows=2, max_disagreement=1.0)

    one.answered(1.0)
    one.answered(1.0)
    uncompared = one.verdict(100.0)
    one.compared(1.0, 1.0)
    one.compared(1.0, 1.0)

    assert uncompared is None
    assert one.verdict(100.0).outcome is Outcome.PASSED


def test_once_labels_arrive_enough_of_them_are_waited_for():
    one = phase(windows=1, min_labels=2)

    one.answered(1.0)
    one.labelled(1.0, 1.0, 1.0)
    waiting = one.verdict(100.0)
    one.labelled(1.0, 1.0, 1.0)

    assert waiting is None
    assert one.verdict(100.0).outcome is Outcome.PASSED


def test_an_error_that_is_always_too_large_fails_it_with_the_least_labels():
    one = phase(windows=1000, min_labels=2, max_error=1.0, max_error_ratio=0)

    one.labelled(5.0, 9.0)
    early = one.verdict(100.0)
    one.labelled(5.0, 9.0)

    assert early is None
    assert one.verdict(100.0).reason is Reason.ERROR_TOO_LARGE


def test_on_probation_the_error_is_held_against_that_of_the_champion_in_shadow():
    good, bad = (phase(windows=1000, champion_error=1.0, min_labels=5, max_error_ratio=1.5) for _ in range(2))

    for number in range(10):
        good.labelled(0.0, 1.2 + 0.02 * number)
        bad.labelled(0.0, 2.2 + 0.02 * number)

    assert good.verdict(100.0) is None
    assert bad.verdict(100.0).reason is Reason.ERROR_TOO_LARGE


@pytest.mark.parametrize("share", [0.02, 0.05])
def test_releases_as_good_as_the_champion_are_hardly_ever_refused_by_chance(share):
    """300 classifiers with errors of their own, judged again at each of 200 labels."""
    draw = random.Random(7)
    refused = 0
    for _ in range(300):
        one = phase(Task.CLASSIFICATION, windows=10_000)
        for _ in range(200):
            one.answered(1.0)
            one.labelled(1.0, float(draw.random() >= share), float(draw.random() >= share))
            if one.verdict(100.0) is not None:
                refused += 1
                break

    assert refused <= 6


def test_a_release_that_is_wrong_five_times_as_often_is_refused():
    draw = random.Random(7)
    one = phase(Task.CLASSIFICATION, windows=10_000)

    for _ in range(300):
        one.labelled(1.0, float(draw.random() >= 0.25), float(draw.random() >= 0.05))

    assert one.verdict(100.0).reason is Reason.ERROR_TOO_LARGE


def trials_passed(wrong: float, *, of_champion: float, **rules) -> float:
    """Return the share of 100 classifiers that pass a phase of 50 windows with labels for every third."""
    draw, passed = random.Random(7), 0
    for _ in range(100):
        one, now_s = phase(Task.CLASSIFICATION, windows=50, **rules), 100.0
        while (verdict := one.verdict(now_s)) is None:
            now_s += 1.0
            one.answered(1.0)
            if now_s % 3 == 0:
                said = (float(draw.random() >= share) for share in (wrong, of_champion))
                one.labelled(1.0, *said)
        passed += verdict.outcome is Outcome.PASSED
    return passed / 100


def test_a_phase_goes_on_until_its_labels_decide():
    assert trials_passed(0.3, of_champion=0.0) <= 0.05
    assert trials_passed(0.3, of_champion=0.05, max_error=0.05) <= 0.05
    assert trials_passed(0.05, of_champion=0.05) >= 0.8
    assert trials_passed(0.01, of_champion=0.01, max_error=0.2) >= 0.95


def test_without_an_error_there_is_nothing_to_wait_for():
    one = phase(windows=2, min_labels=2)
    for _ in range(2):
        one.answered(1.0)
        one.labelled(1.0, 1.0, 1.0)

    assert one.verdict(100.0).outcome is Outcome.PASSED


@pytest.mark.parametrize(("left_out", "reason"), [(2, Reason.TOO_SLOW), (1, None)])
def test_who_answered_fewer_windows_than_it_was_asked_for_does_not_pass_by_the_clock(left_out, reason):
    one = phase(windows=3, max_s=10.0)

    one.answered(1.0)
    one.left_out = left_out

    assert one.verdict(109.0) is None
    assert one.verdict(110.0).reason is reason


def test_the_running_mean_is_the_mean_and_its_error_that_of_the_textbook():
    mean = Mean()

    for value in (2.0, 4.0, 9.0):
        mean.add(value)

    assert mean.value == pytest.approx(5.0)
    assert mean.standard_error == pytest.approx((13.0 / 3) ** 0.5)
