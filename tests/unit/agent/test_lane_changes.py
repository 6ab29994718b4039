"""The lane goes on by other settings between two readings, and loses none."""

from __future__ import annotations

import dataclasses
import json
import time

import pytest
from msgspec.structs import replace
from support.lanes import Bench, Hold, lane_plan, predictor, stream, turn_until

from atoll_agent.lane.twins import Twins, do_overlap
from atoll_contract.errors import Reason
from atoll_ingest.pointer import PointerDialect
from atoll_ingest.stream import Overload, Stream, TopicPattern
from atoll_link.session import Delivery

OLD, NEW = "old/{device}", "new/{device}"


def mapped(*topics: str, key: str = "a", name: str = "press", **options) -> Stream:
    patterns = tuple(TopicPattern(topic) for topic in topics)
    return Stream(name, patterns, PointerDialect({"x": (key,)}), {"x": None}, **options)


def change(bench: Bench, plan, *predictors) -> None:
    done = bench.lane.change(plan, predictors)
    bench.turn()
    assert done.result(0) is None


def payload(**values: float) -> bytes:
    return json.dumps(values).encode()


def test_the_next_reading_is_read_by_the_new_mapping():
    bench = Bench(predictor(), streams=[mapped(OLD)])
    bench.deliver(payload(a=1, b=10), "old/p")

    change(bench, lane_plan(mapped(OLD, key="b")))
    bench.deliver(payload(a=1, b=10), "old/p", mid=2)

    assert [item["value"] for item in bench.predictions] == pytest.approx([3, 21])  # 2x + 1


def test_what_waited_at_the_broker_on_topics_that_are_gone_is_read_by_the_mapping_before():
    bench = Bench(predictor(), streams=[mapped(OLD)])

    change(bench, lane_plan(mapped(NEW, key="b")))
    bench.deliver(payload(a=1), "old/p")
    bench.deliver(payload(b=10), "new/p", mid=2)
    bench.deliver(payload(b=10), "other/p", mid=3)
    change(bench, lane_plan(mapped("newer/{device}", key="c")))
    bench.deliver(payload(a=2), "old/q", mid=4)

    assert bench.waiter.filters == {"press": ["newer/+"]}
    assert [item["value"] for item in bench.predictions] == pytest.approx([3, 21, 5])
    assert bench.refusals() == {("press", Reason.MALFORMED_TOPIC): 1}


def test_windows_and_acknowledgements_go_on_where_they_were():
    bench = Bench(predictor(file="mean12_float", length=12), streams=[mapped(OLD)])
    for number in range(11):
        bench.deliver(payload(a=number), "old/p", mid=number + 1)

    change(bench, lane_plan(mapped(NEW, key="b")))
    bench.deliver(payload(b=11), "new/p", mid=12)
    bench.wire.puback(*(mid for mid, _, _ in bench.wire.sent))
    bench.turn()

    [prediction] = bench.predictions
    assert prediction["window"]["samples"] == 12
    assert "quality" not in prediction
    assert bench.acknowledged == list(range(1, 13))


def test_what_a_device_sent_before_the_change_is_still_known_after_it():
    bench = Bench(predictor())
    reading = b'{"time_ms":5,"values":{"x":3},"seq":1,"boot":"a"}'
    bench.deliver(reading)

    change(bench, lane_plan(stream(use_retained=True)))
    bench.deliver(reading, mid=2)

    assert len(bench.predictions) == 1
    assert bench.counts()["repeated"] == 1


def test_a_model_that_is_removed_answers_what_it_has_taken_in():
    slow = predictor()
    hold = Hold(slow)
    bench = Bench(slow)
    bench.deliver()
    assert hold.at_work.acquire(timeout=20)

    change(bench, lane_plan(stream(), models=()))
    bench.deliver(b'{"values":{"x":4}}', mid=2)
    hold.let_go()
    turn_until(bench, lambda: bench.predictions)
    bench.wire.puback(bench.wire.sent[0][0])
    bench.turn()

    assert len(bench.predictions) == 1
    assert bench.acknowledged == [1, 2]
    assert bench.counts()["readings_without_model"] == 1


def test_a_model_and_its_stream_are_added():
    bench = Bench(predictor())
    plan = lane_plan(stream(), stream("room"), models=(("wear", "press"), ("heat", "room")))

    change(bench, plan, predictor(model="heat"))
    bench.waiter.wires["room"].connect()
    bench.waiter.wires["room"].deliver("atoll/v1/site/r/reading/room", b'{"values":{"x":1}}')
    bench.turn()

    [(_, topic, _)] = bench.waiter.wires["room"].sent
    assert topic == "atoll/v1/site/pi/prediction/r/heat"


def test_a_stream_that_is_removed_leaves_once_all_is_answered_and_its_counts_stay():
    slow = predictor()
    hold = Hold(slow)
    bench = Bench(slow)
    bench.deliver()
    assert hold.at_work.acquire(timeout=20)

    change(bench, lane_plan(models=()))
    assert bench.waiter.filters == {}
    assert bench.waiter.ended == []
    hold.let_go()
    turn_until(bench, lambda: bench.wire.sent)
    bench.wire.puback(bench.wire.sent[0][0])
    turn_until(bench, lambda: bench.waiter.ended)

    assert bench.acknowledged == [1]
    assert bench.waiter.ended == ["press"]
    assert bench.counts()["predictions"] == 1


def test_a_stream_that_is_removed_while_the_broker_is_away_leaves_when_it_is_back(monkeypatch):
    monkeypatch.setattr("atoll_agent.lane.lane._STOP_AFTER_S", 0.2)
    bench = Bench(predictor())
    bench.deliver()
    bench.wire.disconnect()
    bench.turn()

    change(bench, lane_plan(models=()))
    until = time.monotonic() + 0.3
    turn_until(bench, lambda: time.monotonic() > until)
    assert bench.waiter.ended == []
    bench.wire.connect(session_present=True)
    bench.deliver(is_duplicate=True)
    bench.wire.puback(bench.wire.sent[0][0])
    bench.turn()

    assert bench.acknowledged == [1]
    assert bench.waiter.ended == ["press"]
    assert "predictions_lost" not in bench.counts()


def test_what_a_stream_that_is_removed_could_not_deliver_is_counted(monkeypatch):
    monkeypatch.setattr("atoll_agent.lane.lane._STOP_AFTER_S", 0.0)
    bench = Bench(predictor())
    bench.deliver()

    change(bench, lane_plan(models=()))
    bench.turn()

    assert bench.waiter.ended == ["press"]
    assert bench.counts()["predictions_lost"] == 1


def test_a_stream_that_comes_back_before_it_has_left_goes_on():
    slow = predictor()
    hold = Hold(slow)
    bench = Bench(slow)
    bench.deliver()
    assert hold.at_work.acquire(timeout=20)

    change(bench, lane_plan(models=()))
    change(bench, lane_plan(stream()), predictor(release=2))
    bench.deliver(b'{"time_ms":6,"values":{"x":4}}', mid=2)
    hold.let_go()
    turn_until(bench, lambda: len(bench.predictions) == 2)

    assert {item["release"] for item in bench.predictions} == {1, 2}
    assert bench.waiter.ended == []


def test_a_model_moves_to_another_stream_and_its_windows_fill_anew():
    bench = Bench(predictor(file="mean12_float", length=12))
    for number in range(11):
        bench.deliver(payload=b'{"time_ms":%d,"values":{"x":1}}' % number, mid=number + 1)

    moved = predictor(file="mean12_float", length=12)
    change(bench, lane_plan(stream("room"), models=(("wear", "room"),)), moved)
    wire = bench.waiter.wires["room"]
    wire.connect()
    for number in range(12):
        wire.deliver("atoll/v1/site/press-1/reading/room", b'{"time_ms":%d,"values":{"x":1}}' % number)
        bench.turn()

    [(_, _, prediction)] = wire.sent
    assert json.loads(prediction)["quality"] == ["gap"]
    assert json.loads(prediction)["stream"] == "room"


def test_trusted_writers_and_limits_change():
    bench = Bench(predictor())
    label = ("atoll/v1/site/lab/label/press-1/wear", b'{"value":1,"time_ms":5}')
    bench.deliver(label[1], label[0])

    change(bench, lane_plan(stream(), max_devices=1, trusted_writers=("lab",)))
    bench.deliver(label[1], label[0], mid=2)

    assert bench.refusals() == {("press", Reason.UNTRUSTED_WRITER): 1}
    assert bench.counts()["labels"] == 1


def test_fewer_windows_are_kept_after_the_limit_fell():
    bench = Bench(predictor(file="mean12_float", length=12))
    for device in ("a", "b", "c"):
        bench.deliver(topic=f"atoll/v1/site/{device}/reading/press")

    change(bench, lane_plan(stream(), max_devices=1))
    bench.deliver(topic="atoll/v1/site/d/reading/press")

    assert bench.counts()["windows_forgotten"] == 3


def test_another_policy_for_overload_holds_for_what_comes_next():
    slow = predictor()
    hold = Hold(slow, answer_s=1.0)
    bench = Bench(slow)
    bench.deliver()
    assert hold.at_work.acquire(timeout=20)

    change(bench, lane_plan(stream(overload=Overload.SAMPLE)))
    for number in range(3):
        bench.deliver(b'{"time_ms":%d,"values":{"x":4}}' % number, mid=number + 2)

    assert bench.counts()["readings_left_out"] == 2
    hold.let_go(2)
    turn_until(bench, lambda: len(bench.predictions) == 2)


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ("a/+", "a/b", True),
        ("a/#", "a", True),
        ("#", "a/b/c", True),
        ("+/b", "a/+", True),
        ("$share/g/a/+", "a/b", True),
        ("a/+", "a/b/c", False),
        ("a/b", "a/c", False),
        ("a", "a/b", False),
    ],
)
def test_filters_overlap_where_a_topic_matches_both(one, other, expected):
    assert do_overlap(one, other) is expected
    assert do_overlap(other, one) is expected


def test_while_filters_change_the_second_copy_of_a_message_is_not_answered():
    bench = Bench(predictor(), streams=[mapped("old/{device}")])

    change(bench, lane_plan(mapped("+/{device}")))
    for mid, number in enumerate([1, 1, 2, 2, 3], start=1):  # two copies of 1 and 2
        bench.wire.deliver("old/p", payload(a=number), mid=mid, arrival_ns=mid)
    bench.turn()

    assert [item["value"] for item in bench.predictions] == pytest.approx([3, 5, 7])
    assert bench.counts()["delivered_twice"] == 2
    bench.wire.puback(*(mid for mid, _, _ in bench.wire.sent))
    bench.turn()
    assert bench.acknowledged == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("new", [[OLD], [OLD, NEW], []])
def test_equal_readings_stay_two_where_no_filter_that_comes_overlaps_one_that_was_there(new):
    bench = Bench(predictor(), streams=[mapped(OLD, "older/{device}")])

    change(bench, lane_plan(mapped(*new, "older/{device}"), max_devices=99))
    for mid in range(4):
        bench.wire.deliver("older/p", payload(a=1), mid=mid + 1, arrival_ns=mid)
    bench.turn()

    assert len(bench.predictions) == 4


def test_equal_readings_are_two_when_filters_do_not_overlap_or_time_has_passed():
    twins = Twins()
    first = Delivery("t", b"1", 1, 1, False, False, 1, 0.0, 0)
    second = replace(first, mid=2, arrival_ns=10)

    twins.expect(["new/+"], ["old/+"], now_s=0.0)
    assert not twins.is_due
    twins.expect(["+/+"], ["old/+"], now_s=0.0)
    twins.look(59.0)
    assert twins.is_due
    assert [twins.is_second(item) for item in (first, second, second, second)] == [False, True, False, True]
    assert not twins.is_second(replace(second, arrival_ns=10**9))
    twins.look(61.0)
    assert not twins.is_due


def test_readings_of_a_mapping_that_is_gone_keep_their_unit():
    bench = Bench(predictor(unit="cm"), streams=[dataclasses.replace(mapped(OLD), units={"x": "m"})])

    change(bench, lane_plan(dataclasses.replace(mapped(NEW), units={"x": "cm"})))
    bench.deliver(payload(a=3), "old/p")
    bench.deliver(payload(a=3), "new/p", mid=2)

    assert [item["value"] for item in bench.predictions] == pytest.approx([601, 7])  # 3 m are 300 cm


def test_a_model_that_leaves_with_its_unit_ends_nothing():
    centimetres = dataclasses.replace(mapped(OLD), units={"x": "cm"})
    heat = predictor(model="heat", unit="cm")
    hold = Hold(heat)
    both = {"wear": "press", "heat": "press"}
    bench = Bench(predictor(unit="cm"), heat, streams=[centimetres], stream_of=both)
    bench.deliver(payload(a=1), "old/p")

    change(bench, lane_plan(mapped(OLD), models=()))
    hold.let_go()

    turn_until(bench, lambda: len(bench.predictions) == 2)
