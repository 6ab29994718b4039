"""Drift of features, outputs and errors on one agent."""

from __future__ import annotations

import numpy as np
import pytest
from support.bundles import make_bundle
from support.lanes import Bench, predictor

from atoll_agent.drift.change import LIMIT, ChangeTest
from atoll_agent.drift.monitor import Monitor
from atoll_agent.drift.remembered import MAX_IN_ALL, MAX_PER_DEVICE, Remembered
from atoll_agent.drift.seen import Seen, Told
from atoll_agent.lane.handover import BURST, MAX_WAITING, Handover
from atoll_agent.supervisor.drift import DriftWatch
from atoll_contract.manifest import PassRules, Task
from atoll_contract.messages import Label
from atoll_contract.reference import Ahead, ExpectedError, Histogram, Reference
from atoll_signal.spread import Spread, edges_of

EXPECTED = ExpectedError(mean=0.8, std=0.6)
"""Of an error that is half a normal distribution of deviation 1."""


def errors(count: int, scale: float = 1.0, seed: int = 1) -> list[float]:
    return np.abs(np.random.default_rng(seed).normal(0, scale, count)).tolist()


class TestChange:
    def test_errors_as_expected_never_reach_the_limit(self) -> None:
        for seed in range(5):
            test = ChangeTest(EXPECTED)
            for number, error in enumerate(errors(20_000, seed=seed)):
                test.add(error, number)
                assert test.statistic < LIMIT

    @pytest.mark.parametrize(("scale", "within"), [(2.0, 100), (4.0, 25), (100.0, 7)])
    def test_a_larger_error_is_seen_soon_and_dated_to_where_it_began(self, scale, within) -> None:
        test = ChangeTest(EXPECTED)
        for number, error in enumerate([*errors(1000), *errors(within, scale)]):
            test.add(error, number)

        assert test.has_changed
        assert test.since_ms == pytest.approx(1000, abs=60)

    def test_a_few_glitches_however_large_are_no_change(self) -> None:
        test = ChangeTest(EXPECTED)
        for number, error in enumerate([*errors(500), 1e9, 1e9, 1e9, *errors(500)]):
            test.add(error, number)
            assert not test.has_changed

    def test_it_ends_when_errors_are_as_expected_again(self) -> None:
        test = ChangeTest(EXPECTED)
        for number, error in enumerate([*errors(200, 5.0), *errors(400)]):
            test.add(error, number)

        assert (test.has_changed, test.since_ms) == (False, None)

    def test_without_an_expected_error_the_first_ones_show_it(self) -> None:
        test = ChangeTest(None)
        for number, error in enumerate(errors(200)):
            assert test.expected is None
            test.add(error, number)

        assert test.expected is not None
        assert test.expected.mean == pytest.approx(0.8, abs=0.1)
        assert test.expected.std == pytest.approx(0.6, abs=0.1)

    def test_a_classifier_that_was_always_right_may_err_now_and_then_but_not_half_the_time(self) -> None:
        test = ChangeTest(ExpectedError(mean=0.01, std=0.1))
        for number in range(5000):
            test.add(float(number % 50 == 0), number)
            assert not test.has_changed
        for number in range(60):
            test.add(float(number % 2), number)

        assert test.has_changed


class TestRemembered:
    def test_a_label_takes_the_prediction_of_its_time_or_the_latest_before_it(self) -> None:
        known = Remembered()
        for time_ms in (10.0, 20.0, 30.0):
            known.add("a", time_ms, time_ms)

        assert [one.value for one in known.take("a", Label(value=0, time_ms=20.0), 5.0)] == [20.0]
        assert [one.value for one in known.take("a", Label(value=0, time_ms=34.0), 5.0)] == [30.0]
        assert known.take("a", Label(value=0, time_ms=34.0), 5.0) == []
        assert known.take("a", Label(value=0, time_ms=9.0), 5.0) == []
        assert known.take("b", Label(value=0, time_ms=10.0), 5.0) == []

    def test_a_label_of_a_span_takes_all_in_it(self) -> None:
        known = Remembered()
        for time_ms in (10.0, 20.0, 30.0):
            known.add("a", time_ms, time_ms)

        assert len(known.take("a", Label(value=0, start_ms=10.0, end_ms=30.0), 0.0)) == 2

    def test_it_is_bounded_by_device_and_in_all(self) -> None:
        known = Remembered()
        for number in range(MAX_PER_DEVICE + 5):
            known.add("a", number, 0.0)
        assert known.forgotten == 5
        for number in range(MAX_IN_ALL):
            known.add(f"d{number // 1000}", number, 0.0)

        assert known.forgotten == MAX_PER_DEVICE + 5
        assert known.take("a", Label(value=0, time_ms=100.0), 0.0) == []


def histogram(numbers: np.ndarray, limit: float = 0.25) -> Histogram:
    blank = Histogram(edges=edges_of(numbers), counts=[1] * (len(edges_of(numbers)) + 1), limit=limit)
    counts = Spread([blank], np.array([0])).counts(numbers[:, None])[0]
    return blank.model_copy(update={"counts": counts.tolist()})


def reference(**parts) -> Reference:
    numbers = np.linspace(0, 10, 1000)
    more = {"features": [histogram(numbers)], "output": histogram(2 * numbers + 1), **parts}
    return Reference(span_s=80.0, windows=200, **more)


def monitor(known: Reference | None = None, **manifest) -> Monitor:
    return Monitor(make_bundle(**manifest).manifest, known or reference(), 0.0)


def seen(x: float, time_ms: float, value: float | None = None, device: str = "a") -> Seen:
    told = 2 * x + 1 if value is None else value
    return Seen("wear", 1, device, time_ms, np.float32(x).tobytes(), told)


def run(watched: Monitor, start_s: int, end_s: int, draw) -> None:
    """Show ten windows a second."""
    for second in range(start_s, end_s):
        watched.see([seen(draw(), second * 1e3 + tenth * 100) for tenth in range(10)], second)


class TestMonitor:
    def test_it_says_nothing_before_it_has_seen_enough_for_long_enough(self) -> None:
        watched = monitor()
        draw = np.random.default_rng(1).uniform
        run(watched, 0, 60, lambda: draw(20, 30))

        assert watched.report(60e3, 60.0).features == []
        run(watched, 60, 81, lambda: draw(20, 30))
        assert watched.report(81e3, 81.0).drifting

    def test_what_is_spread_as_in_training_does_not_drift_for_long(self) -> None:
        watched = monitor()
        draw = np.random.default_rng(1).uniform
        for start in range(0, 1600, 100):
            run(watched, start, start + 100, lambda: draw(0, 10))
            report = watched.report(start * 1e3, start + 100.0)
            assert not report.drifting
        assert report.features[0].name == "x"
        assert report.windows <= 810
        assert report.detail is None

    def test_a_feature_that_moves_is_told_with_its_name_and_ends_when_it_comes_back(self) -> None:
        watched = monitor()
        draw = np.random.default_rng(1).uniform
        run(watched, 0, 100, lambda: draw(0, 10))
        run(watched, 100, 150, lambda: draw(5, 15))
        report = watched.report(1_000_000.0, 150.0)

        assert report.drifting
        assert "x: " in report.detail
        assert "output: " in report.detail
        assert 850_000 < report.since_ms < 1_000_000
        run(watched, 150, 300, lambda: draw(0, 10))
        assert not watched.report(1_150_000.0, 300.0).drifting

    def test_labels_find_their_predictions_also_when_they_come_first(self) -> None:
        watched = monitor(reference(error=EXPECTED))
        watched.hear([Told("wear", "a", Label(value=3.5, time_ms=5.0))])
        watched.see([seen(1.0, 5.0), seen(1.0, 6.0)], 0.0)
        watched.hear([Told("wear", "a", Label(value=3.0, time_ms=6.0))])
        report = watched.report(7.0, 0.0)

        assert report.error is not None
        assert (report.error.labels, report.error.mean, report.error.expected) == (2, 0.25, 0.8)
        assert report.counts == {"windows": 2, "labels": 2}

    def test_a_label_that_nobody_waits_for_is_counted(self) -> None:
        watched = monitor()
        watched.hear([Told("wear", "a", Label(value=3.5, time_ms=5.0))])
        watched.see([], 0.0)

        assert watched.report(7.0, 0.0).counts["labels_unmatched"] == 1

    def test_where_windows_were_left_out_only_exact_labels_count_whenever_they_come(self) -> None:
        model = predictor(passing=PassRules(label_tolerance_ms=10.0))
        handed = Handed(*[seen(1.0, time_ms) for time_ms in (5.0, 50.0, 55.0)])
        watch = DriftWatch(handed, {"wear": model})
        handed.left_out["wear"] = 7
        list(watch.look(40.0, 1.0))
        for now_s, label_ms in ((2.0, 7.0), (3.0, 65.0), (4.0, 50.0)):  # the last one is exact
            handed.items = [Told("wear", "a", Label(value=3.0, time_ms=label_ms))]
            list(watch.look(60.0, now_s))
        handed.items = [seen(1.0, 100.0), Told("wear", "a", Label(value=3.0, time_ms=102.0))]
        watch.tell_all()

        (report,) = watch.look(110.0, 5.0)

        assert report.error.labels == 2

    def test_a_larger_error_is_drift_and_dated(self) -> None:
        watched = monitor(reference(error=EXPECTED))
        for number in range(40):
            watched.see([seen(1.0, number)], 0.0)
            watched.hear([Told("wear", "a", Label(value=3.0 + (number >= 20) * 5, time_ms=number))])
        report = watched.report(100.0, 1.0)

        assert (report.drifting, report.since_ms) == (True, 20.0)
        assert report.detail.startswith("error ")

    def test_a_forecast_is_judged_by_the_reading_that_comes_at_its_time(self) -> None:
        ahead = Ahead(column=0, after_ms=1000.0, tolerance_ms=100.0)
        watched = monitor(reference(ahead=ahead), task=Task.FORECAST)
        watched.see([seen(1.0, 0.0, value=4.0), seen(4.5, 1050.0, value=0.0)], 0.0)
        watched.see([seen(9.0, 1050.0, device="b")], 0.0)

        assert (watched.error.labels, watched.error.mean) == (1, 0.5)

    def test_a_reference_of_other_features_is_told_and_the_rest_is_watched(self) -> None:
        watched = monitor(reference(features=[histogram(np.arange(9.0))] * 2))
        watched.see([seen(1.0, 0.0)], 0.0)

        assert "not those of the manifest" in watched.report(1.0, 1.0).detail


class TestHandover:
    def test_a_little_is_handed_over_whole_with_its_labels_in_their_order(self) -> None:
        bench = Bench(predictor(), trusted_writers=["lab"])
        bench.deliver(b'[{"time_ms":5,"values":{"x":3}},{"time_ms":6,"values":{"x":4}}]')
        bench.deliver(b'{"time_ms":5,"value":7}', topic="atoll/v1/site/lab/label/press-1/wear")
        bench.deliver()

        first, second, label, third = bench.lane.handover.take()
        assert first == Seen("wear", 1, "press-1", 5.0, np.float32(3).tobytes(), pytest.approx(7.0))
        assert (second.time_ms, third.time_ms) == (6.0, 5.0)
        assert label == Told("wear", "press-1", Label(value=7.0, time_ms=5.0))
        assert bench.lane.handover.take() == []

    def test_of_a_lot_a_part_is_handed_over_and_the_rest_counted(self) -> None:
        bench = Bench(predictor())
        batch = b",".join(b'{"time_ms":%d,"values":{"x":3}}' % number for number in range(500))
        bench.deliver(b"[" + batch + b"]")
        handed = bench.lane.handover.take()

        assert BURST <= len(handed) < BURST + 60
        assert len(handed) + bench.lane.handover.left_out["wear"] == 500

    def test_the_queue_is_bounded(self) -> None:
        handover = Handover()
        for number in range(MAX_WAITING + 3):
            handover.tell("wear", "a", Label(value=1.0, time_ms=number))

        assert (len(handover.take()), handover.left_out["wear"]) == (MAX_WAITING, 3)

    def test_only_what_is_heard_is_handed_over_once_a_release_is_on_trial(self) -> None:
        bench = Bench(predictor())
        bench.lane.try_out(predictor(2, passing=PassRules()))
        bench.turn()
        for number in range(10):
            bench.deliver(b'{"time_ms":%d,"values":{"x":3}}' % number)

        assert [one.release for one in bench.lane.handover.take()] == [1] * 10


class Handed:
    """Implements ``ports.Handed``."""

    def __init__(self, *items) -> None:
        self.items = list(items)
        self.left_out = Handover().left_out

    def take(self):
        taken, self.items = self.items, []
        return taken


class TestWatch:
    def test_a_champion_is_reported_at_once_when_it_begins_to_drift_and_now_and_then(self) -> None:
        model = predictor()
        model.reference = reference(error=EXPECTED)
        handed = Handed()
        watch = DriftWatch(handed, {"wear": model})

        first = [*watch.look(1e3, 1.0), *watch.look(101e3, 101.0)]
        quiet = list(watch.look(102e3, 102.0))
        handed.items = [seen(1.0, number) for number in range(20)]
        handed.items += [Told("wear", "a", Label(value=50.0, time_ms=number)) for number in range(20)]
        begun = list(watch.look(103e3, 103.0))
        quiet += list(watch.look(104e3, 104.0))
        again = list(watch.look(163e3, 163.0))

        assert [one.drifting for one in [*first, *begun, *again]] == [False, False, True, True]
        assert quiet == []

    @pytest.mark.parametrize(
        ("errors", "expected"),
        [
            ([10.0 * 2**number for number in range(12)] + [40960.0] * 20, [0, 5, 10, 15]),  # then it stands
            ([1e6] * 5 + [8.0] * 15, [0, 5, 10, 15]),  # it falls, and is beyond the limit still
            ([1.2 ** (number % 2) for number in range(20)], [1]),  # as it should be; what drifts is x
        ],
    )
    def test_an_error_beyond_its_limit_is_told_when_it_has_moved(self, errors, expected) -> None:
        model = predictor()
        model.reference = reference(error=EXPECTED)
        handed = Handed()
        watch = DriftWatch(handed, {"wear": model})
        list(watch.look(1e3, 1.0))
        list(watch.look(1000e3, 1000.0))

        told = []
        for number, error in enumerate(errors):
            second = 1010 + number
            times_ms = [second * 1e3 + place for place in range(100)]
            handed.items = [seen(1.0, time_ms) for time_ms in times_ms]
            handed.items += [Told("wear", "a", Label(value=3.0 + error, time_ms=one)) for one in times_ms]
            told += [number for _ in watch.look(second * 1e3, float(second))]

        assert told == expected

    def test_another_champion_begins_anew_and_what_the_former_said_is_not_its(self) -> None:
        predictors = {"wear": predictor()}
        handed = Handed()
        watch = DriftWatch(handed, predictors)
        list(watch.look(1e3, 1.0))
        predictors["wear"] = predictor(2)
        handed.items = [seen(1.0, 5.0)]

        (report,) = watch.look(2e3, 2.0)

        assert (report.release, report.counts) == (2, {})
        del predictors["wear"]
        watch.tell_all()
        assert list(watch.look(3e3, 3.0)) == []
