"""Rules as timelines: above each assert stands what was predicted, and below it what was said.

In the drawings a column is a second; R is a raised decision, C a cleared one.
"""

from __future__ import annotations

import json

import msgspec
import pytest

from atoll_agent.decisions.rule import Seen
from atoll_agent.decisions.rules import MAX_GROUP, Rules, RuleState
from atoll_agent.rule_settings import RuleTable
from atoll_contract.decisions import Decision, Withheld
from atoll_contract.messages import Command

NOW_MS = 1.7e12
STOP = {"name": "stop", "value": 1}


def rules(max_devices=100, **table) -> Rules:
    table = {"name": "hot", "model": "wear", "when": {"above": 5}} | table
    return Rules([RuleTable(**table).build("site", "pi")], site="site", agent="pi", max_devices=max_devices)


def seen(second=0.0, value=0.0, device="a", *, age_s=0.0, arrival_s=None, **more) -> Seen:
    time_ms = NOW_MS + second * 1e3
    return Seen(
        device=device,
        time_ms=time_ms,
        value=value,
        release=3,
        arrival_s=second if arrival_s is None else arrival_s,
        now_ms=time_ms + age_s * 1e3,
        **more,
    )


def said(judged: Rules, prediction: Seen) -> str:
    """Return R or C for the decision on a prediction, and a dot for none."""
    acts = [act for act in judged.judge(prediction) if not act.is_command]
    return "".join(Decision.decode(act.payload).state.value[0].upper() for act in acts) or "."


def line(judged: Rules, values, device="a") -> str:
    """Judge a prediction a second, of the value that a digit says; a space is a second without one."""
    return "".join(
        " " if value == " " else said(judged, seen(second, float(value), device))
        for second, value in enumerate(values)
    )


def decisions(acts) -> list[Decision]:
    return [Decision.decode(act.payload) for act in acts if not act.is_command]


def commands(acts) -> list:
    return [act for act in acts if act.is_command]


def test_a_threshold_raises_and_clears():
    # above 5; 5 itself is not above
    assert line(rules(), "0567850") == "..R..C."


def test_below_is_the_same_upside_down():
    assert line(rules(when={"below": 5}), "9543569") == "..R.C.."


def test_a_hysteresis_rides_out_what_crosses_the_limit_again_and_again():
    # above 5, clear 3: at 4 it is neither met anew nor over
    assert line(rules(), "6464643") == "RCRCRC."
    assert line(rules(when={"above": 5, "clear": 3}), "6464643") == "R.....C"


def test_below_has_a_hysteresis_of_its_own():
    assert line(rules(when={"below": 3, "clear": 6}), "2424276") == "R....C."


def test_n_of_m_ignores_single_outliers():
    # 3 of the last 5: three within five seconds from 3 to 7, no more at 8
    assert line(rules(when={"above": 5, "at_least": 3, "of": 5}), "90090909000") == ".......RC.."


def test_so_many_in_a_row():
    assert line(rules(when={"above": 5, "at_least": 3}), "990999990") == ".....R..C"


def test_a_hold_time_is_measured_from_the_first_prediction_that_met_the_condition():
    # 3 seconds: held from 1 to 4; from 6 and from 8 not for long enough
    assert line(rules(when={"above": 5, "for_s": 3}), "09999090999") == "....RC....."


def test_a_hold_time_does_not_need_a_prediction_every_second():
    assert line(rules(when={"above": 5, "for_s": 3}), "9     9") == ".     R"


def test_since_tells_when_the_condition_began_to_hold():
    judged = rules(when={"above": 5, "for_s": 2})

    judged.judge(seen(1, 9))
    (decision,) = decisions(judged.judge(seen(4, 9)))

    assert (decision.since_ms, decision.time_ms) == (NOW_MS + 1e3, NOW_MS + 4e3)


def test_a_clear_hold_keeps_it_raised_over_a_short_dip():
    # cleared after 2 seconds without: the dip at 2 is too short
    assert line(rules(cleared_for_s=2), "990990000") == "R......C."


def test_a_cool_down_lets_it_raise_again_only_after_a_while():
    judged = rules(cool_down_s=5)

    # raised at 0, again not before 5
    assert line(judged, "90909999") == "RC...R.."
    assert judged.counts["decisions_cooling"] == 2


def test_devices_have_states_of_their_own():
    judged = rules()

    assert [said(judged, seen(1, 9, "a")), said(judged, seen(2, 9, "b")), said(judged, seen(3, 0, "a"))] == [
        "R",
        "R",
        "C",
    ]


def test_only_the_devices_that_are_named_count():
    judged = rules(devices=["a"])

    assert [said(judged, seen(1, 9, "b")), said(judged, seen(1, 9, "a"))] == [".", "R"]


def test_a_label_and_one_of_several():
    judged = rules(when={"label": ["faulty", "worn"]})

    labels = ["good", "worn", "faulty", "good", None]
    assert "".join(said(judged, seen(n, label=label)) for n, label in enumerate(labels)) == ".R.C."


def test_an_anomaly():
    judged = rules(when={"anomaly": True})

    assert "".join(said(judged, seen(n, is_anomaly=is_it)) for n, is_it in enumerate([0, 1, 1, 0])) == ".R.C"


# Time


def test_what_arrives_out_of_order_does_not_move_the_time():
    judged = rules(when={"above": 5, "for_s": 3})

    # 9 at 0, 2, then an older one at 1, then 2 again: two seconds have passed, not three
    assert "".join(said(judged, seen(second, 9)) for second in (0, 2, 1, 2)) == "...."
    assert said(judged, seen(3, 9)) == "R"


def test_a_clock_that_is_set_back_goes_on_from_there():
    judged = rules(when={"above": 5, "for_s": 3})
    hour = 3600

    # an hour in the future, then right: it holds from 0 to 2 and from there to 3
    assert [said(judged, seen(hour + second, 9)) for second in (0, 2)] == [".", "."]
    assert [said(judged, seen(second, 9)) for second in (0, 1)] == [".", "R"]


# Groups


def group(combine, **more):
    return {"name": "hall", "combine": combine, **more}


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        # the seconds of the drawing in the test
        ({"group": group("any")}, "R.....C"),
        ({"group": group("count", count=2)}, "..R..C."),
        ({"group": group("all"), "devices": ["a", "b", "c"]}, "...RC.."),
    ],
)
def test_devices_decide_together(table, expected):
    judged = rules(**table)
    heard = [("a", 9), ("c", 0), ("b", 9), ("c", 9), ("a", 0), ("b", 0), ("c", 0)]
    #        a       .         a b       a b c     b c       c         none meet it

    assert (
        "".join(said(judged, seen(n, value, device)) for n, (device, value) in enumerate(heard)) == expected
    )


def test_the_mean_of_a_group_is_compared():
    judged = rules(group=group("mean"))

    # means: 9, 4.5, 6, 4
    heard = [("a", 9), ("b", 0), ("b", 3), ("a", 5)]
    assert "".join(said(judged, seen(n, value, device)) for n, (device, value) in enumerate(heard)) == "RCRC"


def test_a_group_speaks_under_its_own_name_and_tells_who_tipped_it():
    judged = rules(group=group("count", count=2))

    judged.judge(seen(1, 9, "a"))
    (act,) = judged.judge(seen(2, 9, "b"))

    assert act.topic == "atoll/v1/site/pi/decision/hall/hot"
    decision = Decision.decode(act.payload)
    assert (decision.device, decision.value) == ("b", 2.0)


def test_a_device_that_fell_silent_counts_no_more_in_its_group():
    judged = rules(group=group("count", count=2, max_age_s=10))

    # a at 0, b at 11: a was silent for 11 seconds
    assert [
        said(judged, seen(0, 9, "a")),
        said(judged, seen(11, 9, "b")),
        said(judged, seen(12, 9, "a")),
    ] == [
        ".",
        ".",
        "R",
    ]


def test_one_of_all_that_was_never_heard_stands_in_the_way():
    judged = rules(group=group("all"), devices=["a", "b"])

    assert [said(judged, seen(0, 9, "a")), said(judged, seen(1, 9, "b"))] == [".", "R"]


def test_a_group_goes_by_arrival_not_by_the_clocks_of_its_devices():
    judged = rules(group=group("any"), when={"above": 5, "for_s": 3})

    ahead = seen(9000, 9, "a", arrival_s=0)
    behind = [seen(-9000, 9, "b", arrival_s=second) for second in (1, 2, 3)]
    assert "".join(said(judged, one) for one in [ahead, *behind]) == "...R"


# Commands


def test_a_command_of_our_own_goes_to_the_device_and_expires():
    judged = rules(command=[STOP | {"expires_s": 10, "arguments": {"softly": True}}])

    decision, command = judged.judge(seen(1, 9))

    assert command.topic == "atoll/v1/site/pi/command/a/stop"
    told = Command.decode(command.payload)
    assert (told.expires_ms, told.value, told.arguments) == (NOW_MS + 11e3, 1, {"softly": True})
    assert Decision.decode(decision.payload).commands == [command.topic]


def test_a_command_may_go_to_another_device_and_when_it_is_over():
    judged = rules(command=[STOP | {"device": "fan"}, {"name": "go", "on": "cleared"}])

    first, second = commands(judged.judge(seen(1, 9))), commands(judged.judge(seen(2, 0)))

    assert [act.topic for act in first + second] == [
        "atoll/v1/site/pi/command/fan/stop",
        "atoll/v1/site/pi/command/a/go",
    ]


def test_a_command_of_another_make_has_a_topic_and_a_payload_with_places():
    judged = rules(
        command=[
            {
                "topic": "zigbee2mqtt/${device_name}/set",
                "payload": {"state": "ON", "level": "${value}", "why": "${rule} is ${state}"},
            }
        ]
    )

    (command,) = commands(judged.judge(seen(1, 9.5, "Hall--20fan")))

    assert command.topic == "zigbee2mqtt/Hall fan/set"
    assert json.loads(command.payload) == {"state": "ON", "level": 9.5, "why": "hot is raised"}


@pytest.mark.parametrize(
    ("prediction", "why"),
    [
        (seen(1, 9, age_s=31), Withheld.TOO_OLD),
        (seen(1, 9, age_s=-31), Withheld.FROM_FUTURE),
        (seen(1, 9, doubt=Withheld.LATE), Withheld.LATE),
        (seen(1, 9, doubt=Withheld.REPLAYED), Withheld.REPLAYED),
    ],
)
def test_no_command_follows_from_what_nobody_should_act_on(prediction, why):
    judged = rules(command=[STOP])

    acts = judged.judge(prediction)

    assert [decision.withheld for decision in decisions(acts)] == [why]
    assert commands(acts) == []
    assert judged.counts["commands_withheld"] == 1


def test_a_fresh_prediction_that_confirms_it_sends_the_command_that_was_withheld_once():
    judged = rules(command=[STOP])

    # old 9: raised, withheld; fresh 9: raised, told; fresh 9: nothing new
    judged.judge(seen(1, 9, age_s=100))
    second, third = judged.judge(seen(2, 9)), judged.judge(seen(3, 9))

    assert [decision.withheld for decision in decisions(second)] == [None]
    assert ([act.topic for act in commands(second)], third) == (["atoll/v1/site/pi/command/a/stop"], [])


def test_a_command_that_was_withheld_is_forgotten_when_it_is_over():
    judged = rules(command=[STOP])

    judged.judge(seen(1, 9, age_s=100))
    judged.judge(seen(2, 0))

    assert judged.judge(seen(3, 0)) == []


def told(judged: Rules, *predictions: Seen) -> str:
    """Return for each prediction R or C if it sends commands, r or c if it withholds them, or a dot."""
    signs = []
    for one in predictions:
        acts = judged.judge(one)
        states = [decision.state.value[0] for decision in decisions(acts)]
        signs.append("".join(states).upper() if commands(acts) else "".join(states) or ".")
    return "".join(signs)


STOP_AND_GO = [STOP, {"name": "go", "on": "cleared"}]


def old(second, value, device="a") -> Seen:
    return seen(second, value, device, age_s=86_400)


def test_no_count_is_reached_with_predictions_that_are_too_old():
    judged = rules(when={"above": 5, "at_least": 3, "of": 5}, command=STOP_AND_GO)

    # three of yesterday; of today one that is not met, and three that are
    yesterday = [old(second, 9) for second in (0, 1, 2)]
    today = [seen(second, value) for second, value in enumerate([0, 9, 9, 9, 9], 3)]
    assert told(judged, *yesterday, *today) == "..r...R."


def test_no_hold_time_begins_with_a_prediction_that_is_too_old():
    judged = rules(when={"above": 5, "for_s": 3}, command=STOP_AND_GO)

    assert told(judged, old(0, 9), *[seen(second, 9) for second in (50, 51, 52, 53, 54)]) == ".r..R."


def test_no_hysteresis_begins_with_a_prediction_that_is_too_old():
    judged = rules(when={"above": 5, "clear": 3}, command=STOP_AND_GO)

    assert told(judged, old(0, 9), seen(1, 4), seen(2, 6), seen(3, 4), seen(4, 2)) == "r.R.C"


def test_no_command_takes_back_what_only_old_predictions_say_is_over():
    judged = rules(command=STOP_AND_GO)

    assert told(judged, seen(0, 9), old(1, 0), seen(2, 9), old(3, 0), seen(4, 0)) == "RcRcC"


def test_a_prediction_between_fresh_ones_that_nobody_should_act_on_holds_up_none():
    judged = rules(when={"above": 5, "for_s": 3}, command=STOP_AND_GO)
    late = seen(2, 9, doubt=Withheld.LATE)

    assert told(judged, seen(0, 9), seen(1, 9), late, seen(3, 9), seen(4, 0)) == "...RC"


def test_no_group_acts_on_what_a_member_said_too_long_ago():
    judged = rules(command=[{**STOP, "device": "fan"}], group=group("count", count=2))

    acts = [judged.judge(one) for one in (old(0, 9, "a"), seen(1, 9, "b"), seen(2, 9, "c"), seen(3, 9, "a"))]

    assert [decision.withheld for each in acts for decision in decisions(each)] == [Withheld.TOO_OLD, None]
    assert [len(commands(each)) for each in acts] == [0, 0, 1, 0]


def test_when_all_is_fresh_again_nothing_more_is_judged_twice():
    alone, many = rules(command=[STOP]), rules(command=[{**STOP, "device": "fan"}], group=group("any"))

    for judged, subject in ((alone, "a"), (many, "hall")):
        told(judged, old(0, 9), seen(1, 9))
        assert judged.state()["hot"].alarms[subject].fresh is None


def test_states_go_on_after_a_restart_under_a_rule_that_has_changed():
    before = rules(command=STOP_AND_GO)
    told(before, seen(0, 9))
    after = rules(when={"above": 8}, command=STOP_AND_GO)

    after.restore(restarted(before), -1e4)

    # 7 is no more above the limit
    assert told(after, seen(100, 7), seen(101, 9)) == "CR"


def test_a_group_goes_on_after_a_restart_with_those_who_were_heard_lately():
    table = {
        "command": [{**one, "device": "fan"} for one in STOP_AND_GO],
        "group": group("count", count=2, max_age_s=20),
    }
    before = rules(**table)
    told(before, seen(0, 9, "a"), seen(10, 9, "b"))
    after = rules(**table)

    after.restore(restarted(before), 1e6)  # its seconds begin elsewhere

    # b counts for 20 seconds after it was heard
    heard = [seen(15, 9, "c", arrival_s=1e6 + 15), seen(25, 9, "c", arrival_s=1e6 + 25)]
    assert told(after, *heard, seen(31, 9, "c", arrival_s=1e6 + 31)) == "..C"


def test_a_rule_that_is_no_group_any_more_begins_anew():
    before = rules(command=[{**STOP, "device": "fan"}], group=group("any"))
    told(before, seen(0, 9, "a"))

    for after in (rules(command=[STOP]), rules(group={**group("any"), "name": "other"})):
        after.restore(restarted(before), 0.0)
        assert not after.state()["hot"].alarms


def restarted(judged: Rules) -> dict[str, RuleState]:
    kept = msgspec.msgpack.encode(judged.state())
    return msgspec.msgpack.decode(kept, type=dict[str, RuleState])


def test_a_rule_without_commands_withholds_none():
    (decision,) = decisions(rules().judge(seen(1, 9, age_s=100)))

    assert decision.withheld is None


def test_a_topic_that_a_label_spoils_is_counted_and_not_published():
    judged = rules(when={"label": "a+b"}, command=[{"topic": "x/${label}", "payload": "on"}])

    acts = judged.judge(seen(1, label="a+b"))

    assert (len(acts), judged.counts["commands_unwritten"]) == (1, 1)


# Bounds


def test_states_of_devices_that_were_silent_longest_are_forgotten():
    judged = rules(max_devices=2)

    for number, device in enumerate(["a", "b", "c"]):
        judged.judge(seen(number, 9, device))

    # a is raised anew, as if it had not been
    assert (said(judged, seen(4, 9, "a")), judged.counts["rule_states_forgotten"]) == ("R", 2)


def test_a_group_has_no_more_members_than_it_may():
    judged = rules(max_devices=10**6, group=group("count", count=MAX_GROUP))

    for number in range(MAX_GROUP + 10):
        judged.judge(seen(number / 1e4, 9, f"d{number}"))

    assert judged.counts["rule_states_forgotten"] == 10
