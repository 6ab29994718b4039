"""``[[stream]]``: presets, keys that belong to a dialect, and what is told when they do not fit."""

from __future__ import annotations

from typing import get_args

import pytest
from pydantic import ValidationError
from support.dialects import stream

from atoll_ingest.pointer import PointerDialect
from atoll_ingest.reader import Recipe
from atoll_link.presets import PRESETS
from atoll_link.stream_settings import PresetName, StreamTable


def faults(settings: str) -> str:
    with pytest.raises(ValidationError) as caught:
        stream(settings)
    return str(caught.value)


def test_every_preset_can_be_named_and_makes_a_stream() -> None:
    assert set(get_args(PresetName)) == set(PRESETS)
    for name in PRESETS:
        topics = 'topics = ["a/{device}"]' if name == "sparkplug" else ""
        assert stream(f'preset = "{name}"\n{topics}\nvalues.x = {{}}').subscriptions


def test_what_stands_in_the_file_counts_and_tables_are_completed() -> None:
    table = StreamTable.model_validate(
        {
            "name": "s",
            "preset": "shelly",
            "topics": ["hall/{device}/events/rpc"],
            "join_s": 5,
            "time": {"zone": "Europe/Vienna"},
            "values": {"apower": {}},
        }
    )

    assert table.topics == ["hall/{device}/events/rpc"]
    assert table.time is not None
    assert (table.time.pointer, table.time.zone) == ("/params/ts", "Europe/Vienna")
    assert (table.join_s, table.hold_s) == (5, None)
    assert table.at == "/params/switch:0"


def test_topics_of_single_values_replace_those_of_a_preset_but_not_those_of_the_file() -> None:
    values = "values.x = {}\nvalues.y = { topic = 'hall/{device}/y' }"
    own = 'topics = ["{device}/{value}/state"]'

    assert stream(f'preset = "esphome"\n{values}').subscriptions == ["hall/+/y"]
    for given in (f'preset = "esphome"\n{own}', f'dialect = "scalar"\n{own}'):
        assert {pattern.text for pattern in stream(f"{given}\n{values}").patterns} == {
            "hall/{device}/y",
            "{device}/{value}/state",
        }


def test_a_stream_that_can_be_read_message_by_message_takes_the_short_way() -> None:
    plain = 'dialect = "json"\ntopics = ["{device}"]\nvalues.x = { scale = 2 }\ntime = { pointer = "/t" }'

    assert isinstance(stream(plain).plain, PointerDialect)
    for more in (
        'device = "{device}-{/id}"',
        'each = "/*"',
        "columns = true",
        'header = "/h"',
        "hold_s = 5",
        'first_register = "/r"',
        'values.y = { jmespath = "a" }',
        'values.y = { unit_pointer = "/u" }',
        "time.step_s = 1",
    ):
        settings = f"{more}\n" + plain.replace('time = { pointer = "/t" }', "")
        assert isinstance(stream(settings).dialect, Recipe), more


def test_a_value_without_a_place_stands_under_its_name() -> None:
    found = stream('dialect = "json"\ntopics = ["{device}"]\nat = "/a"\nvalues."b/c~d" = {}').plain

    assert found == PointerDialect({"b/c~d": ("a", "b/c~d")})


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ('values.x = { name = "X" }', "values.x.name does not belong to dialect 'atoll'"),
        ("values.x = {}\nhold_s = 5", "hold_s does not belong to dialect 'atoll'"),
        (
            'dialect = "influx"\ntopics = ["{device}"]\nvalues.x = { pointer = "/x" }',
            "values.x.pointer does not belong to dialect 'influx', but to 'cbor' and 'json'",
        ),
        ('dialect = "json"\ntopics = ["a"]\nvalues.x = {}', "exactly one level that is {device}"),
        ('dialect = "senml"\nvalues.x = {}', "needs topics"),
        ('dialect = "json"\ntopics = ["{device}"]\nvalues.x = {}\njoin_s = 1\nhold_s = 1', "not both"),
        (
            'dialect = "json"\ntopics = ["{device}"]\nvalues.x = { pointer = "/x", jmespath = "x" }',
            "pointer or jmespath, not both",
        ),
        ('dialect = "json"\ntopics = ["{device}"]\nvalues.x = { jmespath = "a[" }', "jmespath 'a['"),
        (
            'dialect = "scalar"\ntopics = ["{device}/{value}"]\nvalues.x = {}\ntime.topic = "{device}/t"',
            "time.topic needs join_s",
        ),
        (
            'dialect = "json"\ntopics = ["$share/g/a/+/{device}", "$share/h/+/x/{device}"]\nvalues.x = {}',
            "of different groups overlap",
        ),
        (
            'dialect = "json"\ntopics = ["{device}"]\nvalues.x = {}\ntime.zone = "Mars/Olympus"',
            "no time zone",
        ),
        ('dialect = "json"\ntopics = ["{device}"]\nvalues.x = {}\ndevice = "{a"', "made of names in braces"),
        ('preset = "nothing"\nvalues.x = {}', "preset"),
        (
            'preset = "sparkplug"\nvalues.x = { name = "X" }\nvalues.y = { name = "X" }',
            "values.x and values.y are both 'X' at the sender",
        ),
        (
            'preset = "esphome"\nvalues.x = { name = "y" }\nvalues.y = {}',
            "values.x and values.y are both 'y' at the sender",
        ),
        ('preset = "esphome"\nvalues.time = { name = "t" }', "values.time: 'time' is the event time"),
        ('preset = "esphome"\nvalues.x = { name = "time" }', "values.x: 'time' is the event time"),
        (
            'dialect = "json"\ntopics = ["{device}"]\nvalues.x = { modbus = { address = 1, type = "bcd" } }',
            "float32",
        ),
    ],
)
def test_settings_that_make_no_sense_are_told(settings: str, told: str) -> None:
    assert told in faults(settings)


def test_all_faults_between_keys_are_told_at_once() -> None:
    told = faults('dialect = "influx"\nvalues.x = { pointer = "/x" }\nat = "/a"')

    assert "values.x.pointer" in told
    assert "at does not belong" in told
    assert "needs topics" in told
