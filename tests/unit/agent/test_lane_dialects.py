"""The lane reads streams of every dialect: several devices in a message, values of several messages."""

from __future__ import annotations

import time

from structlog.testing import capture_logs
from support.dialects import sparkplug, stream
from support.lanes import Bench, lane_plan, predictor

from atoll_contract.errors import Reason

AT_MS = 1_730_794_500_000


def bench(settings: str) -> Bench:
    return Bench(predictor(), streams=[stream(f'{settings}\nname = "press"')])


def devices(found: Bench) -> list[str]:
    return [topic.split("/")[5] for _, topic, _ in found.wire.sent]


def test_a_message_that_names_its_devices_is_a_reading_of_each():
    found = bench('preset = "thingsboard-gateway"\nvalues.x = {}')

    found.deliver(
        b'{"a": [{"ts": %d, "values": {"x": 3}}], "b c": [{"ts": %d, "values": {"x": "4"}}]}'
        % (AT_MS, AT_MS + 1),
        topic="v1/gateway/telemetry",
        mid=7,
    )

    assert devices(found) == ["a", "b--20c"]
    assert [prediction["time_ms"] for prediction in found.predictions] == [AT_MS, AT_MS + 1]
    assert found.acknowledged == []
    found.wire.puback(1, 2)
    found.turn()
    assert found.acknowledged == [7]


def test_a_part_of_a_reading_is_acknowledged_at_once_and_the_whole_is_answered():
    found = bench(
        'dialect = "scalar"\ntopics = ["{device}/{value}"]\nvalues.x = {}\nvalues.other = {}\njoin_s = 3600'
    )

    found.deliver(b"3", topic="pump/x", mid=1)
    assert (found.acknowledged, found.predictions) == ([1], [])
    found.deliver(b"on", topic="pump/other", mid=2)

    assert devices(found) == ["pump"]


def test_a_reading_of_which_not_all_came_is_answered_with_what_there_is():
    found = bench(
        'dialect = "scalar"\ntopics = ["{device}/{value}"]\nvalues.x = {}\nvalues.other = {}\njoin_s = 0.001'
    )
    found.deliver(b"3", topic="pump/x", mid=1)

    deadline = time.monotonic() + 20
    while not found.wire.sent:
        assert time.monotonic() < deadline
        found.lane.turn(0.05)

    assert devices(found) == ["pump"]
    assert found.predictions[0]["time_ms"] == 1000.0  # when it came
    assert found.counts()["joins_incomplete"] == 1


def test_what_a_later_message_is_too_late_for_is_answered_before_it_with_the_time_when_it_came():
    found = bench(
        'dialect = "scalar"\ntopics = ["{device}/{value}"]\nvalues.x = {}\nvalues.other = {}\njoin_s = 5'
    )

    found.wire.deliver("pump/x", b"3", mid=1)
    found.wire.deliver("pump/other", b"4", mid=2, arrival_ms=9000.0)
    found.turn()

    assert found.predictions[0]["time_ms"] == 1000.0
    assert found.acknowledged == [1, 2]  # nothing of the second message has been answered


def test_what_cannot_be_read_is_refused_once_and_acknowledged():
    found = bench('preset = "sparkplug"\nvalues.x = { name = "X" }')

    found.deliver(bytes.fromhex("12 02 10 07"), topic="spBv1.0/P/DDATA/n/press", mid=1)

    assert found.acknowledged == [1]
    assert found.refusals() == {("press", Reason.NO_BIRTH): 1}


def test_what_carries_no_readings_is_ignored_even_if_it_is_retained():
    found = bench('preset = "zigbee2mqtt"\nvalues.x = {}')

    found.deliver(b"{}", topic="zigbee2mqtt/bridge/info", mid=1, is_retained=True)
    found.deliver(b'{"x": 3}', topic="zigbee2mqtt/lamp", mid=2, is_retained=True)

    assert found.acknowledged == [1, 2]
    assert found.refusals() == {("press", Reason.RETAINED): 1}
    assert found.counts()["messages_ignored"] == 1


def test_a_device_whose_clock_was_never_set_gets_the_time_of_arrival_flagged():
    found = bench(
        'dialect = "json"\ntopics = ["{device}"]\nvalues.x = {}\ntime = { pointer = "/t", unit = "s" }'
    )

    with capture_logs() as logs:
        found.deliver(b'{"x": 3, "t": 12}', topic="pump", mid=1)
        found.deliver(b'{"x": 3, "t": 13}', topic="pump", mid=2)

    assert [(p["time_ms"], p["quality"]) for p in found.predictions] == [(1000.0, ["time_unsynced"])] * 2
    assert found.counts()["clock_unset"] == 2
    assert [entry["device"] for entry in logs if entry["event"] == "clock.doubted"] == ["pump"]


def test_a_clock_that_runs_back_is_counted_and_its_readings_are_answered():
    found = bench('dialect = "atoll"\nvalues.x = {}')

    for time_ms in (AT_MS, AT_MS - 1000):
        found.deliver(b'{"values": {"x": 1}, "time_ms": %d}' % time_ms, topic="atoll/v1/site/a/reading/press")

    assert len(found.predictions) == 2
    assert found.counts()["clock_back"] == 1


def test_a_clock_that_is_set_late_moves_windows_that_are_dated_by_arrival():
    found = Bench(predictor(file="mean12_float", length=12))
    for mid in range(11):
        found.deliver(b'{"values": {"x": 1}}', mid=mid)

    found.lane._tracks["press"].shift(5_000_000.0)
    found.deliver(b'{"values": {"x": 1}}', mid=11)

    assert found.predictions[0]["window"]["start_ms"] == 5_001_000.0


def test_a_reload_that_leaves_the_dialect_as_it_is_forgets_nothing():
    settings = 'name = "press"\npreset = "sparkplug"\nvalues.x = { name = "X" }'
    found = Bench(predictor(), streams=[stream(settings)])
    birth = sparkplug({"name": "X", "alias": 7, "datatype": 10, "double_value": 1.0}, timestamp=AT_MS)
    data = sparkplug({"alias": 7, "double_value": 3.0}, timestamp=AT_MS + 1000)
    found.deliver(birth, topic="spBv1.0/P/DBIRTH/n/press", mid=1)

    found.lane._tracks["press"].change(
        stream(f'{settings}\noverload = "newest"'),
        max_devices=50,
        trusted_writers=(),
        topic_filters=("spBv1.0/+/+/+", "spBv1.0/+/+/+/+"),
        outlets={},
        now_s=0.0,
    )
    found.deliver(data, topic="spBv1.0/P/DDATA/n/press", mid=2)

    assert [prediction["time_ms"] for prediction in found.predictions] == [AT_MS, AT_MS + 1000]
    assert found.refusals() == {}


def test_a_reload_bounds_what_a_stream_remembers_of_devices():
    settings = stream('name = "press"\npreset = "sparkplug"\nvalues.x = { name = "X" }\nhold_s = 60')
    found = Bench(predictor(), streams=[settings])

    found.lane.change(lane_plan(settings, max_devices=2), [])
    for number in range(4):
        birth = sparkplug({"name": "X", "alias": 7, "datatype": 10, "double_value": 1.0}, timestamp=AT_MS)
        found.deliver(birth, topic=f"spBv1.0/P/DBIRTH/n/press-{number}", mid=number + 1)

    assert {key: found.counts()[key] for key in ("births_forgotten", "held_forgotten")} == {
        "births_forgotten": 2,
        "held_forgotten": 2,
    }
