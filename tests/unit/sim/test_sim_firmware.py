"""What a simulated device's firmware makes of its samples."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import SeedSequence

from atoll_sim.device import Device, DevicePlan
from atoll_sim.fault_times import Recurring
from atoll_sim.faults import Fault, Step
from atoll_sim.firmware import Firmware, FirmwarePlan, Outgoing
from atoll_sim.message_faults import ClockStep, Duplicate, Flood, Malformed, OutOfOrder
from atoll_sim.signals import Constant


def firmware(seed: int = 1, **plan: object) -> Firmware:
    return Firmware(FirmwarePlan(**plan), np.random.default_rng(seed))  # type: ignore[arg-type]


def sent(device: Firmware, count: int, *faults: Fault, period_s: float = 1.0) -> list[Outgoing]:
    """Return the messages of ``count`` readings, the value of each being its number."""
    kinds = {type(fault): fault for fault in faults}
    return [
        message
        for number in range(count)
        for message in device.send(number * period_s, number * period_s, {"x": float(number)}, kinds)
    ]


def told(messages: Sequence[Outgoing]) -> list[float]:
    return [taken.values["x"] for message in messages for taken in message.readings]


def test_a_healthy_device_sends_each_reading_once_and_numbers_them() -> None:
    messages = sent(firmware(), 5)

    assert told(messages) == [0, 1, 2, 3, 4]
    assert [taken.seq for message in messages for taken in message.readings] == [0, 1, 2, 3, 4]


def test_nothing_is_taken_until_it_has_booted_and_then_it_says_hello_once() -> None:
    device = firmware(boot_s=3.0, hello=True)

    assert device.hello(2.0) is None
    assert told(sent(device, 5)) == [3, 4]
    hello = device.hello(4.0)
    assert hello is not None
    assert (hello.boot, hello.battery) == (1, None)
    assert device.hello(5.0) is None


def test_a_batch_leaves_when_it_is_full() -> None:
    assert [told([message]) for message in sent(firmware(batch=3), 8)] == [[0, 1, 2], [3, 4, 5]]


@settings(max_examples=30)
@given(seed=st.integers(0, 1000), buffer=st.integers(1, 1000))
def test_what_the_network_kept_back_is_sent_in_order_but_for_what_the_buffer_could_not_hold(
    seed: int, buffer: int
) -> None:
    device = firmware(seed, loss_per_h=120.0, loss_s=20.0, buffer=buffer)
    values = told(sent(device, 600))

    assert values == sorted(set(values))
    assert len(values) + device.counts["readings_forgotten"] >= 600 - buffer
    assert device.counts["readings_resent"] or not device.counts["readings_forgotten"]


def test_with_room_in_the_buffer_a_lost_network_loses_nothing() -> None:
    device = firmware(3, loss_per_h=60.0, loss_s=30.0)
    messages = sent(device, 3000)
    last = int(told(messages)[-1])

    assert told(messages) == list(range(last + 1))
    assert device.counts["readings_resent"] > 0
    assert device.counts["readings_forgotten"] == 0


def test_an_empty_battery_is_changed_and_the_device_begins_anew() -> None:
    device = firmware(battery_readings=3, replace_s=2.0, hello=True)
    messages = sent(device, 8)

    # 0 1 2, empty at 3, changed at 5: 5 6 7.
    assert told(messages) == [0, 1, 2, 5, 6, 7]
    assert [(taken.boot, taken.seq) for message in messages for taken in message.readings] == [
        (1, 0), (1, 1), (1, 2), (2, 0), (2, 1), (2, 2),
    ]  # fmt: skip
    hello = device.hello(8.0)
    assert hello is not None
    assert (hello.boot, hello.battery) == (2, 0.0)


def test_a_sleeping_device_takes_no_reading() -> None:
    device = firmware()
    device.sleep(3.0)

    assert told(sent(device, 5)) == [3, 4]
    assert device.counts["readings_off"] == 3


def test_every_reading_was_sent_or_is_counted() -> None:
    device = firmware(
        5, boot_s=20.0, batch=7, buffer=5, loss_per_h=60.0, loss_s=30.0, battery_readings=150, replace_s=40.0
    )
    messages = sent(device, 1000, OutOfOrder(share=0.3))
    device.end()
    counts = device.counts

    assert counts["readings_unsent"] > 0
    lost = counts["readings_off"] + counts["readings_forgotten"] + counts["readings_unsent"]
    assert len(told(messages)) + lost == 1000


class TestMessageFaults:
    def test_a_duplicate_is_the_same_message_twice(self) -> None:
        messages = sent(firmware(), 3, Duplicate(share=1.0))

        assert told(messages) == [0, 0, 1, 1, 2, 2]
        assert messages[0] is messages[1]

    def test_out_of_order_messages_leave_behind_their_successor_and_none_is_lost(self) -> None:
        values = told(sent(firmware(), 400, OutOfOrder(share=0.3)))

        assert values != sorted(values)
        assert set(range(399)) <= set(values)
        assert len(values) == len(set(values))
        assert all(abs(value - place) <= 1 for place, value in enumerate(values))

    def test_a_flood_sends_each_reading_many_times_under_numbers_of_their_own(self) -> None:
        messages = sent(firmware(), 2, Flood(times=5))

        assert told(messages) == [0] * 5 + [1] * 5
        assert [taken.seq for message in messages for taken in message.readings] == list(range(10))

    def test_a_malformed_message_is_marked(self) -> None:
        assert all(message.is_spoilt for message in sent(firmware(), 3, Malformed(share=1.0)))

    @given(payload=st.binary(max_size=60), seed=st.integers(0, 10_000))
    def test_a_spoilt_payload_is_never_the_one_it_was(self, payload: bytes, seed: int) -> None:
        assert Malformed.spoil(payload, np.random.default_rng(seed)) != payload


class TestTimes:
    def test_a_fault_at_random_comes_as_often_as_it_is_to(self) -> None:
        fault = Step(value="x", size=1.0, per_h=60.0, duration_s=10.0)
        times = Recurring(fault, np.random.default_rng(5))
        is_there = [times.since_s(float(second)) is not None for second in range(36_000)]
        begins = sum(now and not before for before, now in pairwise(is_there))

        # After each of its 10 s it takes 60 s in the mean: about 514 times in ten hours.
        assert 440 <= begins <= 590
        assert 0.11 <= sum(is_there) / len(is_there) <= 0.18

    def test_a_fault_that_comes_often_must_end(self) -> None:
        with pytest.raises(ValueError, match="duration_s"):
            Step(value="x", size=1.0, per_h=1.0)


def plan(*faults: Fault, **settings: object) -> DevicePlan:
    signals = {"x": Constant(mean=1.0, noise=1.0)}
    firmware_plan = FirmwarePlan(**settings)  # type: ignore[arg-type]
    return DevicePlan("press-1", "press", 1.0, 1, signals, faults, None, firmware_plan)


def test_clocks_drift_and_step_and_values_do_not_care() -> None:
    device = Device(
        plan(ClockStep(size_s=-100.0, start_s=5.0, duration_s=2.0), drift_ppm=1e4), SeedSequence(3)
    )
    right = Device(plan(), SeedSequence(3))
    samples, healthy = ([one.take() for _ in range(10)] for one in (device, right))
    away = [one.stamp_s - one.time_s for one in samples]

    assert [one.values for one in samples] == [one.values for one in healthy]
    assert [one.stamp_s for one in healthy] == [one.time_s for one in healthy]
    assert away[4] != 0.0
    assert away[4] == pytest.approx(4 * away[1])
    assert [number for number, apart in enumerate(away) if apart < -90] == [5, 6]


def test_the_same_seed_gives_the_same_losses() -> None:
    first, second = (sent(firmware(8, loss_per_h=100.0), 500) for _ in range(2))

    assert first == second
