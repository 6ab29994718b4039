"""Event times in every form, and the clocks behind them."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import pytest

from atoll_contract.errors import MalformedMessageError, Reason
from atoll_contract.messages import Reading
from atoll_ingest.clock import ClockWatch, Doubt
from atoll_ingest.time import TimeForm, TimeUnit, UndatedReading, is_undated

VIENNA = ZoneInfo("Europe/Vienna")
AT_MS = 1_730_794_500_000.0  # 2024-11-05T08:15:00Z, 09:15 in Vienna


@pytest.mark.parametrize(
    ("written", "time_ms"),
    [
        (1730794500, AT_MS),
        (1730794500.123, AT_MS + 123),
        (1730794500123, AT_MS + 123),
        (1730794500123456, AT_MS + 123.456),
        (1730794500123456789, AT_MS + 123.4567871),
        ("1730794500", AT_MS),
        ("2024-11-05T08:15:00Z", AT_MS),
        ("2024-11-05T09:15:00+0100", AT_MS),
        ("2024-11-05T08:15:00.123456789Z", AT_MS + 123.456),
        ("2024-11-05T09:15:00", AT_MS),
        ("2024-11-05 09:15:00,123", AT_MS + 123),
        ("20241105T081500Z", AT_MS),
        ("05.11.2024 09:15", AT_MS),
        ("2024-07-05T10:15:00", 1_720_167_300_000.0),  # summer time: two hours ahead
    ],
)
def test_auto_reads_numbers_by_their_size_and_text_in_its_forms(written: object, time_ms: float) -> None:
    form = TimeForm(TimeUnit.AUTO, VIENNA, ("%d.%m.%Y %H:%M",))

    assert form.reading({"x": 1.0}, written).time_ms == pytest.approx(time_ms, abs=1e-3)


def test_what_is_in_none_of_the_forms_is_refused_and_the_forms_are_named() -> None:
    with pytest.raises(MalformedMessageError, match=r"%d\.%m\.%Y") as caught:
        TimeForm(TimeUnit.AUTO, VIENNA, ("%d.%m.%Y",)).reading({"x": 1.0}, "yesterday")

    assert caught.value.reason is Reason.BAD_TIME


def test_where_clocks_are_known_to_be_set_old_times_can_be_let_through() -> None:
    reading = TimeForm(TimeUnit.SECONDS, earliest_ms=0.0).reading({"x": 1.0}, 12)

    assert (reading.time_ms, is_undated(reading)) == (12000.0, False)


# Clocks


def look(watch: ClockWatch, time_ms: float | None, arrival_ms: float, device: str = "a") -> Doubt | None:
    return watch.look(device, Reading({"x": 1.0}, time_ms=time_ms), arrival_ms)


def test_a_clock_that_runs_as_it_should_is_not_doubted() -> None:
    watch = ClockWatch(10)

    assert [look(watch, AT_MS + step, AT_MS + step + 5) for step in (0, 0, 1000, 5000)] == [None] * 4
    assert look(watch, None, AT_MS) is None
    assert watch.doubted == 0


def test_a_clock_that_runs_back_is_ahead_or_was_never_set_is_doubted_and_counted_by_device() -> None:
    watch = ClockWatch(10)

    assert look(watch, AT_MS, AT_MS) is None
    assert look(watch, AT_MS - 1, AT_MS) is Doubt.BACK
    assert look(watch, AT_MS + 120_000, AT_MS) is Doubt.AHEAD
    assert look(watch, AT_MS, AT_MS) is Doubt.BACK
    assert look(watch, 5000.0, AT_MS, "b") is Doubt.UNSET
    assert watch.look("c", UndatedReading({"x": 1.0}), AT_MS) is Doubt.UNSET

    assert watch.doubts("a") == {Doubt.BACK: 2, Doubt.AHEAD: 1}
    assert watch.doubts("c") == {Doubt.UNSET: 1}
    assert watch.doubted == 3


def test_nobody_is_ahead_of_an_agent_whose_own_clock_was_never_set() -> None:
    assert look(ClockWatch(10), AT_MS, 30_000.0) is None


def test_only_so_many_devices_are_remembered() -> None:
    watch = ClockWatch(2)
    for device in ("a", "b", "c"):
        look(watch, AT_MS, AT_MS, device)
        watch.look(device, UndatedReading({"x": 1.0}), AT_MS)

    assert look(watch, AT_MS - 1, AT_MS, "a") is None  # forgotten
    assert look(watch, AT_MS - 1, AT_MS, "c") is Doubt.BACK
    assert watch.doubted == 2
