"""What a writer writes in any dialect, the stream's own reader reads back as the same reading."""

from __future__ import annotations

import tomllib
from collections import Counter
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll_contract.errors import ConfigError
from atoll_contract.messages import Reading
from atoll_ingest.stream import Stream
from atoll_link.presets import PRESETS
from atoll_link.stream_settings import StreamTable
from atoll_link.stream_write import StreamWriter

DEVICES = st.from_regex(r"[A-Za-z0-9]{1,12}(-[a-z0-9]{1,6})?", fullmatch=True)
TIMES_MS = st.integers(1_000_000_000_000, 4_000_000_000_000).map(float)
NUMBERS = st.floats(-1e9, 1e9, allow_nan=False).map(lambda number: round(number, 6))
READINGS = st.fixed_dictionaries({"t": NUMBERS, "p": NUMBERS})

DIALECTS = {
    "atoll": "values = { t = { unit = '°C' }, p = {} }",
    "json": """
topics = ["plant/{device}/state"]
dialect = "json"
values = { t = { pointer = "/a/b~1c", scale = 0.1, offset = -40 }, p = {} }
time = { pointer = "/meta/ts", unit = "s" }
""",
    "json by pointer": """
topics = ["plant/all"]
dialect = "json"
device = "{/id}"
at = "/data"
values = { t = {}, p = { unit = "hPa", unit_pointer = "/unit" } }
time = { pointer = "/at", unit = "iso8601" }
""",
    "json by key": """
topics = ["plant/all"]
dialect = "json"
each = "/{device}/*"
values = { t = {}, p = {} }
time = { pointer = "/ts" }
""",
    "cbor": """
topics = ["{device}/c"]
dialect = "cbor"
values = { t = {}, p = {} }
time = { pointer = "/ts", unit = "us" }
""",
    "senml": """
topics = ["senml/{place}"]
dialect = "senml"
device = "{base}"
values = { t = { unit = "Cel" }, p = { name = "pressure" } }
""",
    "senml-cbor": """
topics = ["senml/{device}"]
dialect = "senml-cbor"
values = { t = {}, p = {} }
""",
    "sparkplug": """
dialect = "sparkplug"
values = { t = { name = "Line/Temp", unit = "°C" }, p = {} }
""",
    "influx": """
topics = ["telegraf/+"]
dialect = "influx"
device = "{host}"
measurement = "press machine"
values = { t = { name = "t=c" }, p = {} }
""",
    "opcua": """
topics = ["opc/{device}"]
dialect = "opcua"
values = { t = { name = "Temp" }, p = {} }
""",
    "scalar": """
topics = ["house/{device}/{value}"]
dialect = "scalar"
decimal = ","
join_s = 5
values = { t = { suffix = " °C" }, p = { name = "pressure" } }
time = { topic = "house/{device}/clock", unit = "iso8601" }
""",
}


@cache
def table_of(written: str) -> StreamTable:
    return StreamTable.model_validate({"name": "s", **tomllib.loads(written)})


@cache
def stream(name: str) -> Stream:
    return table_of(DIALECTS[name]).build("site")


@pytest.mark.parametrize("name", DIALECTS)
@settings(max_examples=25, deadline=None)
@given(device=DEVICES, time_ms=TIMES_MS, values=READINGS)
def test_readings_come_back_as_they_were(name, device, time_ms, values):
    table = table_of(DIALECTS[name])
    writer = StreamWriter(table, "site")
    reader = stream(name).reader(10, Counter())

    # Twice: where a dialect has births, the second one is no birth any more.
    for at_ms in (time_ms, time_ms + 1000):
        messages = writer.messages(device, Reading(values=values, time_ms=at_ms))
        (told,) = [one for topic, payload in messages for one in reader.read(topic, payload, at_ms)]

        assert (told.device, told.reading.time_ms) == (device, pytest.approx(at_ms, abs=2e-3))
        assert told.reading.values == {
            name: pytest.approx(value, rel=1e-12, abs=1e-7) for name, value in values.items()
        }


def test_a_missing_value_is_left_out():
    table = table_of(DIALECTS["opcua"])

    (message,) = StreamWriter(table, "site").messages("pump-1", Reading(values={"t": None, "p": 2.0}))

    ((_, reading),) = stream("opcua").reader(10).read(*message, 0.0)
    assert reading.values == {"p": 2.0}


def test_every_fault_of_a_stream_that_cannot_be_written_is_named():
    table = table_of(
        'topics = ["{line}/{device}"]\ndialect = "json"\ndevice = "{line}-{device}"\n'
        'values = { t = { jmespath = "max(x)" }, p = { modbus = { address = 3 } } }'
    )

    with pytest.raises(ConfigError) as refusal:
        StreamWriter(table, "site")

    assert len(refusal.value.faults) == 3
    assert "values.t.jmespath cannot be written" in str(refusal.value)


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_written_or_says_why_not(preset):
    table = StreamTable.model_validate({"name": "s", "preset": preset, "values": {"t": {}}})
    try:
        writer = StreamWriter(table, "site")
    except ConfigError as error:
        assert "cannot be written" in str(error) or "several parts" in str(error)  # noqa: PT017
        return
    reader = table.build("site").reader(10)
    told = [
        one
        for topic, payload in writer.messages("pump-1", Reading(values={"t": 21.5}, time_ms=1.7e12))
        for one in reader.read(topic, payload, 1.7e12)
    ]
    assert told[-1].device == "pump-1"
    assert told[-1].reading.values["t"] == 21.5
