from __future__ import annotations

import pytest

from atoll_agent.decisions.exception import Band, Exceptions


def told(band: Band, values, *, step_ms=1000.0, kind=(1,), flags=()) -> str:
    """Return a dot for each value that is left out, a ! for each that is told."""
    judged = Exceptions(band, 10)
    return "".join(
        ".!"[judged.is_worth_telling("a", number * step_ms, float(value), kind, flags)]
        for number, value in enumerate(values)
    )


def test_a_change_by_more_than_the_band_is_told_measured_from_what_was_told_last():
    # band 2: 0 told; 2 is no more than 2 away; 3 is; from there 1 and 5 are not, 0 is
    assert told(Band(absolute=2), [0, 1, 2, 3, 1, 5, 0]) == "!..!..!"


def test_a_slow_drift_is_told_when_it_has_left_the_band():
    assert told(Band(absolute=2), [0, 1, 2, 3, 4, 5, 6]) == "!..!..!"


def test_the_band_may_be_a_part_of_the_value_the_larger_counts():
    assert told(Band(relative=0.1), [100, 109, 111, 10, 10.5, 12]) == "!.!!.!"
    assert told(Band(absolute=20, relative=0.1), [100, 119, 121]) == "!.!"


def test_after_a_while_it_is_told_anyway():
    assert told(Band(absolute=5, at_least_every_ms=3000), [0] * 8) == "!..!..!."


def test_a_time_that_runs_back_is_told():
    judged = Exceptions(Band(absolute=5), 10)

    assert [judged.is_worth_telling("a", time_ms, 0.0, (), ()) for time_ms in (5, 4, 5)] == [
        True,
        True,
        False,
    ]


@pytest.mark.parametrize(("kind", "flags"), [((2,), ()), ((1, "faulty"), ()), ((1,), ("late",))])
def test_another_release_label_or_flag_is_told_whatever_the_value(kind, flags):
    judged = Exceptions(Band(absolute=5), 10)
    judged.is_worth_telling("a", 0, 0.0, (1,), ())

    assert judged.is_worth_telling("a", 1, 0.0, kind, flags)
    assert not judged.is_worth_telling("a", 2, 0.0, kind, flags)


def test_devices_are_judged_alone_and_no_more_are_remembered_than_may_be():
    judged = Exceptions(Band(absolute=5), 2)

    news = [judged.is_worth_telling(device, 0, 0.0, (), ()) for device in "abacbca"]
    assert news == [True, True, False, True, False, False, True]
