"""Which device a topic belongs to, and our own dialect."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll_contract.errors import MalformedMessageError, Reason
from atoll_contract.ids import is_id, unescape
from atoll_contract.messages import Reading
from atoll_contract.topics import ReadingTopic
from atoll_ingest.dialect import AtollDialect
from atoll_ingest.stream import Stream, TopicPattern


@pytest.mark.parametrize(
    ("pattern", "topic", "device"),
    [
        ("plant-a/{device}/telemetry", "plant-a/pump-7/telemetry", "pump-7"),
        ("{device}", "pump-7", "pump-7"),
        ("{device}/x", "pump-7/x", "pump-7"),
        ("zigbee2mqtt/{device}", "zigbee2mqtt/Kitchen lamp", "Kitchen--20lamp"),
        ("tele/{device}/SENSOR", "tele/sønsor/SENSOR", "s--c3--b8nsor"),
        ("a/{device}", "a/x.y", "x--2ey"),
        ("a.b/{device}", "a.b/x", "x"),
        ("+/{device}/+", "any/pump-7/thing", "pump-7"),
        ("+/{device}/+", "/pump-7/", "pump-7"),
        ("a/{device}", "a/line\nbreak", "line--0abreak"),
        ("$share/hall/a/{device}", "a/pump-7", "pump-7"),
        ("$share/hall/{device}", "pump-7", "pump-7"),
        ("a/$share/b/{device}", "a/$share/b/pump-7", "pump-7"),
        ("z/{device...}", "z/office/climate 1", "office--2fclimate--201"),
        ("z/{device...}", "z/lamp", "lamp"),
        ("z/{device...}/state", "z/a/b/state", "a--2fb"),
        ("{line}/{device}/+", "hall/press/x", "press"),
    ],
)
def test_the_level_named_device_becomes_an_id(pattern: str, topic: str, device: str) -> None:
    assert TopicPattern(pattern).device(topic) == device


@pytest.mark.parametrize(
    ("pattern", "topic"),
    [
        ("a/{device}", "b/pump-7"),
        ("a/{device}", "a/pump-7/more"),
        ("a/{device}", "a/"),
        ("a/{device}", "a"),
        ("a.b/{device}", "axb/pump-7"),
        ("a/{device}/+", "a/pump-7"),
        ("a/{device}", ""),
        ("z/{device...}", "z"),
        ("z/{device...}", "z/"),
        ("z/{device...}/state", "z/state"),
        ("$share/hall/a/{device}", "$share/hall/a/pump-7"),
    ],
)
def test_a_topic_of_somebody_else_belongs_to_no_device(pattern: str, topic: str) -> None:
    assert TopicPattern(pattern).device(topic) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a/b",
        "a/{device}/{device}",
        "a/#",
        "{device}/#",
        "a+/{device}",
        "a/x{device}",
        "a/{device...}/{x...}",
        "a/{device}/{x}/{x}",
        "a/{Device}/{device}",
        "a/{other}",
        "$share",
        "$share/{device}",
        "$share/hall/",
        "$share/hall/a",
        "$share//a/{device}",
        "$share/{device}/a",
        "$share/+/a/{device}",
        "$share/#/a/{device}",
    ],
)
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="topic"):
        TopicPattern(text)


def test_the_filter_has_a_plus_for_the_device() -> None:
    assert TopicPattern("+/a/{device}/x").filter == "+/a/+/x"


def test_a_group_shares_the_readings_and_who_is_in_none_sees_them_all() -> None:
    shared = TopicPattern("$share/hall/+/a/{device}/x")
    stream = Stream("s", (TopicPattern("b/{device}"), shared), AtollDialect(), {"value": None})

    assert (shared.subscription, shared.filter) == ("$share/hall/+/a/+/x", "+/a/+/x")
    assert stream.is_shared
    assert not Stream("s", stream.patterns[:1], AtollDialect(), {"value": None}).is_shared


def test_a_name_too_long_for_an_id_is_refused_by_reason() -> None:
    with pytest.raises(MalformedMessageError) as caught:
        TopicPattern("a/{device}").device("a/" + "ø" * 20)

    assert caught.value.reason is Reason.MALFORMED_TOPIC


@pytest.mark.parametrize("group", ["", "$share/hall/"])
def test_on_atoll_s_own_topics_the_device_is_an_id_already(group: str) -> None:
    """The device has escaped its name; escaping it again would make another device of it."""
    pattern = TopicPattern(f"{group}atoll/v1/plant-a/{{device}}/reading/vib")
    topic = ReadingTopic("plant-a", "Kitchen--20lamp", "vib")

    assert pattern.device(str(topic)) == topic.device
    with pytest.raises(MalformedMessageError) as caught:
        pattern.device("atoll/v1/plant-a/Kitchen lamp/reading/vib")
    assert caught.value.reason is Reason.MALFORMED_TOPIC


@given(st.text(max_size=300))
def test_any_topic_gives_an_id_or_nothing_or_a_refusal(topic: str) -> None:
    pattern = TopicPattern("+/{device}")
    try:
        device = pattern.device(topic)
    except MalformedMessageError as error:
        assert error.reason is Reason.MALFORMED_TOPIC  # noqa: PT017
        return
    if device is not None:
        assert is_id(device)
        assert unescape(device) == topic.split("/")[1]


def test_a_stream_asks_its_patterns_in_turn() -> None:
    patterns = (TopicPattern("a/{device}"), TopicPattern("b/{device}/x"))
    stream = Stream("s", patterns, AtollDialect(), {"value": None})

    assert stream.device("b/pump-7/x") == "pump-7"
    assert stream.device("c/pump-7") is None


def test_a_lone_number_is_the_value_named_value() -> None:
    readings = AtollDialect().decode(b'[{"values": 1, "seq": 3}, {"values": {"x": 2}}]')

    assert readings == [Reading(values={"value": 1.0}, seq=3), Reading(values={"x": 2.0})]


def test_a_stream_that_is_read_anew_from_the_same_settings_is_the_same() -> None:
    patterns = (TopicPattern("a/{device}"),)

    assert Stream("s", patterns, AtollDialect(), {"x": None}) == Stream(
        "s", patterns, AtollDialect(), {"x": None}
    )
