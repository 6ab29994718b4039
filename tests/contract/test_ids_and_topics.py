"""Ids and topics: spelling and reading are inverse to each other, for all types and any name."""

from __future__ import annotations

from dataclasses import fields
from typing import get_args

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from atoll_contract import topics
from atoll_contract.errors import MalformedMessageError, Reason
from atoll_contract.ids import MAX_ID_LENGTH, escape, is_id, require_id, unescape
from atoll_contract.topics import (
    MAX_SLASHES,
    MAX_TOPIC_BYTES,
    RESERVED_SITES,
    RESERVED_WRITERS,
    ChunkTopic,
    MetadataTopic,
    ReadingTopic,
    Topic,
)

ids = st.from_regex(r"[A-Za-z0-9_-]{1,48}", fullmatch=True)
# Names that come near the escape's own signs.
tricky = st.text(st.sampled_from("-2fF/ aé\N{SNOWMAN}_\0"), max_size=12)
names = st.one_of(tricky, ids, st.text(max_size=20))
kinds = [kind for kind in get_args(Topic) if kind not in {MetadataTopic, ChunkTopic}]


# Ids


@given(names)
@example("--2f")
@example("a--2fb")
@example("-/")
@example("/-")
@example("--")
@example("-")
@example("---")
def test_an_escape_is_an_id_and_comes_back_as_the_name(name: str) -> None:
    try:
        identifier = escape(name)
    except MalformedMessageError as error:
        assert error.reason is Reason.MALFORMED_TOPIC  # noqa: PT017
        spelt = sum(1 if is_id(sign) and sign != "-" else 4 for sign in name)
        assert not name or spelt + 3 * len(name.encode("utf-8", "surrogatepass")) > MAX_ID_LENGTH
        return

    assert is_id(identifier)
    assert unescape(identifier) == name


@given(names, names)
@example("a/b", "a--2fb")
@example("-/", "--2d/")
@example("--2d", "-")
def test_two_names_never_share_an_id(one: str, other: str) -> None:
    assume(one != other)
    try:
        assert escape(one) != escape(other)
    except MalformedMessageError:
        return


@given(ids)
@example("a--2Fb")
@example("--61")
@example("--c3")
@example("---2f")
@example("----")
@example("--")
def test_an_id_is_the_escape_of_exactly_one_name_or_of_none(identifier: str) -> None:
    try:
        name = unescape(identifier)
    except MalformedMessageError as error:
        assert error.reason is Reason.MALFORMED_TOPIC  # noqa: PT017
        return
    assert escape(name) == identifier


@pytest.mark.parametrize("identifier", ["a--2Fb", "--61", "--c3", "--2d", "-" * 2, "", "a b", "x" * 49])
def test_what_no_name_becomes_is_refused(identifier: str) -> None:
    with pytest.raises(MalformedMessageError):
        unescape(identifier)


@given(
    st.from_regex(r"[A-Za-z0-9_]([A-Za-z0-9_]|-[A-Za-z0-9_])*", fullmatch=True).filter(
        lambda name: len(name) <= 48
    )
)
def test_an_id_without_two_hyphens_in_a_row_stays_as_it_is(name: str) -> None:
    assert escape(name) == name


@pytest.mark.parametrize(
    ("name", "identifier"),
    [
        ("Kitchen lamp/2", "Kitchen--20lamp--2f2"),
        ("pump--7", "pump--2d--2d7"),
        ("é", "--c3--a9"),
        ("\N{GRINNING FACE}", "--f0--9f--98--80"),
        ("a-", "a-"),
    ],
)
def test_the_escape_is_spelt_as_the_contract_says(name: str, identifier: str) -> None:
    assert escape(name) == identifier


def test_half_of_a_character_is_refused() -> None:
    with pytest.raises(MalformedMessageError, match="half of a character"):
        escape("a\ud800")


def test_a_long_name_is_not_repeated_in_the_error() -> None:
    with pytest.raises(MalformedMessageError) as caught:
        require_id("x" * 10_000, "device")
    assert len(caught.value.detail) < 200


# Topics


@st.composite
def site_topics(draw: st.DrawFn) -> Topic:
    kind = draw(st.sampled_from(kinds))
    levels = [draw(ids) for _ in fields(kind)]
    assume(levels[0] not in RESERVED_SITES)
    assume(levels[1] not in RESERVED_WRITERS)
    found: Topic = kind(*levels)
    return found


release_topics = st.one_of(
    st.builds(MetadataTopic, st.from_regex(r"[A-Za-z0-9_%-][A-Za-z0-9_.%-]{0,95}", fullmatch=True)),
    st.builds(ChunkTopic, st.from_regex(r"[0-9a-f]{64}", fullmatch=True), st.integers(0, 999_999)),
)


@given(st.one_of(site_topics(), release_topics))
def test_spelling_and_reading_a_topic_are_inverse(topic: Topic) -> None:
    text = str(topic)

    assert topics.parse(text) == topic
    assert type(topic).parse(text) == topic
    assert len(text.encode()) <= MAX_TOPIC_BYTES
    assert text.count("/") <= MAX_SLASHES


@given(site_topics(), st.data())
def test_a_topic_is_of_one_type_only(topic: Topic, data: st.DataObject) -> None:
    other = data.draw(st.sampled_from([kind for kind in get_args(Topic) if kind is not type(topic)]))

    with pytest.raises(MalformedMessageError):
        other.parse(str(topic))


@given(
    st.one_of(
        st.text(max_size=80),
        st.lists(
            st.sampled_from(
                [
                    "atoll",
                    "v1",
                    "releases",
                    "metadata",
                    "bundle",
                    "reading",
                    "status",
                    "a",
                    "",
                    "+",
                    "#",
                    "0" * 64,
                    "1",
                ]
            ),
            max_size=9,
        ).map("/".join),
    )
)
def test_any_text_is_a_topic_or_refused(text: str) -> None:
    try:
        topic = topics.parse(text)
    except MalformedMessageError as error:
        assert error.reason is Reason.MALFORMED_TOPIC  # noqa: PT017
        return
    assert str(topic) == text


@given(site_topics(), st.data())
def test_a_filter_is_the_topic_with_a_plus_for_each_level_left_out(topic: Topic, data: st.DataObject) -> None:
    names_ = [field.name for field in fields(topic)]
    chosen = data.draw(st.sets(st.sampled_from(names_)))
    levels = {name: getattr(topic, name) for name in chosen}
    text = type(topic).any_of(**levels)  # type: ignore[union-attr]

    expected = type(topic)(**{name: levels.get(name, "PLUS") for name in names_})
    assert text == str(expected).replace("PLUS", "+")


def test_a_filter_of_an_unknown_level_is_a_bug() -> None:
    with pytest.raises(TypeError, match="no level model"):
        ReadingTopic.any_of(model="press")


@pytest.mark.parametrize("level", ["+", "#", "a/b", ""])
def test_a_filter_s_levels_are_ids(level: str) -> None:
    with pytest.raises(MalformedMessageError):
        ReadingTopic.any_of(site=level)


@pytest.mark.parametrize("kind", kinds)
def test_reserved_names_are_refused_when_a_topic_is_made(kind: type) -> None:
    rest = ["x"] * (len(fields(kind)) - 2)
    for levels in (["releases", "x"], ["x", "metadata"], ["x", "bundle"]):
        with pytest.raises(MalformedMessageError, match="reserved"):
            kind(*levels, *rest)


def test_a_long_topic_is_not_repeated_in_the_error() -> None:
    with pytest.raises(MalformedMessageError) as caught:
        topics.parse("x" * 65_535)
    assert len(caught.value.detail) < 500
