"""Where times step back."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll_signal.order import StepBack, describe, steps_back

MIN = 60_000.0


def at(*moment: int) -> float:
    return datetime(*moment, tzinfo=UTC).timestamp() * 1e3


def test_a_repeated_hour_is_one_step_that_counts_all_its_readings():
    start = at(2013, 12, 16, 17, 0)
    times = [start + 5 * MIN * number for number in range(6)]  # 17:00 to 17:25
    times += [at(2013, 12, 16, 16, 30) + 5 * MIN * number for number in range(14)]  # 16:30 to 17:35

    (step,) = steps_back(times, first_row=2)

    assert step == StepBack(
        row=8, from_ms=at(2013, 12, 16, 17, 25), to_ms=at(2013, 12, 16, 16, 30), readings=12
    )
    assert describe(step) == (
        "row 8: time steps back from 2013-12-16 17:25 to 16:30 (55 min): "
        "12 readings repeat times already seen"
    )


def test_rows_are_told_with_thousands_and_a_step_over_midnight_with_both_days():
    step = StepBack(row=10_151, from_ms=at(2014, 1, 7, 0, 0, 5), to_ms=at(2014, 1, 6, 23, 0), readings=1)

    assert describe(step) == (
        "row 10,151: time steps back from 2014-01-07 00:00:05 to 2014-01-06 23:00:00 (1 h): "
        "1 reading repeats times already seen"
    )


@pytest.mark.parametrize(
    ("span_ms", "words"),
    [
        (0.5, "0.0005 s"),
        (1500, "1.5 s"),
        (90_000, "1 min 30 s"),
        (59.999 * MIN, "1 h"),
        (65 * MIN, "1 h 5 min"),
        (25.5 * 60 * MIN, "1 d 2 h"),
        (119.9 * MIN, "2 h"),
        (23.6 * 60 * MIN, "23 h 36 min"),
    ],
)
def test_the_length_of_a_step_is_told_in_its_two_largest_units(span_ms, words):
    assert f"({words})" in describe(StepBack(1, 1e12, 1e12 - span_ms, 1))


def test_a_step_within_a_step_is_told_as_well():
    #            1  2  3  4 | 2  3 | 1  2  3  4 | 5
    assert steps_back([1, 2, 3, 4, 2, 3, 1, 2, 3, 4, 5]) == [
        StepBack(row=5, from_ms=4, to_ms=2, readings=6),
        StepBack(row=7, from_ms=3, to_ms=1, readings=4),
    ]


def test_a_step_that_never_catches_up_counts_to_the_end():
    assert steps_back([10, 1, 2, 3]) == [StepBack(row=2, from_ms=10, to_ms=1, readings=3)]


def test_equal_times_are_no_step():
    assert steps_back([1, 1, 2, 2]) == []
    assert steps_back([]) == []


@given(st.lists(st.integers(0, 50)))
def test_every_fall_is_a_step_and_counts_the_readings_up_to_a_new_highest_time(times):
    steps = steps_back(times)

    falls = [row for row in range(1, len(times)) if times[row] < times[row - 1]]
    assert [step.row - 1 for step in steps] == falls
    for step in steps:
        start = step.row - 1
        rest = [time > max(times[:start]) for time in times[start:]]
        assert step.readings == (rest.index(True) if True in rest else len(rest))
