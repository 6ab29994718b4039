from __future__ import annotations

import pytest

from atoll_agent.rollout.trial import Outcome, Trial
from atoll_contract.errors import Reason
from atoll_contract.manifest import PassRules, Task


def trial(task=Task.REGRESSION, windows=3, champion_error=None, **rules) -> Trial:
    return Trial(PassRules(**rules), task, windows, started_s=100.0, champion_error=champion_error)


def test_it_passes_after_as_many_windows_as_were_asked_for_and_not_before():
    one = trial()

    one.answered(1.0, 0.001)
    one.answered(1.0, 0.001)
    before = one.verdict(100.0)
    one.answered(1.0, 0.001)

    assert before is None
    assert one.verdict(100.0).outcome is Outcome.PASSED


def test_when_its_time_is_over_what_was_seen_decides_and_nothing_seen_decides_nothing():
    one = trial(max_s=10.0)

    unseen = one.verdict(111.0)
    one.answered(1.0, 0.001)

    assert unseen is None
    assert one.verdict(109.0) is None
    assert one.verdict(110.0).outcome is Outcome.PASSED


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (None, Reason.OUTPUT_NOT_FINITE),
        (-0.1, Reason.OUTPUT_OUT_OF_RANGE),
        (10.1, Reason.OUTPUT_OUT_OF_RANGE),
        (0.0, None),
        (10.0, None),
    ],
)
def test_one_value_that_may_not_be_fails_it_at_once(value, reason):
    one = trial(low=0.0, high=10.0)

    one.answered(value, 0.001)

    verdict = one.verdict(100.0)
    assert (verdict.reason if verdict else None) is reason


def test_a_few_slow_answers_are_no_breach_and_half_of_the_last_twenty_are():
    one = trial(windows=1000, latency_ms=5.0)

    for _ in range(20):
        one.answered(1.0, 0.001)
    for _ in range(9):
        one.answered(1.0, 0.1)
    few = one.verdict(100.0)
    one.answered(1.0, 0.1)

    assert few is None
    assert one.verdict(100.0).reason is Reason.TOO_SLOW


def test_disagreement_is_a_mean_difference_and_for_a_classifier_a_share():
    number, label = (
        trial(windows=4, max_disagreement=0.4),
        trial(Task.CLASSIFICATION, windows=4, max_disagreement=0.4),
    )

    for one in (number, label):
        for champion, challenger in ((1, 1), (1, 1), (1, 4), (1, 1)):
            one.answered(challenger, 0.001)
            one.compared(champion, challenger)

    assert number.disagreement.value == 0.75
    assert number.verdict(100.0).reason is Reason.CHAMPION_DISAGREES
    assert label.disagreement.value == 0.25
    assert label.verdict(100.0).outcome is Outcome.PASSED


def test_errors_are_judged_once_there_are_labels_enough():
    one = trial(windows=1000, min_labels=2, max_error=1.0, max_error_ratio=0)

    one.labelled(5.0, 9.0)
    early = one.verdict(100.0)
    one.labelled(5.0, 9.0)

    assert early is None
    assert one.verdict(100.0).reason is Reason.ERROR_TOO_LARGE


def test_on_probation_the_error_is_held_against_that_of_the_champion_in_shadow():
    one = trial(windows=1000, champion_error=1.0, min_labels=2, max_error_ratio=1.5)

    one.labelled(0.0, 1.4)
    one.labelled(0.0, 1.4)
    good = one.verdict(100.0)
    one.labelled(0.0, 2.0)

    assert good is None
    assert one.verdict(100.0).reason is Reason.ERROR_TOO_LARGE
