"""Decisions, commands and reports by exception on the way from a reading to its acknowledgement."""

from __future__ import annotations

import json
import time

import pytest
from support.lanes import Bench, predictor

from atoll_agent.decisions.exception import Band, Exceptions
from atoll_agent.decisions.rules import Rules
from atoll_agent.rule_settings import RuleTable

HOT = {"name": "hot", "model": "wear", "when": {"above": 10}, "command": [{"name": "stop", "value": 1}]}
SECOND_NS = 1_000_000_000


def bench(*tables, band: Band | None = None, **options) -> Bench:
    """Return a lane whose model says 2 x + 1, with these rules on it."""

    built = [RuleTable(**table).build("site", "pi") for table in tables]
    rules = {"wear": Rules(built, site="site", agent="pi", max_devices=10)} if built else {}
    exceptions = {"wear": Exceptions(band, 10)} if band else {}
    return Bench(predictor(), rules=rules, exceptions=exceptions, **options)


def reading(x: float, time_ms: float = 5.0) -> bytes:
    return json.dumps({"time_ms": time_ms, "values": {"x": x}}).encode()


def deliver(lane: Bench, payload: bytes, **options) -> None:
    """Deliver a reading now, at 1000 ms on the wall clock: one of 995 ms is 5 ms old."""
    lane.deliver(payload, arrival_ns=time.monotonic_ns(), **options)


def topics(lane: Bench) -> list[str]:
    return [topic.removeprefix("atoll/v1/site/pi/") for _, topic, _ in lane.wire.sent]


def last(lane: Bench) -> dict:
    return json.loads(lane.wire.sent[-1][2])


def test_a_decision_and_its_command_follow_the_prediction():
    lane = bench(HOT)

    deliver(lane, reading(3, 995))
    deliver(lane, reading(6, 996))

    assert topics(lane) == [
        "prediction/press-1/wear",
        "prediction/press-1/wear",
        "decision/press-1/hot",
        "command/press-1/stop",
    ]
    assert json.loads(lane.wire.sent[2][2])["value"] == pytest.approx(13.0)
    assert {key: lane.counts()[key] for key in ("predictions", "decisions", "commands")} == {
        "predictions": 2,
        "decisions": 1,
        "commands": 1,
    }


def test_a_reading_is_acknowledged_after_all_that_follows_from_it():
    lane = bench(HOT)

    deliver(lane, reading(6, 995), mid=7)
    acknowledged = []
    for mid in (1, 2, 3):  # the prediction, the decision, the command
        lane.wire.puback(mid)
        lane.turn()
        acknowledged.append(list(lane.acknowledged))

    assert acknowledged == [[], [], [7]]
    assert lane.counts()["predictions_acknowledged"] == 1


def test_decisions_leave_at_qos_1_also_for_a_reading_at_qos_0():
    lane = bench(HOT)

    deliver(lane, reading(6, 995), qos=0)

    assert lane.wire.qos == [0, 1, 1]
    lane.wire.puback(2, 3)
    lane.turn()
    assert lane.lane._tracks["press"].is_idle


def test_a_decision_waits_for_room_and_its_reading_with_it():
    lane = bench(HOT)
    lane.wire.room = 2

    deliver(lane, reading(6, 995), mid=7)
    lane.wire.puback(1, 2)
    lane.turn()
    before = list(lane.acknowledged)
    lane.wire.room = 1
    lane.turn()
    lane.wire.puback(3)
    lane.turn()

    assert (before, lane.acknowledged) == ([], [7])


def test_a_redelivered_reading_fires_no_rule_twice():
    lane = bench(HOT)

    deliver(lane, reading(6, 995), mid=7)
    deliver(lane, reading(3, 996), mid=8)
    lane.wire.connect(session_present=True)
    deliver(lane, reading(6, 995), mid=7, is_duplicate=True)

    assert topics(lane).count("decision/press-1/hot") == 2
    assert lane.counts()["redelivered"] == 1


def test_what_a_process_before_may_have_answered_commands_nothing():
    lane = bench(HOT)

    deliver(lane, reading(6, 995), is_duplicate=True)

    assert (topics(lane)[-1], last(lane)["withheld"]) == ("decision/press-1/hot", "redelivered")


def test_a_duplicate_that_this_process_does_not_know_is_a_reading_as_any_other():
    lane = bench(HOT)
    lane.wire.connect(session_present=True)

    deliver(lane, reading(6, 995), is_duplicate=True)

    assert topics(lane)[-1] == "command/press-1/stop"


def test_an_old_reading_commands_nothing_and_says_why():
    lane = bench(HOT | {"max_age_s": 0.5})

    deliver(lane, reading(6, 400))

    assert (topics(lane)[-1], last(lane)["withheld"]) == ("decision/press-1/hot", "too_old")
    assert lane.counts()["commands_withheld"] == 1


def test_age_counts_to_the_answer_not_to_the_arrival(monkeypatch):
    lane = bench(HOT | {"max_age_s": 1})
    monkeypatch.setattr("atoll_agent.lane.track.time.monotonic_ns", lambda: 3 * SECOND_NS)

    lane.wire.deliver("atoll/v1/site/press-1/reading/press", reading(6, 995), arrival_ns=SECOND_NS)
    lane.turn()

    assert last(lane)["withheld"] == "too_old"


def test_without_the_time_of_day_nothing_is_commanded():
    lane = bench(HOT)
    lane.clock.is_time_unsynced = True

    deliver(lane, reading(6, 995))

    assert last(lane)["withheld"] == "time_unsynced"


def test_a_release_in_shadow_decides_nothing():
    lane = bench(HOT)
    lane.lane.try_out(predictor(2, file="triple_float"))

    deliver(lane, reading(4, 995))  # the champion says 9, the challenger 11

    assert topics(lane) == ["prediction/press-1/wear"]


def test_what_says_nothing_new_is_left_out_counted_and_acknowledged():
    lane = bench(band=Band(absolute=2))

    for mid, x in enumerate((3, 3.5, 4.5), 1):  # 7, 8, 10
        deliver(lane, reading(x), mid=mid)
    lane.wire.puback(1, 2)
    lane.turn()

    assert [told["value"] for told in lane.predictions] == pytest.approx([7, 10])
    assert lane.acknowledged == [1, 2, 3]
    assert lane.counts()["predictions_suppressed"] == 1


def test_rules_see_what_is_left_out():
    lane = bench(HOT, band=Band(absolute=100))

    deliver(lane, reading(3, 995))
    deliver(lane, reading(6, 996))

    assert topics(lane) == ["prediction/press-1/wear", "decision/press-1/hot", "command/press-1/stop"]
