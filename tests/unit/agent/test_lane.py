from __future__ import annotations

import time

import pytest
from support.lanes import TOPIC, Bench, predictor, slow_down, stream, tuned

from atoll_agent.lane import outgoing
from atoll_contract.errors import Reason
from atoll_link.session import Subscribed


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
    slow_down(slow, 0.02)
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
    monkeypatch.setattr(outgoing, "MAX_OUTSTANDING", 2)
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


def test_a_stopping_lane_leaves_new_readings_to_the_broker():
    bench = Bench(predictor())
    bench.deliver(mid=1)
    bench.wire.deliver(TOPIC, b'{"values":{"x":1}}', mid=2)
    bench.wire.puback(1)

    bench.lane.stop()
    bench.lane.run()

    assert bench.acknowledged == [1]
    assert bench.wire.is_closed


def test_a_model_that_fails_on_a_reading_costs_only_that_prediction():
    bench = Bench(predictor(file="lookup_float", samples=(0.0, 1.0, 2.0, 1.0)))

    for mid, x in ((1, 1), (2, 99), (3, 2)):
        bench.deliver(b'{"time_ms":%d,"values":{"x":%d}}' % (mid, x), mid=mid)
    bench.wire.puback(1, 2)
    bench.turn()

    assert [prediction["value"] for prediction in bench.predictions] == [20, 30]
    assert bench.acknowledged == [1, 2, 3]
    assert bench.refusals() == {("wear", Reason.MODEL_FAILED): 1}


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
    monkeypatch.setattr("atoll_agent.lane.lane.kind_of", None)

    swapped = bench.lane.swap(predictor(2), has_restarted=False)
    with pytest.raises(TypeError):
        bench.turn()

    assert isinstance(swapped.exception(timeout=0), TypeError)


def test_readings_wait_unread_while_too_many_predictions_wait_for_the_broker(monkeypatch):
    monkeypatch.setattr("atoll_agent.lane.outgoing.MAX_OUTSTANDING", 10)
    bench = Bench(tuned())
    many = b"[" + b",".join([b'{"values":{"x":1}}'] * 10) + b"]"

    for mid in range(1, 5):
        bench.deliver(many, mid=mid)
    assert len(bench.wire.sent) == 10
    assert bench.counts()["messages"] == 2

    for mid in range(1, 5):
        first = 10 * mid - 9
        bench.wire.puback(*range(first, first + 10))
        bench.turn()
        bench.turn()
        assert bench.acknowledged == list(range(1, mid + 1))
    assert len(bench.wire.sent) == 40


def test_readings_that_wait_unread_are_answered_once_after_a_reconnect(monkeypatch):
    monkeypatch.setattr("atoll_agent.lane.outgoing.MAX_OUTSTANDING", 1)
    bench = Bench(tuned())
    readings = {mid: b'{"time_ms":%d,"values":{"x":3}}' % mid for mid in (1, 2, 3)}
    for mid, payload in readings.items():
        bench.deliver(payload, mid=mid)
    assert bench.counts()["messages"] == 2

    bench.wire.connect(session_present=True)
    for mid, payload in readings.items():
        bench.deliver(payload, mid=mid, is_duplicate=True)
    for mid in readings:
        bench.wire.puback(mid)
        bench.turn()
        bench.turn()

    assert [prediction["time_ms"] for prediction in bench.predictions] == [1, 2, 3]
    assert bench.acknowledged == [1, 2, 3]
