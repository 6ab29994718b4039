"""Windows by time, of steps, of completed readings; each draws its timeline above the assert."""

from __future__ import annotations

import numpy as np
import pytest
from support.signals import a_manifest

from atoll_contract.errors import BundleRejectedError, MalformedMessageError, Reason
from atoll_contract.manifest import Feature, FeatureKind, Imputation, Resampling, ValueSpec, WindowKind
from atoll_contract.messages import MAX_TIME_MS, Quality
from atoll_signal.cut import SET_BACK_AFTER
from atoll_signal.frames import Frames

X = [ValueSpec(name="x", fill=5.0)]
XY = [ValueSpec(name="x"), ValueSpec(name="y")]


class Feed:
    """Feeds readings to the frames of a manifest."""

    def __init__(self, manifest, units=None, **options):
        self.manifest = manifest
        self.frames = Frames(manifest, units, max_devices=4, **options)

    def __call__(self, time_s, x=None, device="d", **values):
        values = values if x is None else {"x": x, **values}
        frame = self.frames.take(device, values, time_s * 1000.0)
        if frame is None:
            return None
        rows = np.frombuffer(frame.features, np.float32).reshape(self.manifest.rows, -1)
        return rows.tolist(), frame.time_ms / 1000, frame.start_ms / 1000, frame.count, frame.quality


def mean(**window):
    return a_manifest([Feature(kind=FeatureKind.MEAN, value="x")], values=X, **window)


def test_a_sliding_window_of_a_time_holds_what_is_younger():
    feed = Feed(mean(duration_ms=3000.0, length=10))

    found = [feed(time_s, float(time_s)) for time_s in (0, 1, 2, 3, 4, 9)]

    # 0 1 2 3 4 . . . . 9    a window is whole once readings go back 3 s
    #   (--3]
    #     (--4]    (---9]
    assert found[:3] == [None, None, None]
    assert found[3] == ([[2.0]], 3.0, 1.0, 3, ())
    assert found[4] == ([[3.0]], 4.0, 2.0, 3, ())
    assert found[5] == ([[9.0]], 9.0, 9.0, 1, ())


def test_a_reading_within_the_lateness_has_a_window_of_its_own_which_says_late():
    feed = Feed(mean(duration_ms=3000.0, length=10, lateness_ms=1000.0))
    for time_s in (0, 1, 2, 4):
        feed(time_s, float(time_s))

    # 0 1 2 [3] 4    3 comes after 4; 2.5 would come too late behind 4
    assert feed(3, 3.0) == ([[2.0]], 3.0, 1.0, 3, (Quality.LATE,))
    assert feed(2.5, 99.0) is None
    assert feed.frames.late == 1
    assert feed(5, 5.0) == ([[4.0]], 5.0, 3.0, 3, (Quality.LATE,))
    assert feed(6, 6.0) == ([[5.0]], 6.0, 4.0, 3, ())


def test_a_tumbling_window_of_a_time_is_closed_by_the_reading_behind_its_end():
    feed = Feed(mean(duration_ms=10_000.0, length=10, kind=WindowKind.TUMBLING))

    found = [feed(time_s, float(time_s)) for time_s in (7, 10, 12, 19.5, 21, 45, 60)]

    # 7 | 10 12 19.5 | 21 | | 45 | | 60    the window of 7 began before it; empty ones are passed over
    assert found[:4] == [None] * 4
    assert found[4] == ([[pytest.approx(41.5 / 3)]], 19.5, 10.0, 3, ())
    assert found[5] == ([[21.0]], 21.0, 21.0, 1, ())
    assert found[6] == ([[45.0]], 45.0, 45.0, 1, ())


def test_a_tumbling_window_waits_for_late_readings_as_long_as_it_was_told():
    feed = Feed(mean(duration_ms=10_000.0, length=10, kind=WindowKind.TUMBLING, lateness_ms=2000.0))
    for time_s in (10, 11, 21):
        assert feed(time_s, 1.0) is None

    # 10 11 | 21, then 19 (in time), 22 closes, then 18 (late)
    assert feed(19, 4.0) is None
    assert feed(22, 1.0) == ([[2.0]], 19.0, 10.0, 3, ())
    assert feed(18, 9.0) is None
    assert feed.frames.late == 1
    assert feed(33, 1.0) == ([[1.0]], 22.0, 21.0, 2, (Quality.LATE,))


def test_tumbling_windows_that_are_closed_together_are_counted_and_the_newest_is_told():
    feed = Feed(mean(duration_ms=10_000.0, length=10, kind=WindowKind.TUMBLING, lateness_ms=10_000.0))

    # 0 5 | 12 15 | | | 42 closes them all, of which two hold readings
    found = [feed(time_s, float(time_s)) for time_s in (0, 5, 12, 15, 42)]

    assert found == [None] * 4 + [([[13.5]], 15.0, 12.0, 2, ())]
    assert feed.frames.skipped == 1


def test_tumbling_windows_of_steps_that_are_closed_together_are_counted_and_their_flags_told():
    feed = Feed(a_manifest(values=X, **STEPS, length=2, kind=WindowKind.TUMBLING, lateness_ms=1500.0))
    for time_s in (0, 1, 2, 3, 4, 5, 8, 1.5):
        feed(time_s, float(time_s))

    # 0 1 | 2 3 | 4 5 were told one by one; 1.5 was too late; 6 7 | 8 9 are both complete with 11
    assert feed.frames.skipped == 0
    assert feed(11, 11.0) == ([[8.0], [9.0]], 9.0, 8.0, 2, (Quality.LATE,))
    assert feed.frames.skipped == 1


def test_more_readings_than_a_window_keeps_are_told_as_a_gap():
    feed = Feed(mean(duration_ms=3000.0, length=2))
    for time_s in (0, 1, 2):
        feed(time_s, float(time_s))

    assert feed(3, 3.0) == ([[2.5]], 3.0, 2.0, 2, (Quality.GAP,))


def test_a_clock_that_was_set_back_begins_anew_after_a_while():
    feed = Feed(mean(duration_ms=3000.0, length=10))
    for time_s in range(1000, 1004):
        feed(time_s, 1.0)

    found = [feed(time_s, 2.0) for time_s in range(SET_BACK_AFTER + 3)]

    assert found[:-1] == [None] * (SET_BACK_AFTER + 2)
    assert found[-1] == ([[2.0]], 18.0, 16.0, 3, (Quality.GAP,))
    assert feed.frames.late == SET_BACK_AFTER


STEPS = {"resample": Resampling.LINEAR, "step_ms": 1000.0, "max_gap_ms": 3000.0}


def test_linear_steps_lie_on_the_line_between_the_readings_around_them():
    feed = Feed(a_manifest(values=X, **STEPS, length=3))

    found = [feed(time_s, time_s * 10) for time_s in (0.5, 1.5, 2.5, 3.5, 4.0, 6.5)]

    # 0.5 | 1.5 | 2.5 | 3.5 | 4 . . 6.5    steps at 1, 2, 3; 4 stands on a step
    assert found[:3] == [None] * 3
    assert found[3] == ([[10.0], [20.0], [30.0]], 3.0, 1.0, 3, ())
    assert found[4] == ([[20.0], [30.0], [40.0]], 4.0, 2.0, 3, ())
    assert found[5] == ([[40.0], [50.0], [60.0]], 6.0, 4.0, 3, ())


def test_a_gap_begins_the_steps_anew_unless_something_stands_for_them():
    anew = Feed(a_manifest(values=X, **STEPS, length=2))
    held = Feed(a_manifest(values=X, **STEPS, length=2, impute=Imputation.LAST))
    line = Feed(a_manifest(values=X, **STEPS, length=2, impute=Imputation.LINEAR))
    for feed in (anew, held, line):
        feed(0, 0.0)
        feed(1, 1.0)

    # 0 1 . . . . 6 7
    found = [[feed(time_s, float(time_s)) for time_s in (6, 7, 8)] for feed in (anew, held, line)]

    assert found[0] == [
        None,
        ([[6.0], [7.0]], 7.0, 6.0, 2, (Quality.GAP,)),
        ([[7.0], [8.0]], 8.0, 7.0, 2, ()),
    ]
    assert found[1][:2] == [
        ([[1.0], [6.0]], 6.0, 5.0, 2, (Quality.IMPUTED,)),
        ([[6.0], [7.0]], 7.0, 6.0, 2, ()),
    ]
    assert found[2][0] == ([[5.0], [6.0]], 6.0, 5.0, 2, (Quality.IMPUTED,))


def test_a_gap_of_months_costs_no_more_than_the_window_is_long():
    feed = Feed(a_manifest(values=X, **STEPS, length=3, impute=Imputation.LAST))
    feed(0, 1.0)

    found = feed(1e8, 2.0)

    assert found == ([[1.0], [1.0], [2.0]], 1e8, 1e8 - 2, 3, (Quality.IMPUTED,))


def test_mean_and_last_steps_take_the_readings_of_their_step():
    means = Feed(a_manifest(values=X, **{**STEPS, "resample": Resampling.MEAN}, impute=Imputation.MEAN))
    lasts = Feed(a_manifest(values=X, **{**STEPS, "resample": Resampling.LAST}))

    # (0, 1] holds 1 and 3, (1, 2] nothing
    for feed in (means, lasts):
        feed(0.2, 1.0)
        feed(0.9, 3.0)

    assert means(2.1, 7.0) == ([[5.0]], 2.0, 2.0, 1, (Quality.IMPUTED,))
    assert lasts(2.1, 7.0) == ([[3.0]], 2.0, 2.0, 1, ())


def test_a_late_reading_changes_no_closed_step_and_is_told():
    feed = Feed(a_manifest(values=X, **STEPS, length=2))
    for time_s in (0, 1, 2):
        feed(time_s, float(time_s))

    assert feed(1.5, 99.0) is None
    assert feed.frames.late == 1
    assert feed(3, 3.0) == ([[2.0], [3.0]], 3.0, 2.0, 2, (Quality.LATE,))


def test_values_of_a_step_may_come_in_different_readings():
    feed = Feed(a_manifest(values=XY, **STEPS, length=1))

    found = [feed(0, x=0.0), feed(0, y=10.0), feed(1, x=1.0), feed(1, y=20.0), feed(2, x=2.0)]

    assert found == [None, ([[0.0, 10.0]], 0.0, 0.0, 1, ()), None, ([[1.0, 20.0]], 1.0, 1.0, 1, ()), None]


def test_tumbling_steps_end_at_multiples_of_their_window():
    feed = Feed(a_manifest(values=X, **STEPS, length=2, kind=WindowKind.TUMBLING))

    found = [feed(time_s, float(time_s)) for time_s in range(6)]

    assert [frame and frame[0] for frame in found] == [
        None, [[0.0], [1.0]], None, [[2.0], [3.0]], None, [[4.0], [5.0]],
    ]  # fmt: skip


def test_what_a_reading_lacks_is_the_last_known_value_that_is_young_enough():
    feed = Feed(a_manifest(values=XY, length=1, max_age_ms=2000.0))

    found = [feed(0, x=1.0), feed(1, y=7.0), feed(2, x=2.0), feed(4, x=3.0)]

    # x . x . x
    # . y . . (3 s old)
    assert found == [
        None, ([[1.0, 7.0]], 1.0, 1.0, 1, ()), ([[2.0, 7.0]], 2.0, 2.0, 1, ()), None,
    ]  # fmt: skip
    assert feed.frames.incomplete == 2


def test_an_imputed_number_is_told_as_long_as_it_is_in_the_window():
    values = [ValueSpec(name="x", fill=5.0), ValueSpec(name="y", fill=6.0)]
    feed = Feed(a_manifest(values=values, length=2, impute=Imputation.MEAN))

    found = [feed(0, x=1.0), feed(1, x=2.0, y=2.0), feed(2, x=3.0, y=3.0)]

    assert found[1] == ([[1.0, 6.0], [2.0, 2.0]], 1.0, 0.0, 2, (Quality.IMPUTED,))
    assert found[2] == ([[2.0, 2.0], [3.0, 3.0]], 2.0, 1.0, 2, ())


def test_a_reading_of_none_of_the_values_is_refused_whatever_stands_for_them():
    feed = Feed(mean(duration_ms=3000.0, length=10, impute=Imputation.MEAN))

    with pytest.raises(MalformedMessageError, match="value 'x' is missing") as caught:
        feed(0, z=1.0)

    assert caught.value.reason is Reason.MISSING_VALUE


def test_lags_reach_back_beyond_the_window():
    features = [Feature(kind=kind, value="x", lag=2) for kind in (FeatureKind.LAG, FeatureKind.DIFFERENCE)]
    feed = Feed(a_manifest(["x", *features], values=X, length=2))

    found = [feed(time_s, float(time_s**2)) for time_s in range(5)]

    assert found[:3] == [None] * 3
    assert found[3] == ([[4.0, 0.0, 4.0], [9.0, 1.0, 8.0]], 3.0, 2.0, 2, ())


def test_powers_of_ten_are_spread_out_by_asinh():
    feed = Feed(a_manifest(["x", Feature(kind=FeatureKind.ASINH, value="x", scale=0.01)], values=X, length=2))

    found = [feed(time_s, x) for time_s, x in enumerate((0.001, -1000.0, 0.0))]

    assert found[1][0] == [
        [pytest.approx(0.001), pytest.approx(0.1, rel=2e-3)],
        [-1000.0, pytest.approx(-np.log(2 * 1e5))],
    ]
    assert found[2][0][1] == [0.0, 0.0]


def test_units_are_converted_before_anything_else():
    values = [ValueSpec(name="x", unit="°C", high=30.0)]
    feed = Feed(
        a_manifest([Feature(kind=FeatureKind.MAX, value="x")], values=values, length=2), {"x": "degF"}
    )

    feed(0, 50.0)

    assert feed(1, 95.0) == ([[35.0]], 1.0, 0.0, 2, (Quality.OUT_OF_RANGE,))


def test_an_array_of_another_rate_is_refused():
    manifest = a_manifest(
        [Feature(kind=FeatureKind.PEAK_HZ, value="x")], values=[ValueSpec(name="x", shape=[8], step_ms=0.5)]
    )
    frames, wave = Frames(manifest, max_devices=1), [1.0, -1.0] * 4

    assert frames.take("d", {"x": wave}, 0.0, 0.5) is not None
    assert frames.take("d", {"x": wave}, 0.0) is not None
    with pytest.raises(MalformedMessageError, match=r"0\.25 ms apart, the model needs 0\.5 ms"):
        frames.take("d", {"x": wave}, 0.0, 0.25)


def test_the_hour_and_the_week_are_those_of_the_zone():
    kinds = (FeatureKind.HOUR_SIN, FeatureKind.HOUR_COS, FeatureKind.WEEK_SIN, FeatureKind.WEEK_COS)
    features = ["x", *(Feature(kind=kind) for kind in kinds)]
    utc, berlin = (Feed(a_manifest(features, values=X, zone=zone)) for zone in (None, "Europe/Berlin"))
    monday_6_utc, sunday_22_utc_in_summer = 1_730_700_000 - 1_730_700_000 % 86_400 + 6 * 3600, 1_719_784_800

    assert utc(monday_6_utc, 0.0)[0][0][1:3] == pytest.approx([1.0, 0.0], abs=1e-6)
    assert utc(monday_6_utc, 0.0)[0][0][4] == pytest.approx(np.cos(np.pi * 2 * 0.25 / 7))
    # Two hours ahead of UTC: Monday has just begun.
    assert berlin(sunday_22_utc_in_summer, 0.0)[0][0][1:] == pytest.approx([0.0, 1.0, 0.0, 1.0], abs=1e-6)


def test_the_last_day_of_the_calendar_has_a_season_too():
    features = ["x", Feature(kind=FeatureKind.HOUR_SIN)]
    feed = Feed(a_manifest(features, values=X, zone="Asia/Tokyo"))

    assert feed(MAX_TIME_MS / 1000, 0.0) is not None


def test_a_zone_that_is_unknown_here_is_refused():
    with pytest.raises(BundleRejectedError, match="'Mars/Olympus': unknown to this machine") as caught:
        Feed(a_manifest(["x", Feature(kind=FeatureKind.HOUR_SIN)], values=X, zone="Mars/Olympus"))

    assert caught.value.reason is Reason.UNKNOWN_ZONE


def test_the_device_that_is_silent_longest_is_forgotten_first():
    feed = Feed(mean(duration_ms=3000.0, length=10))
    for device in "abcde":
        feed(0, 1.0, device)

    assert feed.frames.forgotten == 1
    # b is still there, a is not
    assert feed(3, 1.0, "b") is not None
    assert feed(3, 1.0, "a") is None
