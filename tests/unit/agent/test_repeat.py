from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from atoll_agent.lane.repeat import MEMORY, Repeats


@given(st.lists(st.integers(0, MEMORY - 1), max_size=200))
def test_a_number_is_a_repeat_exactly_when_it_was_taken(numbers):
    repeats, taken = Repeats(10, Counter()), set()

    for number in numbers:
        assert repeats.is_repeat("d", "b", number) is (number in taken)
        taken.add(number)


def test_a_new_boot_starts_anew():
    repeats = Repeats(10, Counter())

    assert not repeats.is_repeat("d", "one", 5)
    assert not repeats.is_repeat("d", "two", 5)


def test_a_number_further_back_than_the_memory_counts_as_new():
    repeats = Repeats(10, Counter())
    repeats.is_repeat("d", "b", 10 * MEMORY)

    assert not repeats.is_repeat("d", "b", 1)


def test_memory_is_bounded_by_devices():
    repeats = Repeats(2, Counter())

    for device in ("a", "b", "c"):
        repeats.is_repeat(device, "b", 1)

    assert not repeats.is_repeat("a", "b", 1)
    assert repeats.is_repeat("c", "b", 1)


@given(st.lists(st.integers(0, MEMORY - 1), min_size=1, max_size=200))
def test_what_is_missing_is_what_lies_between_the_numbers_that_came(numbers):
    counts: Counter[str] = Counter()
    repeats = Repeats(10, counts)

    for number in numbers:
        repeats.is_repeat("d", "b", number)

    # What was before the first one, nobody knows.
    came = {number for number in numbers if number >= numbers[0]}
    assert counts["readings_missing"] == max(numbers) - numbers[0] + 1 - len(came)


def test_what_is_missing_comes_from_as_far_back_as_it_may():
    counts: Counter[str] = Counter()
    repeats = Repeats(10, counts)

    for number in (1, 5 * MEMORY, *range(2, 5 * MEMORY - 3)):  # a backlog follows what is live
        repeats.is_repeat("d", "b", number)

    assert counts["readings_missing"] == 3


def test_a_backlog_from_before_the_first_reading_hides_no_loss():
    counts: Counter[str] = Counter()
    repeats = Repeats(10, counts)

    for number in (1000, *range(990, 1000), 1003):
        repeats.is_repeat("d", "b", number)

    assert counts["readings_missing"] == 2


def test_a_new_run_of_a_device_misses_nothing():
    counts: Counter[str] = Counter()
    repeats = Repeats(10, counts)

    repeats.is_repeat("d", "one", 5)
    repeats.is_repeat("d", "two", 500)

    assert counts["readings_missing"] == 0
