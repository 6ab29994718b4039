"""Every dialect: what its sample says, how it refuses, and that nothing else leaves it."""

from __future__ import annotations

import re
from typing import Any

import cbor2
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.dialects import SAMPLES, sparkplug, stream
from support.json_bytes import mutated

from atoll_contract.errors import MalformedMessageError, Reason
from atoll_contract.messages import Reading, encode_reading
from atoll_ingest.reader import StreamReader
from atoll_ingest.time import is_undated

AT_MS = 1_730_794_500_000.0  # 2024-11-05T08:15:00Z
ARRIVAL_MS = AT_MS + 20_000.0


def read(reader: StreamReader, *messages: tuple[str, bytes]) -> list[tuple[str, Reading]]:
    """Return what is told of all messages, which arrive a millisecond apart."""
    return [
        tuple(told)
        for number, (topic, payload) in enumerate(messages)
        for told in reader.read(topic, payload, ARRIVAL_MS + number)
    ]


def told_of(name: str) -> list[tuple[str, Reading]]:
    return read(SAMPLES[name].stream.reader(10), *SAMPLES[name].messages)


def refusal(reader: StreamReader, topic: str, payload: bytes) -> MalformedMessageError:
    with pytest.raises(MalformedMessageError) as caught:
        reader.read(topic, payload, ARRIVAL_MS)
    return caught.value


def at(time_ms: float | None, **values: Any) -> Reading:
    return Reading(values=values, time_ms=time_ms)


# All of them


@pytest.mark.parametrize("name", SAMPLES)
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_any_bytes_are_read_or_refused_by_reason(name: str, data: st.DataObject) -> None:
    sample = SAMPLES[name]
    reader = sample.stream.reader(3)
    messages = st.sampled_from(sample.messages)

    for topic, payload in data.draw(st.lists(messages, min_size=1, max_size=3)):
        spoilt = data.draw(mutated(st.one_of(st.just(payload), st.binary(max_size=60))))
        try:
            found = reader.read(topic, spoilt, ARRIVAL_MS)
        except MalformedMessageError as error:
            assert 0 < len(error.detail) <= 1000  # noqa: PT017
            continue
        for device, reading in found:
            assert re.fullmatch(r"[A-Za-z0-9_-]{1,48}", device)
            encode_reading(reading)  # finite, and of the contract's form


@pytest.mark.parametrize("name", [name for name in SAMPLES if name not in {"scalar", "sparkplug"}])
def test_a_message_that_is_too_long_is_refused(name: str) -> None:
    topic, _ = SAMPLES[name].messages[0]

    assert refusal(SAMPLES[name].stream.reader(10), topic, b" " * 300_000).reason is Reason.TOO_LARGE


def test_the_short_way_of_the_lane_reads_what_the_long_one_does() -> None:
    for name in ("atoll", "json"):
        plain = SAMPLES[name].stream.plain
        assert plain is not None
        for topic, payload in SAMPLES[name].messages:
            told = SAMPLES[name].stream.reader(10).read(topic, payload, ARRIVAL_MS)
            assert [reading for _, reading in told] == plain.decode(payload)
            assert {device for device, _ in told} == {SAMPLES[name].stream.device(topic)}


# JSON and CBOR


def test_json_with_text_units_and_times_of_a_zone() -> None:
    assert told_of("json") == [
        ("pump-7", at(AT_MS + 123, temp=21.5, door=0.5)),
        ("pump-7", at(AT_MS + 123.456, temp=21.5, door=1.0)),
        ("pump-8", at(AT_MS, temp=-1000.0, door=None)),
    ]


def test_several_devices_in_one_message_each_in_order_of_time() -> None:
    reader = SAMPLES["json-each"].stream.reader(10)

    assert read(reader, *SAMPLES["json-each"].messages) == [
        ("1-a--20b", at(AT_MS, temp=1.0, word=pytest.approx(2.7552967e-40))),
        ("1-a--20b", at(AT_MS + 1000, temp=21.5, word=2.0, unit=4.0)),
    ]


def test_columns_are_readings_a_step_apart_and_hold_what_a_later_message_leaves_out() -> None:
    reader = SAMPLES["json-columns"].stream.reader(10)

    assert read(reader, *SAMPLES["json-columns"].messages) == [
        ("x", at(AT_MS, temp=1.0, door=1.0)),
        ("x", at(AT_MS + 500, temp=2.5, door=0.0)),
        ("x", at(AT_MS + 1000, temp=None, door=0.0)),
    ]
    later = b'{"t0": "2024-11-05T08:15:02Z", "dt": 1, "temp": [5]}'
    assert read(reader, ("col/x", later)) == [("x", at(AT_MS + 2000, temp=5.0, door=0.0))]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b'{"t0": 1730794500, "dt": 1, "temp": [1, 2], "door": [1]}', Reason.WRONG_SHAPE),
        (b'{"t0": 1730794500, "dt": 1, "temp": 3}', Reason.WRONG_SHAPE),
        (b'{"t0": 1730794500, "dt": 0, "temp": [1]}', Reason.BAD_TIME),
        (b'{"dt": 1, "temp": [1, 2]}', Reason.BAD_TIME),
        (b'{"t0": [1730794500], "dt": 1, "temp": [1, 2]}', Reason.BAD_TIME),
        (b'{"t0": 1730794500, "dt": 1}', Reason.MISSING_VALUE),
        (b'{"t0": 1730794500, "dt": 1, "temp": [' + b"1," * 10_000 + b"1]}", Reason.TOO_LARGE),
    ],
)
def test_columns_that_do_not_fit_are_refused(payload: bytes, reason: Reason) -> None:
    error = refusal(SAMPLES["json-columns"].stream.reader(10), "col/x", payload)

    assert error.reason in {reason, Reason.WRONG_SHAPE}


def test_rows_below_the_names_of_their_columns() -> None:
    assert told_of("json-rows") == [("x", at(AT_MS, temp=1.5)), ("x", at(AT_MS + 1000, temp=2.0))]


def test_an_array_has_the_step_that_the_settings_or_the_message_tell() -> None:
    fixed = stream('dialect = "json"\ntopics = ["{device}"]\nvalues.v = {}\ntime.step_s = 0.5')
    told = stream('dialect = "json"\ntopics = ["{device}"]\nvalues.v = {}\ntime.step_pointer = "/dt"')

    [(_, reading)] = read(fixed.reader(1), ("x", b'{"v": [1, 2]}'))
    assert reading == Reading({"v": [1.0, 2.0]}, step_ms=500.0)
    [(_, reading)] = read(told.reader(1), ("x", b'{"v": [1, 2], "dt": 0.001}'))
    assert reading.step_ms == 1.0


@pytest.mark.parametrize("wait", ["hold_s = 60", "join_s = 60"])
def test_a_message_without_any_of_the_values_is_counted_where_parts_are_awaited(wait: str) -> None:
    reader = stream(
        'dialect = "json"\ntopics = ["{device}"]\nvalues.v = { pointer = "/wrong" }\nvalues.w = {}\n' + wait
    ).reader(1)

    assert read(reader, ("x", b'{"v": 1}'), ("x", b'{"v": 2}')) == []
    assert reader.counts["messages_ignored"] == 2
    assert reader.overdue(ARRIVAL_MS * 2) == []
    read(reader, ("x", b'{"w": null}'))  # says that it is missing: not ignored
    assert reader.counts["messages_ignored"] == 2


def test_a_unit_that_the_settings_do_not_say_is_refused() -> None:
    reader = stream(
        'dialect = "json"\ntopics = ["{device}"]\nvalues.t = { unit = "°C", unit_pointer = "/TempUnit" }'
    ).reader(1)

    assert read(reader, ("x", b'{"t": 21, "TempUnit": "C"}')) == [("x", at(None, t=21.0))]
    error = refusal(reader, "x", b'{"t": 70, "TempUnit": "F"}')
    assert error.reason is Reason.UNIT_MISMATCH
    assert "'F'" in error.detail
    assert "'°C'" in error.detail


def test_a_jmespath_expression_that_does_not_fit_the_message_is_refused() -> None:
    reader = stream('dialect = "json"\ntopics = ["{device}"]\nvalues.t = { jmespath = "max(a)" }').reader(1)

    assert refusal(reader, "x", b'{"a": "text"}').reason is Reason.WRONG_SHAPE


def test_a_device_that_the_message_does_not_name_is_refused() -> None:
    reader = stream('dialect = "json"\ntopics = ["gw"]\ndevice = "{/id}"\nvalues.t = {}').reader(1)

    assert read(reader, ("gw", b'{"id": 7, "t": 1}')) == [("7", at(None, t=1.0))]
    assert refusal(reader, "gw", b'{"t": 1}').reason is Reason.NO_DEVICE
    assert refusal(reader, "gw", b'{"id": "' + b"x" * 50 + b'", "t": 1}').reason is Reason.MALFORMED_TOPIC


def test_cbor_has_keys_that_are_numbers_times_and_decimals() -> None:
    assert told_of("cbor") == [
        ("x", at(AT_MS, temp=21.5, door=3.0)),
        ("x", at(1_730_799_300_500.0, temp=21.5)),
    ]


def test_cbor_that_refers_to_itself_does_no_harm() -> None:
    reader = SAMPLES["cbor"].stream.reader(1)

    assert refusal(reader, "c/x", bytes.fromhex("d81c81d81d00")).reason is Reason.MISSING_VALUE
    assert refusal(reader, "c/x", cbor2.dumps([[]]) * 1000).reason in Reason
    assert refusal(reader, "c/x", b"\x81" * 100_000).reason is Reason.MALFORMED_PAYLOAD


# One value per topic


def test_scalars_become_one_reading_with_the_time_of_its_topic() -> None:
    reader = SAMPLES["scalar"].stream.reader(10)

    assert read(reader, *SAMPLES["scalar"].messages) == [("x", at(AT_MS + 920.969, temp=21.5, door=1.0))]
    [(device, reading, arrival_ms)] = reader.overdue(ARRIVAL_MS + 60_000)
    assert (device, reading) == ("y", at(None, temp=21.6, door=None))
    assert arrival_ms == ARRIVAL_MS + 4


def test_a_topic_of_no_value_is_ignored_and_counted() -> None:
    reader = stream('preset = "esphome"\nvalues.co2 = {}').reader(10)

    assert read(reader, ("office/sensor/wifi_signal/state", b"-61")) == []
    assert reader.counts["messages_ignored"] == 1


def test_a_name_at_the_sender_goes_before_the_stream_s_own_names() -> None:
    crossed = 'values.a = { name = "b" }\nvalues.b = { name = "a" }'
    reader = stream(f'dialect = "scalar"\ntopics = ["{{device}}/{{value}}"]\n{crossed}').reader(1)

    assert read(reader, ("x/b", b"1"), ("x/a", b"2")) == [("x", at(None, a=1.0)), ("x", at(None, b=2.0))]

    crossed = 'values.a = { name = "b", topic = "{device}/one" }\nvalues.b = { name = "a" }'
    reader = stream(f'dialect = "scalar"\n{crossed}').reader(1)

    assert read(reader, ("x/one", b"1")) == [("x", at(None, a=1.0))]


def test_a_lone_missing_scalar_is_refused() -> None:
    reader = stream('dialect = "scalar"\ntopics = ["{device}/{value}"]\nvalues.t = {}').reader(10)

    assert read(reader, ("x/t", b"21.5")) == [("x", at(None, t=21.5))]
    assert refusal(reader, "x/t", b"unavailable").reason is Reason.MISSING_VALUE
    assert refusal(reader, "x/t", b"\xff").reason is Reason.MALFORMED_PAYLOAD
    assert refusal(reader, "x/t", b'{"other": 1}').reason is Reason.MISSING_VALUE


# SenML


@pytest.mark.parametrize("name", ["senml", "senml-cbor"])
def test_senml_has_base_fields_and_names_of_two_parts(name: str) -> None:
    device = "urn--3adev--3amac--3a0b92"

    assert told_of(name) == [
        (device, at(AT_MS - 794_500_000, temp=21.5, door=1.0)),
        (device, at(AT_MS - 794_499_000, temp=21.75)),
        (device, at(AT_MS - 794_498_000, door=0.0)),
    ]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b'[{"n": "temp", "v": 1, "new_": 2}]', Reason.MALFORMED_PAYLOAD),
        (b'[{"bver": 11, "n": "temp", "v": 1}]', Reason.MALFORMED_PAYLOAD),
        (b'[{"bn": "x/", "n": "temp", "u": "K", "v": 1}]', Reason.UNIT_MISMATCH),
        (b'[{"n": "temp", "v": 1}]', Reason.NO_DEVICE),
        (b'[{"n": "temp", "v": "1"}]', Reason.MALFORMED_PAYLOAD),
        (b'{"n": "temp"}', Reason.WRONG_SHAPE),
        (b'[{"n": 3}]', Reason.MALFORMED_PAYLOAD),
        (b'[{"bn": "x/", "n": "temp"}]', Reason.MISSING_VALUE),
    ],
)
def test_senml_that_cannot_be_read_is_refused(payload: bytes, reason: Reason) -> None:
    assert refusal(SAMPLES["senml"].stream.reader(1), "n/1", payload).reason is reason


def test_senml_base_values_are_added_to_numbers_of_their_kind_only() -> None:
    pack = (
        b'[{"bn": "x/", "bv": 20, "n": "temp", "v": 1.5}, {"n": "door", "vb": false},'
        b' {"bn": "y/", "bs": 100, "n": "temp", "s": 7}, {"n": "door", "v": -19},'
        b' {"bn": "z/", "n": "temp"}]'
    )

    assert read(SAMPLES["senml"].stream.reader(1), ("n/1", pack)) == [
        ("x", at(None, temp=21.5, door=0.0)),
        ("y", at(None, temp=107.0, door=1.0)),
        ("z", at(None, temp=20.0)),
    ]


def test_senml_times_that_count_from_now_count_from_arrival() -> None:
    pack = (
        b'[{"bn": "x/", "n": "temp", "v": 1, "t": -2}, {"n": "temp", "v": 2, "t": -1.5},'
        b' {"n": "temp", "v": 3}, {"n": "door", "vb": true, "t": -2}]'
    )

    assert read(SAMPLES["senml"].stream.reader(1), ("n/1", pack)) == [
        ("x", at(ARRIVAL_MS - 2000, temp=1.0, door=1.0)),
        ("x", at(ARRIVAL_MS - 1500, temp=2.0)),
        ("x", at(None, temp=3.0)),
    ]


def test_senml_times_that_count_from_now_are_unknown_to_a_machine_without_a_clock() -> None:
    reader = SAMPLES["senml"].stream.reader(1)

    [(_, reading)] = reader.read("n/1", b'[{"bn": "x/", "n": "temp", "v": 1, "t": -5}]', 60_000.0)

    assert reading.time_ms is None
    assert is_undated(reading)


# Sparkplug


def test_sparkplug_tells_names_at_birth_and_numbers_afterwards() -> None:
    birth, data = SAMPLES["sparkplug"].messages[:2]

    found = read(SAMPLES["sparkplug"].stream.reader(10), birth, data)

    base = 1_730_000_000_000.0
    assert found == [
        ("press", at(base, temp=20.5, level=-5.0, wave=[1.0, 2.0])),
        ("press", at(base + 1000, temp=21.5, level=-5.0, wave=[1.0, 2.0])),
        ("press", at(base + 2000, temp=21.5, level=3.0, wave=[1.0, 2.0])),
    ]


def test_data_before_a_birth_and_after_a_death_cannot_be_read() -> None:
    reader = SAMPLES["sparkplug"].stream.reader(10)
    birth, data, node_birth, node_data, death, node_death = SAMPLES["sparkplug"].messages

    assert refusal(reader, *data).reason is Reason.NO_BIRTH
    read(reader, birth, data, death)
    assert refusal(reader, *data).reason is Reason.NO_BIRTH
    read(reader, birth, node_birth, node_data)
    assert refusal(reader, *data).reason is Reason.NO_BIRTH  # the node was born again: its devices follow
    read(reader, birth, data, node_death)
    assert refusal(reader, *data).reason is Reason.NO_BIRTH
    assert (reader.counts["births"], reader.counts["deaths"]) == (4, 2)


def test_a_death_of_the_connection_before_the_last_birth_is_late_and_kills_nobody() -> None:
    reader = SAMPLES["sparkplug"].stream.reader(10)
    birth, data, _, _, _, (_, no_session) = SAMPLES["sparkplug"].messages
    seventh = sparkplug({"name": "bdSeq", "datatype": 8, "long_value": 7})
    sixth = sparkplug({"name": "bdSeq", "datatype": 8, "long_value": 6})
    read(reader, ("spBv1.0/P/NBIRTH/edge", seventh), birth)

    for death in (sixth, no_session):
        assert read(reader, ("spBv1.0/P/NDEATH/edge", death)) == []
    assert len(read(reader, data)) == 2
    assert (reader.counts["deaths_late"], reader.counts["deaths"]) == (2, 0)

    read(reader, ("spBv1.0/P/NDEATH/edge", seventh))
    assert refusal(reader, *data).reason is Reason.NO_BIRTH


def test_what_was_held_of_a_device_dies_with_it() -> None:
    reader = SAMPLES["sparkplug"].stream.reader(10)
    birth, data, _, _, death, _ = SAMPLES["sparkplug"].messages
    again = sparkplug(
        {"name": "Level", "alias": 8, "datatype": 3, "int_value": 1}, timestamp=1_730_000_005_000
    )

    read(reader, birth, data, death)

    assert read(reader, (birth[0], again)) == [("press", at(1_730_000_005_000.0, level=1.0))]


def test_only_so_many_births_are_remembered() -> None:
    reader = SAMPLES["sparkplug"].stream.reader(2)
    (topic, birth), (_, data) = SAMPLES["sparkplug"].messages[:2]
    topics = [topic.replace("press", f"press-{number}") for number in range(3)]
    read(reader, *[(each, birth) for each in topics])

    error = refusal(reader, topics[0].replace("DBIRTH", "DDATA"), data)

    assert error.reason is Reason.NO_BIRTH
    assert reader.counts["births_forgotten"] == 1


def test_a_null_metric_is_missing_and_commands_are_none_of_ours() -> None:
    reader = stream('preset = "sparkplug"\nvalues.x = { name = "X" }\nvalues.y = { name = "Y" }').reader(1)
    payload = sparkplug(
        {"name": "X", "is_null": True}, {"name": "Y", "boolean_value": True}, timestamp=1_730_000_000_000
    )

    assert read(reader, ("spBv1.0/P/NDATA/n", payload)) == [("n", at(1_730_000_000_000.0, x=None, y=1.0))]
    assert read(reader, ("spBv1.0/P/NCMD/n", payload)) == []


# Influx and OPC UA


def test_lines_are_readings_of_the_device_that_their_tags_name() -> None:
    assert told_of("influx") == [
        ("e-press--207", at(AT_MS, temp=71.5, door=0.0)),
        ("e-press--207", at(AT_MS + 1000, temp=71.25, door=1.0)),
        ("edge-a", at(None, temp=3.0)),
    ]


@pytest.mark.parametrize(
    "payload", [b"machine temp=", b'machine temp="x', b"machine temp=1\x00", b"\xff", b"x"]
)
def test_lines_that_are_none_are_refused(payload: bytes) -> None:
    reader = SAMPLES["influx"].stream.reader(1)

    assert refusal(reader, "telegraf/e", payload).reason is Reason.MALFORMED_PAYLOAD


def test_opc_ua_gives_each_value_its_own_time_and_a_bad_one_is_missing() -> None:
    assert told_of("opcua") == [
        ("press", at(AT_MS + 931.309, temp=71.25)),
        ("press", at(AT_MS + 1342.413, temp=71.25, door=None)),
        ("press", at(None, door=1.0, temp=71.25)),
    ]


@pytest.mark.parametrize(
    "payload",
    [
        b'{"Temperature": 3.5}',
        b'{"Payload": {"Temperature": {"Value": 3.5}}}',
        b'[{"Messages": {"Payload": {"Temperature": {"Value": {"Type": 11, "Body": 3.5}}}}}]',
    ],
)
def test_opc_ua_with_fewer_headers(payload: bytes) -> None:
    reader = SAMPLES["opcua"].stream.reader(1)

    assert read(reader, ("opcua/press", payload)) == [("press", at(None, temp=3.5))]


@pytest.mark.parametrize("kind", ["ua-keepalive", "ua-metadata"])
def test_opc_ua_messages_without_data_are_ignored(kind: str) -> None:
    reader = SAMPLES["opcua"].stream.reader(1)

    assert read(reader, ("opcua/press", f'{{"MessageType": "{kind}"}}'.encode())) == []
    assert reader.counts["messages_ignored"] == 1


# Clocks


@pytest.mark.parametrize(
    ("dialect", "payload"),
    [
        ("senml", b'[{"n": "x", "v": 1, "t": 1730794500}]'),
        ("senml-cbor", cbor2.dumps([{0: "x", 2: 1, 6: 1730794500}])),
        ("influx", b"m x=1 1730794500000000000"),
        ("opcua", b'{"x": {"Value": 1, "SourceTimestamp": "2024-11-05T08:15:00Z"}}'),
    ],
)
@pytest.mark.parametrize("more", ["", 'time.zone = "UTC"'])
def test_times_are_written_as_the_dialect_has_it_if_nothing_is_said(
    dialect: str, payload: bytes, more: str
) -> None:
    reader = stream(
        f'dialect = "{dialect}"\ntopics = ["d/{{id}}"]\ndevice = "{{id}}"\nvalues.x = {{}}\n{more}'
    ).reader(1)

    assert read(reader, ("d/a", payload)) == [("a", at(AT_MS, x=1.0))]


def test_a_device_whose_clock_was_never_set_is_dated_by_arrival_and_says_so() -> None:
    reader = stream('dialect = "influx"\ntopics = ["{device}"]\nvalues.t = {}\ntime.unit = "s"').reader(1)

    [(_, reading)] = read(reader, ("x", b"m t=1 12"))

    assert reading.time_ms is None
    assert is_undated(reading)
