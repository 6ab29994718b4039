"""Devices and their schedule, in virtual time."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.random import SeedSequence

from atoll_sim.device import Device, DevicePlan, Sample
from atoll_sim.fault_times import Recurring
from atoll_sim.faults import Drift, Dropout, Fault, Spike, Step, Stuck
from atoll_sim.firmware import Taken
from atoll_sim.schedule import LabelDue, Occurrence, ReadingDue, Schedule
from atoll_sim.signals import Constant, Sine, Uniform, Walk
from atoll_sim.truth import Truth

SIGNALS = {
    "x": Uniform(low=-1.0, high=1.0),
    "load": Walk(low=0.0, high=100.0, step=2.0),
    "sway": Sine(mean=0.0, amplitude=1.0, period_s=3.0, noise=0.1),
}


def device(
    *faults: Fault, truth: Truth | None = None, rate_hz: float = 10.0, seed: int = 1, name: str = "press-1"
) -> Device:
    return Device(DevicePlan(name, "press", rate_hz, 1, SIGNALS, faults, truth), SeedSequence(seed))


def samples(device: Device, count: int) -> list[Sample]:
    return [device.take() for _ in range(count)]


def ramp(*faults: Fault, count: int, rate_hz: float = 1.0) -> list[float | None]:
    """What a sensor says whose signal is always 10."""
    plan = DevicePlan(
        "press-1", "press", rate_hz, 1, {"x": Constant(mean=10.0), "y": Constant(mean=0.0)}, faults
    )
    return [sample.values.get("x") for sample in samples(Device(plan, SeedSequence(1)), count)]


class TestDevice:
    @given(st.integers(0, 2**64))
    def test_the_same_seed_and_plan_give_the_same_readings_and_labels(self, seed: int) -> None:
        truth = Truth(model="wear", slope={"x": 2.0}, noise=0.1, labelled_share=0.5)
        fault = Spike(value="x", size=9.0, share=0.5)

        first, second = (samples(device(fault, truth=truth, seed=seed), 40) for _ in range(2))

        assert first == second
        assert first != samples(device(fault, truth=truth, seed=seed + 1), 40)

    def test_readings_are_evenly_spaced_from_time_0_on(self) -> None:
        assert [sample.time_s for sample in samples(device(rate_hz=4.0), 4)] == [0.0, 0.25, 0.5, 0.75]

    def test_a_fault_of_one_value_leaves_the_others_and_later_readings_as_they_were(self) -> None:
        fault = Spike(value="x", size=50.0, share=0.5, start_s=1.0, duration_s=1.0)

        healthy, faulty = samples(device(), 40), samples(device(fault), 40)

        for well, ill in zip(healthy, faulty, strict=True):
            assert ill.values["load"] == well.values["load"]
            if not 1.0 <= well.time_s < 2.0:
                assert ill == well
        assert sum(sample.is_disturbed for sample in faulty) == sum(
            ill.values != well.values for well, ill in zip(healthy, faulty, strict=True)
        )
        assert 1 <= sum(sample.is_disturbed for sample in faulty) <= 9


class TestFaults:
    def test_a_drift_grows_from_its_start_and_is_gone_at_its_end(self) -> None:
        fault = Drift(value="x", start_s=2.0, duration_s=3.0, rate_per_s=0.5)

        # time                    0     1     2     3     4     5     6
        assert ramp(fault, count=7) == [10.0, 10.0, 10.0, 10.5, 11.0, 10.0, 10.0]

    def test_a_step_holds_from_its_start_to_its_end(self) -> None:
        fault = Step(value="x", start_s=1.0, duration_s=2.0, size=-3.0)

        # time                    0     1    2    3     4
        assert ramp(fault, count=5) == [10.0, 7.0, 7.0, 10.0, 10.0]

    def test_a_fault_without_a_duration_stays(self) -> None:
        assert ramp(Step(value="x", start_s=2.0, size=1.0), count=100)[2:] == [11.0] * 98

    def test_a_dropout_removes_the_value(self) -> None:
        fault = Dropout(value="x", start_s=1.0, duration_s=2.0)

        assert ramp(fault, count=4) == [10.0, None, None, 10.0]

    def test_a_dropout_may_hit_a_share_of_the_readings(self) -> None:
        said = ramp(Dropout(value="x", share=0.3), count=2000)

        assert said.count(None) == pytest.approx(600, abs=75)

    def test_spikes_hit_a_share_of_the_readings_by_their_size(self) -> None:
        said = Counter(ramp(Spike(value="x", size=5.0, share=0.2), count=2000))

        assert said.keys() == {10.0, 15.0}
        assert said[15.0] == pytest.approx(400, abs=65)

    def test_a_stuck_sensor_repeats_what_it_said_last(self) -> None:
        stuck = samples(device(Stuck(value="x", start_s=0.5, duration_s=1.0)), 20)
        healthy = samples(device(), 20)

        held = [sample.values["x"] for sample in stuck]
        assert held[5:15] == [healthy[4].values["x"]] * 10
        assert held[15:] == [sample.values["x"] for sample in healthy[15:]]

    def test_faults_add_up_in_their_order_and_nothing_is_added_to_what_dropped_out(self) -> None:
        step, drift = Step(value="x", size=1.0), Drift(value="x", rate_per_s=1.0)
        dropout = Dropout(value="x", start_s=2.0)

        assert ramp(step, drift, count=3) == [11.0, 12.0, 13.0]
        assert ramp(dropout, step, count=3) == [11.0, 11.0, None]

    @given(
        start=st.integers(0, 50), length=st.integers(1, 50), rate_hz=st.sampled_from([1.0, 3.0, 10.0, 64.0])
    )
    def test_a_fault_is_active_from_its_start_up_to_its_end(
        self, start: int, length: int, rate_hz: float
    ) -> None:
        fault = Step(value="x", start_s=start / rate_hz, duration_s=length / rate_hz, size=1.0)
        times = Recurring(fault, np.random.default_rng(0))
        active = [number for number in range(120) if times.since_s(number / rate_hz) is not None]

        assert active == list(range(start, start + length))

    def test_the_reading_at_the_end_of_a_fault_is_right_again(self) -> None:
        # In floating point 0.2 + 0.1 is above 0.3.
        fault = Step(value="x", start_s=0.2, duration_s=0.1, size=1.0)

        assert Recurring(fault, np.random.default_rng(0)).since_s(0.3) is None


class TestTruth:
    def test_a_label_is_slope_times_signal_plus_intercept(self) -> None:
        truth = Truth(model="wear", slope={"x": 2.0, "load": -1.0}, intercept=3.0)

        for sample in samples(device(truth=truth), 50):
            assert sample.label == pytest.approx(2.0 * sample.values["x"] - sample.values["load"] + 3.0)

    def test_the_truth_stays_true_to_the_undisturbed_signal(self) -> None:
        truth = Truth(model="wear", slope={"x": 2.0}, noise=0.1)
        faults = (Step(value="x", size=100.0), Drift(value="x", rate_per_s=3.0))

        healthy, faulty = samples(device(truth=truth), 30), samples(device(*faults, truth=truth), 30)

        assert [sample.label for sample in faulty] == [sample.label for sample in healthy]
        assert all(sample.values["x"] > 90 for sample in faulty)

    def test_a_reading_that_lost_all_its_values_has_no_label(self) -> None:
        truth = Truth(model="wear", slope={"x": 2.0})
        plan = DevicePlan("p-1", "press", 1.0, 1, {"x": Constant(mean=1.0)}, (Dropout(value="x"),), truth)

        sample = Device(plan, SeedSequence(1)).take()

        assert not sample.values
        assert sample.label is None

    def test_a_share_of_the_readings_is_labelled(self) -> None:
        truth = Truth(model="wear", slope={"x": 2.0}, labelled_share=0.25)

        labelled = [sample for sample in samples(device(truth=truth), 2000) if sample.label is not None]

        assert len(labelled) == pytest.approx(500, abs=70)

    def test_noise_has_the_given_standard_deviation(self) -> None:
        truth = Truth(model="wear", slope={"x": 2.0}, noise=0.5)

        rest = [
            (sample.label or 0.0) - 2.0 * sample.values["x"] for sample in samples(device(truth=truth), 5000)
        ]

        mean = sum(rest) / len(rest)
        assert mean == pytest.approx(0.0, abs=0.03)
        assert (sum((one - mean) ** 2 for one in rest) / len(rest)) ** 0.5 == pytest.approx(0.5, rel=0.05)

    def test_a_changed_truth_holds_from_the_next_reading_on_and_values_are_as_before(self) -> None:
        truth = Truth(model="wear", slope={"x": 2.0}, noise=0.1)
        changing, steady = device(truth=truth), device(truth=truth)

        before = samples(changing, 5)
        changing.change_truth(truth.changed({"slope_x": 3.0, "intercept": -1.0}))
        after = samples(changing, 5)

        expected = samples(steady, 10)
        assert before == expected[:5]
        for new, old in zip(after, expected[5:], strict=True):
            assert new.values == old.values
            assert new.label == pytest.approx(old.label + old.values["x"] - 1.0)


class TestSchedule:
    def take(self, schedule: Schedule, count: int) -> list[tuple[float, Occurrence]]:
        taken = []
        for _ in range(count):
            assert schedule.next_s is not None
            due_s, occurrence = schedule.next_s, schedule.take()
            taken.append((due_s, occurrence))
            if isinstance(occurrence, ReadingDue):
                sample = occurrence.sample
                sent = Taken(sample.stamp_s, sample.values, 0, 1, sample.time_s, sample.label)
                schedule.expect_label(occurrence.device, sent, due_s)
        return taken

    def test_readings_of_all_devices_come_in_order_of_time(self) -> None:
        schedule = Schedule([device(name="slow", rate_hz=1.0), device(name="fast", rate_hz=2.0)])

        # time   0          0.5   1           1.5   2
        # slow   *                *                 *
        # fast   *          *     *           *     *
        names = [
            (due_s, occurrence.device.plan.device)
            for due_s, occurrence in self.take(schedule, 7)
            if isinstance(occurrence, ReadingDue)
        ]
        assert names == [
            (0.0, "slow"),
            (0.0, "fast"),
            (0.5, "fast"),
            (1.0, "slow"),
            (1.0, "fast"),
            (1.5, "fast"),
            (2.0, "slow"),
        ]

    def test_a_label_comes_its_delay_after_its_reading_and_carries_its_time(self) -> None:
        truth = Truth(model="wear", slope={"x": 1.0}, label_delay_s=0.25)
        schedule = Schedule([device(truth=truth)], readings=2)

        # time      0   0.1   0.25     0.35
        # reading   *   *
        # label               of 0     of 0.1
        taken = self.take(schedule, 4)

        labels = [(due_s, due.reading_s) for due_s, due in taken if isinstance(due, LabelDue)]
        assert [type(due) for _, due in taken] == [ReadingDue, ReadingDue, LabelDue, LabelDue]
        assert labels == [(pytest.approx(0.25), 0.0), (pytest.approx(0.35), 0.1)]
        assert schedule.next_s is None

    def test_it_ends_after_so_many_readings_and_their_labels(self) -> None:
        truth = Truth(model="wear", slope={"x": 1.0}, label_delay_s=60.0)
        schedule = Schedule([device(truth=truth), device(truth=truth, name="press-2")], readings=5)

        self.take(schedule, 5)
        assert schedule.pending_labels == 5
        self.take(schedule, 5)

        assert schedule.pending_labels == 0
        assert schedule.next_s is None
        with pytest.raises(IndexError):
            schedule.take()

    def test_the_label_of_a_reading_that_left_late_follows_it(self) -> None:
        truth = Truth(model="wear", slope={"x": 1.0}, label_delay_s=1.0)
        schedule = Schedule([device(truth=truth)], readings=1)
        occurrence = schedule.take()
        assert isinstance(occurrence, ReadingDue)
        schedule.expect_label(occurrence.device, Taken(0.0, {"x": 1.0}, 0, 1, 0.0, 5.0), now_s=7.0)

        assert schedule.next_s == 7.0

    @given(st.lists(st.sampled_from([0.5, 1.0, 3.0, 7.0]), min_size=1, max_size=4), st.floats(0.0, 5.0))
    def test_time_never_runs_back_and_no_label_is_lost(self, rates_hz: list[float], delay_s: float) -> None:
        truth = Truth(model="wear", slope={"x": 1.0}, label_delay_s=delay_s)
        devices = [device(truth=truth, rate_hz=rate, name=f"d-{n}") for n, rate in enumerate(rates_hz)]
        schedule = Schedule(devices, readings=60)

        taken = self.take(schedule, 120)

        times = [due_s for due_s, _ in taken]
        assert times == sorted(times)
        for due_s, due in taken:
            assert due_s == (due.sample.time_s if isinstance(due, ReadingDue) else due.reading_s + delay_s)
        readings = {(o.device.plan.device, o.sample.time_s) for _, o in taken if isinstance(o, ReadingDue)}
        labels = {(o.device.plan.device, o.reading_s) for _, o in taken if isinstance(o, LabelDue)}
        assert len(readings) == 60
        assert labels == readings
