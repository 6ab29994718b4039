"""Whole readings of parts. Drawn as: value@second, | a reading that is whole."""

from __future__ import annotations

from collections import Counter

from atoll_contract.messages import Reading
from atoll_ingest.join import Hold, Join
from atoll_ingest.time import UndatedReading


def part(time_ms: float | None = None, **values: float | None) -> Reading:
    return Reading(values=dict(values), time_ms=time_ms)


def join(**options) -> tuple[Join, Counter[str]]:
    counts: Counter[str] = Counter()
    return Join(("x", "y"), 5000.0, options.pop("max_devices", 10), counts, **options), counts


def test_values_of_several_messages_are_one_reading_when_all_are_there() -> None:
    joining, _ = join()

    # x@0 y@4 |
    assert joining.add("a", part(x=1.0), 0.0) == []
    assert joining.add("a", part(y=None), 4000.0) == [Reading({"x": 1.0, "y": None})]


def test_the_event_time_is_that_of_the_latest_value() -> None:
    joining, _ = join()

    joining.add("a", part(9000.0, x=1.0), 0.0)
    assert joining.add("a", part(8000.0, y=2.0), 1.0) == [Reading({"x": 1.0, "y": 2.0}, time_ms=9000.0)]


def test_a_value_that_comes_twice_replaces_its_predecessor_and_is_counted() -> None:
    joining, counts = join()

    # x@0 x@4 y@8 |: the first x is replaced, the second is near enough
    joining.add("a", part(x=1.0), 0.0)
    joining.add("a", part(x=2.0), 4000.0)
    assert joining.add("a", part(y=3.0), 8000.0) == [Reading({"x": 2.0, "y": 3.0})]
    assert counts["values_replaced"] == 1


def test_what_is_too_far_apart_is_told_as_far_as_it_came() -> None:
    joining, counts = join()

    # x@0 | y@6 x@7 |
    joining.add("a", part(x=1.0), 0.0)
    assert joining.add("a", part(y=2.0), 6000.0) == [part(0.0, x=1.0)]  # when it came
    assert joining.add("a", part(x=3.0), 7000.0) == [Reading({"x": 3.0, "y": 2.0})]
    assert counts["joins_incomplete"] == 1


def test_what_waits_too_long_is_overdue_with_the_time_when_it_came() -> None:
    joining, counts = join()
    joining.add("a", part(x=1.0), 1000.0)

    assert joining.overdue(6000.0) == []
    assert joining.overdue(6001.0) == [("a", Reading({"x": 1.0}), 1000.0)]
    assert joining.overdue(99_000.0) == []
    assert counts["joins_incomplete"] == 1


def test_when_it_is_looked_for_what_is_overdue_does_not_change_what_is_joined() -> None:
    # x@0 z@4 | y@6, x@5.5 would be too far from x@0 just so
    arrivals = [(0.0, part(x=1.0)), (4000.0, part(z=1.0)), (5500.0, part(x=2.0)), (6000.0, part(y=3.0))]

    def told(*ticks: float) -> list[object]:
        counts: Counter[str] = Counter()
        joining = Join(("x", "y", "z"), 5000.0, 10, counts)
        found: list[object] = []
        for now_ms, came in sorted([*arrivals, *((tick, None) for tick in ticks)], key=lambda one: one[0]):
            found += joining.overdue(now_ms)
            found += [] if came is None else joining.add("a", came, now_ms)
        found += joining.overdue(99_000.0)
        assert counts["joins_incomplete"] == 2
        return found

    cut = [("a", part(x=1.0, z=1.0), 4000.0), ("a", part(x=2.0, y=3.0), 6000.0)]
    assert told() == cut
    assert told(*range(500, 9000, 500)) == cut


def test_what_is_overdue_is_found_after_the_clock_went_back_and_once_only() -> None:
    joining, counts = join()
    joining.add("a", part(x=1.0), 60_000.0)
    joining.add("b", part(7000.0, x=1.0), 61_000.0)

    assert joining.overdue(56_500.0) == []
    assert joining.overdue(55_500.0) == [("b", part(7000.0, x=1.0), 61_000.0)]
    assert joining.overdue(65_000.0) == []
    assert joining.overdue(65_001.0) == [("a", part(x=1.0), 60_000.0)]
    assert joining.overdue(99_000.0) == []
    assert counts["joins_incomplete"] == 2


def test_devices_do_not_mix_and_only_so_many_wait() -> None:
    joining, counts = join(max_devices=2)
    for device in ("a", "b", "c"):
        joining.add(device, part(x=1.0), 0.0)

    assert joining.add("c", part(y=1.0), 0.0) == [Reading({"x": 1.0, "y": 1.0})]
    assert joining.add("a", part(y=1.0), 0.0) == []
    assert counts["joins_forgotten"] == 1


def test_a_time_in_a_message_of_its_own_dates_the_values_before_it() -> None:
    joining, _ = join(needs_time=True)

    joining.add("a", part(x=1.0), 0.0)
    joining.add("a", part(y=2.0), 1.0)
    assert joining.add("a", part(77_000.0), 2.0) == [Reading({"x": 1.0, "y": 2.0}, time_ms=77_000.0)]


def test_a_device_whose_clock_was_never_set_stays_undated() -> None:
    joining, _ = join()
    joining.add("a", UndatedReading({"x": 1.0}), 0.0)

    assert joining.add("a", UndatedReading({"y": 1.0}), 0.0) == [UndatedReading({"x": 1.0, "y": 1.0})]


def test_a_device_that_is_gone_leaves_what_came_of_its_reading() -> None:
    joining, _ = join()
    joining.add("a", part(x=1.0), 0.0)

    assert joining.forget("a") == [Reading({"x": 1.0})]
    assert joining.forget("a") == []


# Hold


def test_a_value_that_is_left_out_holds_for_its_time() -> None:
    holding = Hold(("x", "y"), 5000.0, 10, Counter())

    # x=1,y=2@0 | x=3@4 | x=4@6 |: y has held for 5 s
    assert holding.add("a", part(x=1.0, y=2.0), 0.0) == [part(x=1.0, y=2.0)]
    assert holding.add("a", part(x=3.0), 4000.0) == [part(x=3.0, y=2.0)]
    assert holding.add("a", part(x=4.0), 6000.0) == [part(x=4.0)]


def test_a_value_that_is_told_missing_holds_no_more() -> None:
    holding = Hold(("x", "y"), 5000.0, 10, Counter())
    holding.add("a", part(x=1.0, y=2.0), 0.0)
    holding.add("a", part(y=None), 1.0)

    assert holding.add("a", part(x=3.0), 2.0) == [part(x=3.0, y=None)]


def test_an_old_value_that_comes_late_does_not_undo_a_newer_one() -> None:
    holding = Hold(("x", "y"), 5000.0, 10, Counter())
    holding.add("a", part(9000.0, x=1.0), 0.0)
    holding.add("a", part(8000.0, x=7.0), 0.0)

    assert holding.add("a", part(9500.0, y=2.0), 0.0) == [part(9500.0, x=1.0, y=2.0)]


def test_a_value_from_the_far_future_gives_way_to_those_of_now() -> None:
    holding = Hold(("x", "y"), 5000.0, 10, Counter())
    holding.add("a", part(9e12, x=1.0), 0.0)
    holding.add("a", part(9000.0, x=2.0), 0.0)

    assert holding.add("a", part(9500.0, y=3.0), 0.0) == [part(9500.0, x=2.0, y=3.0)]


def test_a_value_does_not_hold_for_the_time_before_it() -> None:
    holding = Hold(("x", "y"), 5000.0, 10, Counter())
    holding.add("a", part(9000.0, x=1.0), 0.0)

    assert holding.add("a", part(8000.0, y=2.0), 0.0) == [part(8000.0, y=2.0)]


def test_what_is_held_is_bounded_and_forgotten_with_the_device() -> None:
    counts: Counter[str] = Counter()
    holding = Hold(("x", "y"), 5000.0, 2, counts)
    for device in ("a", "b", "c"):
        holding.add(device, part(x=1.0), 0.0)
    holding.forget("c")

    assert [holding.add(device, part(y=2.0), 0.0) for device in ("a", "c")] == [[part(y=2.0)], [part(y=2.0)]]
    assert counts["held_forgotten"] >= 1


def test_when_the_clock_is_set_what_came_by_arrival_moves_along() -> None:
    step_ms = 1.7e12
    joining, _ = join()
    joining.add("a", part(x=1.0), 0.0)
    holding = Hold(("x", "y"), 5000.0, 10, Counter())
    holding.add("a", part(x=1.0), 0.0)
    holding.add("b", part(9000.0, x=1.0), 0.0)

    joining.shift(step_ms)
    holding.shift(step_ms)

    assert joining.overdue(step_ms + 1000.0) == []
    assert joining.add("a", part(y=2.0), step_ms + 1000.0) == [part(x=1.0, y=2.0)]
    assert holding.add("a", part(y=2.0), step_ms + 1000.0) == [part(x=1.0, y=2.0)]
    assert holding.add("b", part(9001.0, y=2.0), step_ms) == [part(9001.0, x=1.0, y=2.0)]  # its own time
