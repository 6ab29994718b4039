"""What to subscribe to, so that everything comes and nothing comes twice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.dialects import stream

from atoll_contract.errors import MalformedMessageError, Reason
from atoll_ingest.topic import TopicPattern, subscriptions_for, without_overlaps


def matches(topic_filter: str, topic: str) -> bool:
    """Whether a broker delivers ``topic`` for ``topic_filter`` (MQTT 4.7)."""
    wanted, levels = topic_filter.split("/"), topic.split("/")
    if wanted[-1] == "#":
        wanted = wanted[:-1]
        levels = levels[: len(wanted)] if len(levels) >= len(wanted) else levels
    return len(wanted) == len(levels) and all(
        left in {"+", right} for left, right in zip(wanted, levels, strict=True)
    )


@pytest.mark.parametrize(
    ("filters", "found"),
    [
        (["a/+", "a/b"], ["a/+"]),
        (["a/b", "a/+"], ["a/+"]),
        (["a/#", "a"], ["a/#"]),
        (["a/#", "a/b/c", "b"], ["a/#", "b"]),
        (["a/+", "+/b"], ["+/+"]),
        (["a/b", "a/c"], ["a/b", "a/c"]),
        (["a/+", "a/+/c"], ["a/+", "a/+/c"]),
        (["a/b", "c/d", "+/b", "c/+"], ["+/+"]),
        (["#", "a/b"], ["#"]),
    ],
)
def test_filters_that_overlap_become_one(filters: list[str], found: list[str]) -> None:
    assert without_overlaps(filters) == found


levels = st.sampled_from(["a", "b", "+"])
some_filters = st.lists(
    st.tuples(st.lists(levels, min_size=1, max_size=4), st.booleans()).map(
        lambda pair: "/".join([*pair[0], *(["#"] if pair[1] else [])])
    ),
    min_size=1,
    max_size=5,
)
topics = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=5).map("/".join)


@given(some_filters, topics)
def test_what_any_filter_brings_comes_exactly_once(filters: list[str], topic: str) -> None:
    times = sum(matches(found, topic) for found in without_overlaps(filters))

    if any(matches(topic_filter, topic) for topic_filter in filters):
        assert times == 1
    else:
        assert times <= 1


def test_groups_are_kept_apart() -> None:
    patterns = [TopicPattern(f"{group}a/{{device}}") for group in ("$share/x/", "$share/x/", "$share/y/")]

    assert subscriptions_for(patterns) == ["$share/x/a/+", "$share/y/a/+"]


def test_what_only_a_wider_filter_brings_is_ignored_and_counted() -> None:
    both = stream(
        'dialect = "scalar"\nhold_s = 5\n'
        'values.x = { topic = "a/{device}" }\nvalues.y = { topic = "{device}/b" }'
    )
    assert both.subscriptions == ["+/+"]
    assert both.plain is None

    reader = both.reader(10)

    assert [told.device for told in reader.read("a/pump", b"1", 0.0)] == ["pump"]
    with pytest.raises(MalformedMessageError) as caught:
        reader.read("c/d", b"1", 0.0)
    assert caught.value.reason is Reason.MALFORMED_TOPIC


def test_topics_that_carry_no_readings_are_ignored() -> None:
    lamps = stream('preset = "zigbee2mqtt"\nvalues.power = {}')
    reader = lamps.reader(10)

    assert lamps.subscriptions == ["zigbee2mqtt/#"]
    assert reader.read("zigbee2mqtt/bridge/info", b"{", 0.0) == []
    assert reader.read("zigbee2mqtt/hall/lamp/availability", b"online", 0.0) == []
    assert reader.counts["messages_ignored"] == 2
    [told] = reader.read("zigbee2mqtt/hall/lamp", b'{"power": 3}', 0.0)
    assert told.device == "hall--2flamp"
