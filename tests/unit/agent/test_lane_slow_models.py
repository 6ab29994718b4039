from __future__ import annotations

import pytest
from support.lanes import TOPIC, Bench, Hold, predictor, stream, tuned, turn_until

from atoll_contract.errors import Reason
from atoll_ingest.stream import Overload


class SlowBench(Bench):
    """A lane whose model takes its time: until the test lets it go on."""

    def __init__(self, *, limit: int = 2, **options):
        model = predictor()
        self._hold = Hold(model, answer_s=1.0 / limit)
        super().__init__(model, streams=[stream(**options)])

    def read(self, *numbers: int, qos: int = 1) -> None:
        for number in numbers:
            payload = b'{"time_ms":%d,"values":{"x":%d}}' % (number, number)
            device = TOPIC if number < 10 else TOPIC.replace("press-1", "press-2")
            self.wire.deliver(device, payload, mid=number, qos=qos)
        self.lane.turn(0)

    def hold_the_thread(self) -> None:
        """Give it the reading 1 to work on, so that all that follow wait."""
        self.read(1)
        assert self._hold.at_work.acquire(timeout=20)

    def answer(self, count: int) -> list[float]:
        """Let ``count`` readings be answered; return the times of all predictions."""
        self._hold.let_go(count)
        turn_until(self, lambda: len(self.wire.sent) >= count)
        return [prediction["time_ms"] for prediction in self.predictions]


def test_a_slow_model_does_not_hold_up_the_lane():
    bench = SlowBench()

    bench.hold_the_thread()
    bench.deliver(b"{", mid=2)
    refused = bench.refusals()

    assert refused == {("press", Reason.MALFORMED_PAYLOAD): 1}
    assert bench.acknowledged == []
    assert bench.answer(1) == [1]
    bench.wire.puback(1)
    bench.turn()
    assert bench.acknowledged == [1, 2]


def test_when_too_much_waits_for_a_slow_model_no_reading_at_qos_1_is_left_out():
    bench = SlowBench()

    bench.hold_the_thread()
    bench.read(2, 3, 4, 5)

    assert bench.answer(5) == [1, 2, 3, 4, 5]


def test_when_too_much_waits_readings_at_qos_0_are_refused():
    bench = SlowBench()

    bench.hold_the_thread()
    bench.read(2, 3, 4, 5, qos=0)

    assert bench.answer(3) == [1, 2, 3]
    assert bench.refusals() == {("wear", Reason.OVERLOAD): 2}


@pytest.mark.parametrize(
    ("overload", "answered"), [(Overload.NEWEST, [1, 10, 4]), (Overload.SAMPLE, [1, 2, 10])]
)
def test_the_policy_says_which_readings_are_left_out_and_all_are_acknowledged(overload, answered):
    """``newest``: older ones of the same device; ``sample``: those that find no room."""
    bench = SlowBench(overload=overload)

    bench.hold_the_thread()
    bench.read(2, 10, 3, 4)

    assert bench.answer(3) == answered
    assert bench.counts()["readings_left_out"] == 2
    bench.wire.puback(1, 2, 3)
    bench.turn()
    assert bench.acknowledged == [1, 2, 10, 3, 4]


def test_a_swap_leaves_what_waits_to_the_predecessor():
    bench = SlowBench()
    bench.hold_the_thread()
    bench.read(2)

    bench.lane.swap(predictor(2), has_restarted=False)
    bench.read(3)

    assert bench.answer(3) == [3, 1, 2]
    assert [prediction["release"] for prediction in bench.predictions] == [2, 1, 1]


def test_a_fault_in_the_thread_of_a_model_ends_the_lane():
    broken = predictor()
    broken.answer_s = 0.5
    broken.answers = None
    bench = Bench(broken)
    bench.wire.deliver(TOPIC, b'{"values":{"x":1}}')

    with pytest.raises(TypeError):
        bench.lane.run()


def test_a_lane_that_is_behind_leaves_readings_out_as_the_stream_says():
    bench = Bench(tuned(), streams=[stream(overload=Overload.NEWEST)])
    track = bench.lane._tracks["press"]

    for number in range(100):
        bench.wire.deliver(TOPIC, b'{"time_ms":%d,"values":{"x":1}}' % number, mid=number + 1)
    track.work(0.0, is_behind=True)
    track.heed(bench.wire.step(0))
    track.work(0.0, is_behind=True)

    assert len(bench.wire.sent) == 64
    assert bench.predictions[-1]["time_ms"] == 99
    assert bench.counts()["readings_left_out"] == 36
