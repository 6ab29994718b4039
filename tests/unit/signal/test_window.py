from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from atoll_contract.manifest import WindowKind, WindowSpec
from atoll_signal.window import Window, Windows


def row(value: float) -> bytes:
    return np.array([value], np.float32).tobytes()


def windows(length: int, **options) -> Windows:
    return Windows(WindowSpec(length=length), 1, max_devices=10, **options)


@given(st.integers(1, 9), st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40))
def test_a_window_holds_the_last_rows_in_order_of_arrival(length, values):
    window = Window(WindowSpec(length=length), 1)

    for number, value in enumerate(values):
        window.push(row(value), float(number))

    assert window.rows[:, 0].tolist() == values[-length:]
    assert window.times_ms == list(map(float, range(len(values))))[-length:]
    assert window.is_full == (len(values) >= length)


def test_a_sliding_window_completes_at_every_reading_once_full():
    kept = windows(3)

    # arrivals  0  1  2  3  4
    # complete        x  x  x
    completed = [kept.push("a", row(n), n) is not None for n in range(5)]

    assert completed == [False, False, True, True, True]


def test_a_tumbling_window_does_not_overlap():
    kept = Windows(WindowSpec(kind=WindowKind.TUMBLING, length=2), 1, max_devices=10)

    completed = [kept.push("a", row(n), n) for n in range(5)]

    assert [window is not None for window in completed] == [False, True, False, True, False]


def test_devices_have_windows_of_their_own():
    kept = windows(2)

    kept.push("a", row(1), 0)
    kept.push("b", row(2), 0)
    window = kept.push("a", row(3), 1)

    assert window is not None
    assert window.rows[:, 0].tolist() == [1, 3]


def test_a_step_back_in_time_neither_drops_a_reading_nor_resets_the_window():
    kept = windows(3)

    for time_ms in (10, 20, 5):
        window = kept.push("a", row(time_ms), time_ms)

    assert window is not None
    assert window.times_ms == [10, 20, 5]


def test_readings_further_apart_than_the_limit_are_a_gap():
    kept = Windows(WindowSpec(length=2, max_gap_ms=10), 1, max_devices=10)

    kept.push("a", row(0), 0)
    near = kept.push("a", row(0), 10)
    near_has_gap = near.take_gap()
    far = kept.push("a", row(0), 30)

    assert not near_has_gap
    assert far.take_gap()


@given(
    st.integers(1, 5),
    st.lists(st.floats(-100, 100), min_size=1, max_size=30),
    st.sampled_from(WindowKind),
)
def test_a_window_has_a_gap_exactly_while_one_is_inside(length, steps, kind):
    kept = Windows(WindowSpec(kind=kind, length=length, max_gap_ms=50), 1, max_devices=10)

    for time_ms in np.cumsum(steps).tolist():
        window = kept.push("a", row(0), time_ms)
        if window is not None:
            assert window.take_gap() is bool((np.diff(window.times_ms) > 50).any())
            assert window.start_ms == window.times_ms[0]


def test_the_first_window_after_a_restart_says_gap_once():
    kept = windows(2, has_restarted=True)

    kept.push("a", row(0), 0)
    first = kept.push("a", row(0), 1).take_gap()
    second = kept.push("a", row(0), 2).take_gap()

    assert (first, second) == (True, False)


def test_the_longest_silent_device_is_forgotten_when_there_is_no_room():
    kept = Windows(WindowSpec(length=2), 1, max_devices=2)

    for device in ("a", "b", "a", "c"):
        kept.push(device, row(0), 0)

    assert [device for device, _ in kept] == ["a", "c"]
    assert kept.forgotten == 1


@given(st.integers(1, 6), st.integers(1, 6), st.lists(st.floats(-100, 100), min_size=1, max_size=20))
def test_a_window_that_begins_with_another_is_as_if_it_had_seen_the_readings_itself(old, new, steps):
    def kept(length: int) -> Windows:
        return Windows(WindowSpec(length=length, max_gap_ms=50), 1, max_devices=10)

    first, second, witness = kept(old), kept(new), kept(new)
    times = np.cumsum(steps).tolist()
    for number, time_ms in enumerate(times):
        first.push("a", row(number), time_ms)
        if number >= len(times) - old:
            witness.push("a", row(number), time_ms)
    second.adopt(first)

    for number in range(7):
        windows = [each.push("a", row(100 + number), times[-1] + number) for each in (second, witness)]
        assert [window is None for window in windows] in ([True, True], [False, False])
        if windows[0] and windows[1]:
            assert windows[0].rows.tolist() == windows[1].rows.tolist()
            assert windows[0].times_ms == windows[1].times_ms
            assert windows[0]._gap_left == windows[1]._gap_left


def test_a_device_that_comes_back_after_some_were_forgotten_says_gap():
    kept = Windows(WindowSpec(length=2), 1, max_devices=1)

    for device in ("a", "b", "a"):
        kept.push(device, row(0), 0)

    assert kept.push("a", row(0), 1).take_gap()


def test_a_new_release_goes_on_with_the_windows_of_the_old_one():
    old, same, shorter, longer = windows(3), windows(3), windows(2), windows(4)
    for n in range(3):
        old.push("a", row(n), n)

    for new in (same, shorter, longer):
        new.adopt(old)

    assert same.push("a", row(3), 3).rows[:, 0].tolist() == [1, 2, 3]
    assert shorter.push("a", row(3), 3).rows[:, 0].tolist() == [2, 3]
    assert longer.push("a", row(3), 3).rows[:, 0].tolist() == [0, 1, 2, 3]


def test_when_the_clock_is_set_only_windows_dated_by_arrival_move():
    kept = Windows(WindowSpec(length=2, max_gap_ms=1000), 1, max_devices=10)
    for device in ("by-arrival", "by-event"):
        kept.push(device, row(1.0), 5000.0)

    kept.shift(1e12, {"by-arrival", "gone"})

    moved = kept.push("by-arrival", row(2.0), 1e12 + 5500.0)
    stayed = kept.push("by-event", row(2.0), 5500.0)
    assert (moved.start_ms, moved.take_gap()) == (1e12 + 5000.0, False)
    assert (stayed.start_ms, stayed.take_gap()) == (5000.0, False)
