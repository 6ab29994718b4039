from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll_agent.decisions.template import FACTS, Template, topic_fault

FACT = dict.fromkeys(FACTS, "x")


@given(st.text(), st.floats(allow_nan=False, allow_infinity=False))
def test_no_fact_changes_what_the_json_means(label, value):
    template = Template.of({"label": "${label}", "both": "${label} at ${value}", "level": ["${value}", 1]})

    told = json.loads(template.text(FACT | {"label": label, "value": value}))

    assert told == {"label": label, "both": f"{label} at {json.dumps(value)}", "level": [value, 1]}


def test_text_that_begins_like_json_is_json():
    assert Template.of('{"on": "${value}"}').text(FACT | {"value": 1.5}) == '{"on":1.5}'


def test_other_text_stays_text():
    assert Template.of("dim ${value}%").text(FACT | {"value": 3.0}) == "dim 3.0%"
    assert Template.of("ON").text(FACT) == "ON"


def test_a_fact_that_there_is_not_is_null_or_nothing():
    facts = FACT | {"label": None}

    assert (
        Template.of({"label": "${label}", "text": "<${label}>"}).text(facts) == '{"label":null,"text":"<>"}'
    )


@pytest.mark.parametrize("fact", ["${device}", "{__class__}", "${value.__class__}", "%(value)s", "{{ 7*7 }}"])
def test_a_fact_that_looks_like_a_place_is_not_looked_at(fact):
    assert Template.of("a ${label} b").text(FACT | {"label": fact}) == f"a {fact} b"


@pytest.mark.parametrize(
    "content",
    ["${nothing}", "${}", "${value", "${ value }", {"x": ["${y}"]}, {"${value}": 1}, '{"x": ', "[1, 2"],
)
def test_a_template_that_makes_no_sense_is_refused(content):
    with pytest.raises(ValueError, match=r"place|JSON"):
        Template.of(content)


@pytest.mark.parametrize("topic", ["", "a/+", "#", "a\0b", "$SYS/x", "x" * 70_000])
def test_a_topic_that_nobody_can_publish_on_is_told(topic):
    assert topic_fault(topic) is not None
