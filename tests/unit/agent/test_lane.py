from __future__ import annotations

import json
import threading
import time

import pytest
from support.bundles import make_bundle
from support.scripted_wire import ScriptedWaiter, ScriptedWire

from atoll_agent.lane import track as track_module
from atoll_agent.lane.lane import Lane
from atoll_agent.rollout.trial import Outcome
from atoll_contract.errors import Reason
from atoll_contract.manifest import OutputSpec, PassRules
from atoll_infer.predictor import Predictor
from atoll_infer.runtime import choose_runtime
from atoll_ingest.dialect import AtollDialect
from atoll_ingest.stream import Overload, Stream, TopicPattern
from atoll_link.session import Subscribed

TOPIC = "atoll/v1/site/press-1/reading/press"


def stream(name="press", **options) -> Stream:
    pattern = TopicPattern(f"atoll/v1/site/{{device}}/reading/{name}")
    return Stream(name, (pattern,), AtollDialect(), {"x": None}, **options)


def predictor(release=1, **options) -> Predictor:
    bundle = make_bundle(release=release, **options)
    return Predictor(bundle.manifest, choose_runtime().runtime.load(bundle.model))


def tuned(**options) -> Predictor:
    """Return a predictor that answers in batches."""
    bundle, runtime = make_bundle(**options), choose_runtime().runtime
    made = Predictor(bundle.manifest, runtime.load(bundle.model))
    assert made.use_batches(runtime.load(bundle.model, batch=32), pays_from=2)
    return made


class Clock:
    """Implements ``ports.ClockState``."""

    is_time_unsynced = False

    def look(self) -> bool:
        return False


class Bench:
    """A lane on a scripted wire, connected."""

    def __init__(self, *predictors: Predictor, streams=None, stream_of=None):
        self.wire = ScriptedWire()
        self.clock = Clock()
        self.lane = Lane(
            {"press": self.wire},
            ScriptedWaiter(self.wire),
            streams or [stream()],
            stream_of or {"wear": "press"},
            site="site",
            agent="pi",
            max_devices=100,
            clock=self.clock,
        )
        for item in predictors:
            self.lane.swap(item, has_restarted=False)
        self.wire.connect()
        self.turn()

    def turn(self) -> None:
        self.lane.turn(0)

    def deliver(self, payload=b'{"time_ms":5,"values":{"x":3}}', topic=TOPIC, **options) -> None:
        self.wire.deliver(topic, payload, **options)
        self.turn()

    @property
    def predictions(self) -> list[dict]:
        return [json.loads(payload) for _, _, payload in self.wire.sent]

    @property
    def acknowledged(self) -> list[int]:
        return [delivery.mid for delivery in self.wire.acknowledged]

    def counts(self) -> dict[str, int]:
        self.lane._make_report(0)
        return dict(self.lane.report.counts)

    def refusals(self) -> dict:
        self.lane._make_report(0)
        return dict(self.lane.report.refusals)


def test_a_reading_becomes_a_prediction_with_its_event_time():
    bench = Bench(predictor())

    bench.deliver(b'{"time_ms":5.5,"values":{"x":3},"seq":8,"boot":"b"}')

    _, topic, _ = bench.wire.sent[0]
    assert topic == "atoll/v1/site/pi/prediction/press-1/wear"
    prediction = bench.predictions[0]
    assert prediction.pop("latency_ms") >= 0
    assert prediction == {
        "time_ms": 5.5,
        "value": pytest.approx(7.0),
        "release": 1,
        "seq": 8,
        "boot": "b",
        "stream": "press",
    }


def test_a_reading_without_a_time_gets_that_of_its_arrival():
    bench = Bench(predictor())

    bench.deliver(b'{"values":{"x":3}}')

    assert bench.predictions[0]["time_ms"] == 1000.0


def test_a_time_that_an_unsynchronised_clock_gave_is_flagged():
    bench = Bench(predictor())
    bench.clock.is_time_unsynced = True

    bench.deliver(b'{"values":{"x":3}}')
    bench.deliver(b'{"time_ms":5,"values":{"x":3}}')

    assert [prediction.get("quality") for prediction in bench.predictions] == [["time_unsynced"], None]


def test_a_reading_is_acknowledged_only_after_its_prediction():
    bench = Bench(predictor())

    bench.deliver(mid=7)
    before = list(bench.acknowledged)
    bench.wire.puback(1)
    bench.turn()

    assert (before, bench.acknowledged) == ([], [7])


def test_acknowledgements_leave_in_order_of_arrival():
    bench = Bench(predictor())

    for mid in (1, 2, 3):
        bench.deliver(b'{"time_ms":%d,"values":{"x":3}}' % mid, mid=mid)
    bench.wire.puback(3, 2)
    bench.turn()
    before = list(bench.acknowledged)
    bench.wire.puback(1)
    bench.turn()

    assert (before, bench.acknowledged) == ([], [1, 2, 3])


@pytest.mark.parametrize(
    ("payload", "reason", "where"),
    [
        (b"{", Reason.MALFORMED_PAYLOAD, "press"),
        (b'{"values":{"x":NaN}}', Reason.MALFORMED_PAYLOAD, "press"),
        (b'{"values":{"y":1}}', Reason.MISSING_VALUE, "wear"),
        (b'{"values":{"x":null}}', Reason.MISSING_VALUE, "wear"),
        (b'{"values":{"x":1e300}}', Reason.NOT_FINITE, "wear"),
        (b'{"values":{"x":[1,2]}}', Reason.WRONG_SHAPE, "wear"),
        (b"x" * 300_000, Reason.TOO_LARGE, "press"),
    ],
)
def test_what_cannot_be_answered_is_counted_by_reason_and_acknowledged(payload, reason, where):
    bench = Bench(predictor())

    bench.deliver(payload, mid=9)

    assert bench.acknowledged == [9]
    assert bench.refusals() == {(where, reason): 1}
    assert bench.wire.sent == []


def test_a_model_that_answers_nan_is_counted_and_the_reading_acknowledged():
    bench = Bench(predictor(file="nan_float"))

    bench.deliver(b'{"values":{"x":-3}}', mid=9)

    assert bench.acknowledged == [9]
    assert bench.refusals() == {("wear", Reason.OUTPUT_NOT_FINITE): 1}


def test_a_topic_that_makes_no_id_is_counted_and_acknowledged():
    bench = Bench(predictor())

    bench.deliver(topic=f"atoll/v1/site/{'é' * 20}/reading/press", mid=4)

    assert bench.acknowledged == [4]
    assert bench.refusals() == {("press", Reason.MALFORMED_TOPIC): 1}


def test_a_retained_reading_is_ignored_unless_the_stream_uses_it():
    ignoring, using = Bench(predictor()), Bench(predictor(), streams=[stream(use_retained=True)])

    ignoring.deliver(is_retained=True)
    using.deliver(is_retained=True)

    assert ignoring.refusals() == {("press", Reason.RETAINED): 1}
    assert using.predictions[0]["quality"] == ["replayed"]


def test_without_a_model_readings_are_counted_and_acknowledged():
    bench = Bench()

    bench.deliver(mid=3)

    assert bench.acknowledged == [3]
    assert bench.counts()["readings_without_model"] == 1


def test_a_window_holds_no_acknowledgement_back():
    bench = Bench(predictor(file="mean12_float", length=12))

    for number in range(12):
        bench.deliver(b'{"time_ms":%d,"values":{"x":%d}}' % (number, number), mid=number + 1)

    assert bench.acknowledged == list(range(1, 12))
    assert bench.predictions[0]["window"] == {"start_ms": 0.0, "samples": 12}
    assert bench.predictions[0]["value"] == pytest.approx(5.5)


def test_a_swap_between_two_readings_keeps_the_windows():
    bench = Bench(predictor(file="mean12_float", length=12))

    for number in range(12):
        bench.deliver(b'{"time_ms":%d,"values":{"x":%d}}' % (number, number))
    swapped = bench.lane.swap(predictor(2, file="mean12_float", length=12), has_restarted=False)
    bench.deliver(b'{"time_ms":12,"values":{"x":12}}')

    assert swapped.done()
    assert [(p["release"], p["value"]) for p in bench.predictions] == [
        (1, pytest.approx(5.5)),
        (2, pytest.approx(6.5)),
    ]
    assert all("quality" not in prediction for prediction in bench.predictions)


def test_a_batch_is_acknowledged_after_all_its_predictions():
    bench = Bench(predictor())

    bench.deliver(b'[{"time_ms":1,"values":{"x":1}},{"time_ms":2,"values":{"x":2}}]', mid=5)
    bench.wire.puback(1)
    bench.turn()
    before = list(bench.acknowledged)
    bench.wire.puback(2)
    bench.turn()

    assert len(bench.wire.sent) == 2
    assert (before, bench.acknowledged) == ([], [5])


def test_two_models_on_a_stream_both_answer_and_one_refusal_does_not_stop_the_other():
    bench = Bench(
        predictor(), predictor(model="other", value="y"), stream_of={"wear": "press", "other": "press"}
    )

    bench.deliver(b'{"values":{"x":1}}', mid=1)
    bench.wire.puback(1)
    bench.turn()

    assert [topic.rsplit("/", 1)[1] for _, topic, _ in bench.wire.sent] == ["wear"]
    assert bench.refusals() == {("other", Reason.MISSING_VALUE): 1}
    assert bench.acknowledged == [1]


def test_a_redelivered_reading_is_not_answered_twice_and_is_acknowledged_once_its_prediction_is():
    bench = Bench(predictor())
    bench.deliver(mid=7)

    bench.wire.connect(session_present=True)
    bench.deliver(mid=7, is_duplicate=True)
    before = list(bench.acknowledged)
    bench.wire.puback(1)
    bench.turn()

    assert len(bench.wire.sent) == 1
    assert (before, bench.acknowledged) == ([], [7])
    assert bench.wire.acknowledged[0].connection == 2


def test_a_redelivery_is_recognised_over_two_reconnects():
    bench = Bench(predictor())
    bench.deliver(mid=7)

    for _ in range(2):
        bench.wire.connect(session_present=True)
        bench.turn()
    bench.deliver(mid=7, is_duplicate=True)

    assert len(bench.wire.sent) == 1


def test_an_acknowledgement_lost_on_the_way_leads_to_no_second_prediction():
    bench = Bench(predictor())
    bench.deliver(mid=7)
    bench.wire.puback(1)
    bench.turn()

    bench.wire.connect(session_present=True)
    bench.deliver(mid=7, is_duplicate=True)

    assert len(bench.wire.sent) == 1
    assert bench.acknowledged == [7, 7]


def test_an_equal_reading_that_is_flagged_dup_under_another_packet_id_is_a_new_one():
    bench = Bench(predictor())
    bench.deliver(mid=7)

    # Mosquitto sets DUP on what it wrote into a connection that was dead already.
    bench.wire.connect(session_present=True)
    bench.deliver(mid=8, is_duplicate=True)

    assert len(bench.wire.sent) == 2


def test_a_retained_reading_is_used_once_though_every_connect_brings_it():
    bench = Bench(predictor(), streams=[stream(use_retained=True)])

    for _ in range(3):
        bench.deliver(is_retained=True)

    assert len(bench.wire.sent) == 1


def test_the_latency_includes_the_inference():
    slow = predictor()
    answers = slow.answers

    def delayed(windows):
        until = time.monotonic() + 0.02
        while time.monotonic() < until:
            pass
        return answers(windows)

    slow.answers = delayed
    bench = Bench(slow)
    bench.wire.deliver(TOPIC, b'{"values":{"x":3}}', arrival_ns=time.monotonic_ns())
    bench.turn()

    assert 20 <= bench.predictions[0]["latency_ms"] < 10_000


def test_a_cancelled_swap_swaps_nothing():
    bench = Bench(predictor())
    swap = bench.lane.swap(predictor(2), has_restarted=False)

    swap.cancel()
    bench.deliver()

    assert bench.predictions[0]["release"] == 1


def test_a_refused_subscription_is_reported_until_it_is_granted():
    bench = Bench(predictor())

    bench.wire.events.append(Subscribed("a/+", refused=True))
    bench.turn()
    bench.counts()
    refused = bench.lane.report.refused_filters
    bench.wire.events.append(Subscribed("a/+", refused=False))
    bench.turn()
    bench.counts()

    assert (refused, bench.lane.report.refused_filters) == (("a/+",), ())


def test_equal_readings_without_the_dup_flag_are_two_readings():
    bench = Bench(predictor())

    bench.deliver(mid=7)
    bench.deliver(mid=8)

    assert len(bench.wire.sent) == 2


def test_a_reading_with_boot_and_seq_taken_before_is_answered_once():
    bench = Bench(predictor())

    for mid in (1, 2):
        bench.deliver(b'{"values":{"x":1},"boot":"b","seq":4}', mid=mid)

    assert len(bench.wire.sent) == 1
    assert bench.counts()["repeated"] == 1


def test_predictions_wait_when_the_wire_has_no_room_and_nothing_is_lost():
    bench = Bench(predictor())
    bench.wire.room = 1

    for mid in (1, 2):
        bench.deliver(b'{"time_ms":%d,"values":{"x":1}}' % mid, mid=mid)
    bench.wire.puback(1)
    bench.turn()
    bench.wire.room = 10
    bench.turn()
    bench.wire.puback(2)
    bench.turn()

    assert [prediction["time_ms"] for prediction in bench.predictions] == [1, 2]
    assert bench.acknowledged == [1, 2]


def test_more_qos_0_readings_than_can_leave_are_refused_as_overload(monkeypatch):
    monkeypatch.setattr(track_module, "MAX_OUTSTANDING", 2)
    bench = Bench(predictor())
    bench.wire.room = 1

    for _ in range(5):
        bench.deliver(qos=0)
    bench.wire.room = 10
    bench.turn()

    assert len(bench.wire.sent) == 3
    assert bench.refusals() == {("press", Reason.OVERLOAD): 2}


@pytest.mark.parametrize("qos", [0, 1])
def test_a_prediction_leaves_at_the_qos_of_its_reading(qos):
    bench = Bench(predictor())

    bench.deliver(qos=qos)

    assert bench.wire.qos == [qos]


@pytest.mark.parametrize("file", ["linear_float", "linear_int8"])
def test_readings_that_come_together_are_answered_as_if_each_came_alone(file):
    together, alone = Bench(tuned(file=file)), Bench(predictor(file=file))

    for number in range(150):
        payload = b'{"time_ms":%d,"values":{"x":%d}}' % (number, number % 7)
        together.wire.deliver(TOPIC, payload, mid=number + 1)
        alone.deliver(payload, mid=number + 1)
    together.turn()

    for bench in (together, alone):
        assert [prediction["time_ms"] for prediction in bench.predictions] == list(range(150))
    values = [[prediction["value"] for prediction in bench.predictions] for bench in (together, alone)]
    assert values[0] == pytest.approx(values[1], rel=1e-5)


def test_one_nan_among_readings_that_come_together_costs_only_its_own_prediction():
    bench = Bench(tuned(file="nan_float"))

    for mid, x in ((1, 4), (2, -3), (3, 9)):
        bench.wire.deliver(TOPIC, b'{"time_ms":%d,"values":{"x":%d}}' % (mid, x), mid=mid)
    bench.turn()

    assert [prediction["time_ms"] for prediction in bench.predictions] == [1, 3]
    assert bench.refusals() == {("wear", Reason.OUTPUT_NOT_FINITE): 1}


# A model that takes long


class SlowBench(Bench):
    """A lane whose model takes its time: until the test lets it go on."""

    def __init__(self, *, limit: int = 2, **options):
        slow = predictor()
        slow.answer_s = 1.0 / limit
        self.go_on = threading.Semaphore(0)
        self.at_work = threading.Semaphore(0)
        answers = slow.answers

        def waiting(windows):
            self.at_work.release()
            assert self.go_on.acquire(timeout=20)
            return answers(windows)

        slow.answers = waiting
        super().__init__(slow, streams=[stream(**options)])

    def read(self, *numbers: int, qos: int = 1) -> None:
        for number in numbers:
            payload = b'{"time_ms":%d,"values":{"x":%d}}' % (number, number)
            device = TOPIC if number < 10 else TOPIC.replace("press-1", "press-2")
            self.wire.deliver(device, payload, mid=number, qos=qos)
        self.lane.turn(0)

    def hold_the_thread(self) -> None:
        """Give it the reading 1 to work on, so that all that follow wait."""
        self.read(1)
        assert self.at_work.acquire(timeout=20)

    def answer(self, count: int) -> list[float]:
        """Let ``count`` readings be answered; return the times of all predictions."""
        for _ in range(count):
            self.go_on.release()
        deadline = time.monotonic() + 20
        while len(self.wire.sent) < count and time.monotonic() < deadline:
            self.lane.turn(0.1)
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


def test_with_newest_the_older_readings_of_a_device_are_left_out_and_acknowledged():
    bench = SlowBench(overload=Overload.NEWEST)

    bench.hold_the_thread()
    bench.read(2, 10, 3, 4)

    assert bench.answer(3) == [1, 10, 4]
    assert bench.counts()["readings_left_out"] == 2
    bench.wire.puback(1, 2, 3)
    bench.turn()
    assert bench.acknowledged == [1, 2, 10, 3, 4]


def test_with_sample_readings_that_find_no_room_are_left_out():
    bench = SlowBench(overload=Overload.SAMPLE)

    bench.hold_the_thread()
    bench.read(2, 3, 4, 5)

    assert bench.answer(3) == [1, 2, 3]
    assert bench.counts()["readings_left_out"] == 2


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


def test_a_stopping_lane_leaves_new_readings_to_the_broker():
    bench = Bench(predictor())
    bench.deliver(mid=1)
    bench.wire.deliver(TOPIC, b'{"values":{"x":1}}', mid=2)
    bench.wire.puback(1)

    bench.lane.stop()
    bench.lane.run()

    assert bench.acknowledged == [1]
    assert bench.wire.is_closed


# Releases on trial


def rated(release, *, shadow=2, probation=2, **options) -> Predictor:
    rules = PassRules(
        shadow_windows=shadow, probation_windows=probation, min_labels=2, **options.pop("rules", {})
    )
    return predictor(release, **options, passing=rules)


class TrialBench(Bench):
    """A lane with a champion, release 1, and ``challenger`` in shadow."""

    def __init__(self, challenger: Predictor, **options):
        super().__init__(predictor(**options))
        self.lane.try_out(challenger)
        self.turn()
        self._seq = 0

    def read(self, count: int, x: float = 3) -> None:
        for _ in range(count):
            self._seq += 1
            self.deliver(b'{"time_ms":%d,"values":{"x":%g}}' % (self._seq, x), mid=self._seq)

    def label(self, time_ms: int, value: float, source: str = "press-1") -> None:
        payload = b'{"time_ms":%d,"value":%g}' % (time_ms, value)
        self.deliver(payload, topic=f"atoll/v1/site/{source}/label/press-1/wear", mid=1000 + time_ms)

    @property
    def releases(self) -> list[int]:
        return [prediction["release"] for prediction in self.predictions]

    def trial(self):
        self.lane._make_report(0)
        return self.lane.report.trials["wear"]


OFF_BY_TEN = OutputSpec(offset=10.0)
"""A release that predicts 10 more than the champion."""


def test_in_shadow_only_the_champion_is_heard_and_both_are_compared():
    bench = TrialBench(rated(2, output=OFF_BY_TEN))

    bench.read(3)

    assert bench.releases == [1, 1, 1]
    trial = bench.trial()
    assert (trial.release, trial.is_on_probation, trial.windows) == (2, False, 3)
    assert trial.disagreement == pytest.approx(10)
    assert trial.verdict.outcome is Outcome.PASSED


def test_a_release_that_differs_too_much_from_the_champion_is_stopped_in_shadow():
    bench = TrialBench(rated(2, output=OFF_BY_TEN, rules={"max_disagreement": 5.0}))

    bench.read(4)

    assert bench.releases == [1, 1, 1, 1]
    assert bench.trial().verdict.reason is Reason.CHAMPION_DISAGREES
    assert bench.trial().windows == 2


def test_a_release_that_is_worse_on_labels_is_stopped_in_shadow_and_one_that_is_better_is_not():
    worse = TrialBench(rated(2, shadow=9, output=OFF_BY_TEN, rules={"max_error_ratio": 1.5}))
    better = TrialBench(rated(2, shadow=9, output=OFF_BY_TEN, rules={"max_error_ratio": 1.5}))

    for bench, truth in ((worse, 7.5), (better, 16.5)):
        bench.read(3)
        for time_ms in (1, 2):
            bench.label(time_ms, truth)

    assert worse.trial().verdict.reason is Reason.ERROR_TOO_LARGE
    assert better.trial().verdict is None
    assert (better.trial().labels, better.trial().error) == (2, pytest.approx(0.5))


def test_on_probation_the_challenger_is_heard_and_at_a_breach_the_champion_again():
    bench = TrialBench(rated(2, rules={"high": 20.0}))
    bench.read(2)

    bench.lane.begin_probation("wear")
    bench.read(1)
    bench.read(1, x=50)
    bench.read(2)

    assert bench.releases == [1, 1, 2, 2, 1, 1]
    trial = bench.trial()
    assert (trial.is_on_probation, trial.windows) == (True, 2)
    assert trial.verdict.reason is Reason.OUTPUT_OUT_OF_RANGE


def test_a_release_that_passes_its_probation_goes_on_alone():
    bench = TrialBench(rated(2, rules={"max_disagreement": 0.5}))
    bench.read(2)
    bench.lane.begin_probation("wear")
    bench.read(2)

    assert bench.trial().verdict.outcome is Outcome.PASSED
    bench.lane.end_trial("wear", has_passed=True)
    bench.read(1)

    assert bench.releases == [1, 1, 2, 2, 2]
    bench.lane._make_report(0)
    assert bench.lane.report.trials == {}


def test_a_release_that_gets_slow_on_probation_is_taken_back():
    challenger = rated(2, shadow=1, probation=100, rules={"latency_ms": 5.0})
    bench = TrialBench(challenger)
    bench.read(1)
    bench.lane.begin_probation("wear")
    bench.read(20)
    answers = challenger.answers

    def slow(windows):
        time.sleep(0.02)
        return answers(windows)

    challenger.answers = slow
    bench.read(15)

    assert bench.trial().verdict.reason is Reason.TOO_SLOW
    assert bench.releases == [1] + [2] * 30 + [1] * 5


def test_a_nan_on_probation_brings_the_champion_back_and_costs_one_prediction():
    bench = TrialBench(rated(2, file="nan_float"))
    bench.read(2, x=4)
    bench.lane.begin_probation("wear")

    bench.read(1, x=-1)
    bench.read(2, x=-1)

    assert bench.releases == [1, 1, 1, 1]
    assert bench.trial().verdict.reason is Reason.OUTPUT_NOT_FINITE
    assert bench.refusals() == {("wear", Reason.OUTPUT_NOT_FINITE): 1}


def test_the_champion_has_current_windows_when_it_comes_back():
    rules = {"high": 100.0}
    bench = TrialBench(
        rated(2, file="mean12_float", length=12, shadow=1, rules=rules), file="mean12_float", length=12
    )
    for number in range(12):
        bench.read(1, x=number)
    bench.lane.begin_probation("wear")
    bench.read(1, x=12)
    bench.read(1, x=5000)
    bench.read(1, x=6)

    assert bench.releases == [1, 2, 2, 1]
    assert bench.predictions[-1]["value"] == pytest.approx((sum(range(3, 13)) + 5000 + 6) / 12)
    assert "quality" not in bench.predictions[-1]


def test_labels_count_only_from_the_device_itself_and_from_trusted_writers():
    bench = TrialBench(rated(2, shadow=9))
    bench.read(3)

    bench.label(1, 7.0, source="stranger")
    bench.label(2, 7.0)

    assert bench.trial().labels == 1
    assert bench.refusals() == {("press", Reason.UNTRUSTED_WRITER): 1}


def test_what_a_slow_release_still_works_on_when_its_shadow_ends_is_not_heard():
    challenger = rated(2, shadow=1)
    challenger.answer_s = 0.1
    go_on = threading.Semaphore(0)
    answers = challenger.answers

    def waiting(windows):
        assert go_on.acquire(timeout=20)
        return answers(windows)

    challenger.answers = waiting
    bench = TrialBench(challenger)
    bench.read(3)
    bench.lane.begin_probation("wear")
    for _ in range(4):
        go_on.release()
    bench.read(1)
    while len(bench.wire.sent) < 4:
        bench.lane.turn(0.1)

    assert bench.releases == [1, 1, 1, 2]
    assert [prediction["time_ms"] for prediction in bench.predictions] == [1, 2, 3, 4]


def slow(challenger: Predictor, answer_s: float = 0.1) -> tuple[Predictor, threading.Semaphore]:
    """Let ``challenger`` run in a thread that waits for the semaphore at each answer."""
    go_on = threading.Semaphore(0)
    answers = challenger.answers

    def waiting(windows):
        assert go_on.acquire(timeout=20)
        return answers(windows)

    challenger.answers = waiting
    challenger.answer_s = answer_s
    return challenger, go_on


def turn_until(bench: Bench, fact) -> None:
    deadline = time.monotonic() + 20
    while not fact():
        assert time.monotonic() < deadline
        bench.lane.turn(0.1)


def test_labels_that_come_with_their_readings_count():
    bench = TrialBench(rated(2, shadow=100, output=OFF_BY_TEN, rules={"max_error": 1.0}))

    for number in (1, 2):
        bench.wire.deliver(TOPIC, b'{"time_ms":%d,"values":{"x":3}}' % number, mid=number)
        label = b'{"time_ms":%d,"value":7}' % number
        bench.wire.deliver("atoll/v1/site/press-1/label/press-1/wear", label, mid=10 + number)
    bench.turn()

    assert bench.trial().verdict.reason is Reason.ERROR_TOO_LARGE
    assert bench.acknowledged == []


def test_a_label_that_comes_before_the_answer_of_a_slow_release_counts():
    challenger, go_on = slow(rated(2, shadow=100, output=OFF_BY_TEN, rules={"max_error": 1.0}))
    bench = TrialBench(challenger)

    bench.read(2)
    for time_ms in (1, 2):
        bench.label(time_ms, 7.0)
    for _ in range(2):
        go_on.release()
    turn_until(bench, lambda: bench.trial().labels == 2)

    assert bench.trial().verdict.reason is Reason.ERROR_TOO_LARGE


def test_a_label_told_twice_counts_once_and_a_retained_one_not_at_all():
    bench = TrialBench(rated(2, shadow=100))
    bench.read(2)

    for _ in range(2):
        bench.label(2, 7.0)
    bench.deliver(
        b'{"time_ms":1,"value":7}', topic="atoll/v1/site/press-1/label/press-1/wear", is_retained=True, mid=50
    )

    assert bench.trial().labels == 1
    assert bench.refusals() == {("press", Reason.RETAINED): 1}


def test_a_release_that_cannot_use_what_the_champion_answers_is_stopped():
    bench = TrialBench(rated(2, shadow=5, value="y"))

    bench.read(1)

    assert bench.trial().verdict.reason is Reason.ANSWERS_FEWER
    assert bench.releases == [1]


def test_a_release_that_cannot_keep_up_is_stopped_in_shadow():
    challenger, go_on = slow(rated(2, shadow=3), answer_s=0.5)
    bench = TrialBench(challenger)

    bench.read(20)
    for _ in range(20):
        go_on.release()
    turn_until(bench, lambda: bench.trial().verdict)

    assert bench.trial().verdict.reason is Reason.TOO_SLOW
    assert bench.releases == [1] * 20


def test_a_model_that_fails_on_a_reading_costs_only_that_prediction():
    bench = Bench(predictor(file="lookup_float", samples=(0.0, 1.0, 2.0, 1.0)))

    for mid, x in ((1, 1), (2, 99), (3, 2)):
        bench.deliver(b'{"time_ms":%d,"values":{"x":%d}}' % (mid, x), mid=mid)
    bench.wire.puback(1, 2)
    bench.turn()

    assert [prediction["value"] for prediction in bench.predictions] == [20, 30]
    assert bench.acknowledged == [1, 2, 3]
    assert bench.refusals() == {("wear", Reason.MODEL_FAILED): 1}


@pytest.mark.parametrize("is_slow", [False, True])
def test_a_model_that_fails_in_shadow_hurts_nobody(is_slow):
    challenger = rated(2, shadow=5, file="lookup_float", samples=(0.0, 1.0, 2.0, 1.0))
    if is_slow:
        challenger.answer_s = 0.1
    bench = TrialBench(challenger)

    bench.read(2, x=99)
    turn_until(bench, lambda: bench.trial().verdict)

    assert bench.trial().verdict.reason is Reason.MODEL_FAILED
    assert bench.releases == [1, 1]


def test_what_waits_for_a_slow_release_at_its_breach_is_answered_by_the_champion():
    challenger, go_on = slow(rated(2, shadow=1, probation=100, rules={"high": 20.0}))
    bench = TrialBench(challenger)
    go_on.release()
    bench.read(1)
    turn_until(bench, lambda: bench.trial().verdict)
    bench.lane.begin_probation("wear")

    bench.read(1, x=50)
    bench.read(3)
    go_on.release()
    turn_until(bench, lambda: bench.trial().is_on_probation and bench.trial().verdict)
    go_on.release()  # for the one that is at work
    turn_until(bench, lambda: len(bench.wire.sent) == 5)

    by_time = {prediction["time_ms"]: prediction["release"] for prediction in bench.predictions}
    assert by_time == {1: 1, 2: 2, 3: 2, 4: 1, 5: 1}
    assert bench.trial().verdict.reason is Reason.OUTPUT_OUT_OF_RANGE


def test_a_retired_release_does_not_speak_in_the_next_trial():
    challenger, go_on = slow(rated(2, shadow=100, output=OFF_BY_TEN))
    bench = TrialBench(challenger)
    bench.read(2)
    bench.lane.try_out(rated(3, shadow=100))
    bench.turn()
    for _ in range(2):
        go_on.release()

    bench.read(3)
    turn_until(bench, lambda: bench.trial().windows == 3)

    assert bench.trial().release == 3
    assert bench.trial().disagreement == 0


def test_a_large_turn_takes_little_memory():
    bench = Bench(predictor(file="mean12_float", length=12))
    for number in range(2000):
        bench.wire.deliver(TOPIC, b'{"time_ms":%d,"values":{"x":1}}' % number, mid=number + 1)
    track = bench.lane._tracks["press"]
    executor = track._answering["wear"].executor

    track.heed(bench.wire.step(0))

    assert executor.waiting < 64
    bench.turn()
    assert len(bench.wire.sent) == 1989


def test_an_order_that_fails_tells_who_gave_it(monkeypatch):
    bench = Bench(predictor())
    monkeypatch.setattr("atoll_agent.lane.lane.Answering", None)

    swapped = bench.lane.swap(predictor(2), has_restarted=False)
    with pytest.raises(TypeError):
        bench.turn()

    assert isinstance(swapped.exception(timeout=0), TypeError)
