from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from atoll_agent.lane.repeat import MEMORY, Repeats


@given(st.lists(st.integers(0, MEMORY - 1), max_size=200))
def test_a_number_is_a_repeat_exactly_when_it_was_taken(numbers):
    repeats, taken = Repeats(10), set()

    for number in numbers:
        assert repeats.is_repeat("d", "b", number) is (number in taken)
        taken.add(number)


def test_a_new_boot_starts_anew():
    repeats = Repeats(10)

    assert not repeats.is_repeat("d", "one", 5)
    assert not repeats.is_repeat("d", "two", 5)


def test_a_number_further_back_than_the_memory_counts_as_new():
    repeats = Repeats(10)
    repeats.is_repeat("d", "b", 10 * MEMORY)

    assert not repeats.is_repeat("d", "b", 1)


def test_memory_is_bounded_by_devices():
    repeats = Repeats(2)

    for device in ("a", "b", "c"):
        repeats.is_repeat(device, "b", 1)

    assert not repeats.is_repeat("a", "b", 1)
    assert repeats.is_repeat("c", "b", 1)
