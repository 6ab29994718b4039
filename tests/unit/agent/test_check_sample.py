"""How a captured payload would be read, step by step."""

from __future__ import annotations

import io
import json

import pytest
from support.bundles import make_bundle, picture_bundle
from support.dialects import stream
from support.signals import a_manifest

from atoll_agent.cli import main
from atoll_agent.commands.sample import Answer, Candidate, read_sample, samples_of
from atoll_contract.manifest import Feature, FeatureKind, ValueSpec
from atoll_contract.messages import Reading
from atoll_infer.runtime import choose_runtime
from atoll_ingest.dialect import AtollDialect
from atoll_ingest.stream import Stream, TopicPattern

SETTINGS = """
[agent]
id = "pi"
site = "plant-a"
state_dir = "state"
[[stream]]
name = "press"
topics = ["plant/{device}/telemetry"]
dialect = "json"
values = { x = { unit = "mm", pointer = "/d/x" }, y = { pointer = "/d/y" } }
time = { pointer = "/t", unit = "s" }
[[stream]]
name = "room"
values = { x = {} }
[[model]]
name = "wear"
stream = "press"
"""


@pytest.fixture
def check(tmp_path, capsys):
    (tmp_path / "agent.toml").write_text(SETTINGS)

    def run(payload: bytes, topic: str, *options: str, bundle=None) -> tuple[int, str]:
        (tmp_path / "payload").write_bytes(payload)
        if bundle is not None:
            (tmp_path / "wear.atoll").write_bytes(bundle.pack())
            options = (*options, "--bundle", str(tmp_path / "wear.atoll"))
        arguments = ["--settings", str(tmp_path / "agent.toml"), "--sample", str(tmp_path / "payload")]
        status = main(["check", *arguments, "--topic", topic, *options])
        printed = capsys.readouterr()
        return status, printed.out + printed.err

    return run


def test_every_step_down_to_the_prediction_is_told(check):
    bundle = make_bundle(file="linear_int8", release=3, unit="mm")

    status, told = check(b'{"d":{"x":3.5},"t":1730794500}', "plant/a 1/telemetry", "--json", bundle=bundle)

    assert status == 0
    found = json.loads(told)
    [read] = found["read"]
    assert (read["stream"], read["device"], read["dialect"]) == ("press", "a--201", "json")
    [reading] = read["readings"]
    assert reading["time"] == "2024-11-05T08:15:00+00:00"
    assert reading["values"] == {"x": {"value": 3.5, "unit": "mm"}, "y": {"value": None, "unit": None}}
    [answer] = read["answers"]
    assert answer["window"] == {"kind": "sliding", "needed": 1, "held": 1, "missing": 0}
    assert answer["features"] == {"x": [3.5]}
    assert answer["normalised"] == [[3.5]]
    spec = bundle.manifest.inputs[0]
    assert answer["tensor"]["numbers"] == [round(3.5 / spec.scale) + spec.zero_point]
    assert answer["prediction"]["value"] == pytest.approx(8, abs=0.2)
    assert found["tried"] == [
        {
            "stream": "room",
            "topic": "atoll/v1/plant-a/{device}/reading/room",
            "why": "level 1 is 'plant', not 'atoll'",
        }
    ]


def test_a_window_says_how_many_readings_it_lacks(check):
    bundle = make_bundle(file="mean12_float", length=12, unit="mm")

    status, told = check(b'{"d":{"x":3.5},"t":1}', "plant/a/telemetry", bundle=bundle)

    assert status == 0
    assert "window  sliding, 1 of 12 readings are here" in told
    assert "assumed" in told
    assert "tensor  float32 [1, 12]: [3.5, 3.5" in told
    assert "says    3.5" in told


@pytest.mark.parametrize(
    ("topic", "why"),
    [
        ("plant/a/state", "press: plant/{device}/telemetry: level 3 is 'state', not 'telemetry'"),
        ("plant/a", "press: plant/{device}/telemetry: 2 levels, not 3"),
        ("plant//telemetry", "press: plant/{device}/telemetry: level 2 is empty, and names the device"),
    ],
)
def test_when_no_filter_matches_each_says_why(check, topic, why):
    status, told = check(b"{}", topic)

    assert status == 1
    assert "stream    none: no filter matches" in told
    assert why in told


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"{", "malformed_payload"),
        (b'{"d":{"x":"hot"},"t":1}', "malformed_payload"),
        (b'{"d":{},"t":1}', "missing_value"),
        (b'{"d":{"x":1},"t":"soon"}', "bad_time"),
        (b'{"d":{"y":1},"t":1}', "missing_value"),
    ],
)
def test_what_cannot_be_read_says_why_and_ends_with_status_1(check, payload, reason):
    status, told = check(payload, "plant/a/telemetry", bundle=make_bundle(unit="mm"))

    assert status == 1
    assert f"[{reason}]" in told


def test_a_release_that_does_not_fit_the_stream_is_refused(check):
    status, told = check(b'{"d":{"x":1},"t":1}', "plant/a/telemetry", bundle=make_bundle(unit="V"))

    assert status == 1
    assert "[unit_mismatch]" in told


def test_without_a_release_the_readings_are_shown(check):
    status, told = check(b'{"d":{"x":1},"t":1}', "plant/a/telemetry")

    assert status == 0
    assert "value   x = 1 mm" in told
    assert "value   y = missing" in told
    assert "model     wear: no release stored" in told


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--topic", "t"], "--sample and --topic go together"),
        (["--bundle", "b"], "--bundle belongs to"),
        (["--topic", "t", "--sample", "nowhere"], "nowhere: cannot be read"),
    ],
)
def test_options_that_do_not_go_together_are_told(tmp_path, capsys, options, told):
    (tmp_path / "agent.toml").write_text(SETTINGS)

    assert main(["check", "--settings", str(tmp_path / "agent.toml"), *options]) == 78
    assert told in capsys.readouterr().err


def test_a_bundle_of_a_model_that_the_settings_do_not_name_is_told(check):
    status, told = check(b"{}", "plant/a/telemetry", bundle=make_bundle("heat"))

    assert status == 78
    assert "the settings name no model 'heat'" in told


def test_of_a_batch_the_latest_readings_fill_the_window():
    pattern = TopicPattern("t/{device}")
    stream = Stream("press", (pattern,), AtollDialect(), {"x": None})
    bundle = make_bundle(file="mean12_float", length=12)
    batch = json.dumps(
        [{"time_ms": number, "values": {"x": number, "z": 1}} for number in range(20)]
    ).encode()

    sample = read_sample(
        "t/a", batch, [stream], [Candidate("wear", "press", bundle, "here")], choose_runtime().runtime
    )

    [answer] = sample.read[0].answers
    assert not answer.is_assumed
    assert [row[0] for row in answer.normalised] == list(range(8, 20))
    assert sample.read[0].readings[0]["ignored"] == ["z"]


def sample(settings, topic, payload):
    return read_sample(topic, payload, [stream(settings)], [], choose_runtime().runtime)


def test_a_payload_with_several_devices_is_told_for_each():
    found = sample(
        'preset = "thingsboard-gateway"\nvalues.x = {}',
        "v1/gateway/telemetry",
        b'{"a": [{"ts": 1730794500000, "values": {"x": 1}}],'
        b' "b": [{"ts": 1730794500000, "values": {"x": "on"}}]}',
    )

    assert [(read.device, read.dialect, read.refused) for read in found.read] == [
        ("a", "json", None),
        ("b", "json", None),
    ]


def test_a_part_of_a_reading_is_told_as_it_came_and_what_carries_no_reading_says_so():
    esphome = 'preset = "esphome"\nvalues.co2 = {}\nvalues.pm25 = {}'

    [part] = sample(esphome, "office/sensor/co2/state", b"812").read
    [other] = sample(esphome, "office/sensor/wifi/state", b"-61").read

    assert part.readings[0]["values"]["co2"]["value"] == 812.0
    assert other.refused is not None
    assert other.refused.reason == "missing_value"


def test_ignored_topics_and_longer_names_are_explained():
    lamps = 'preset = "zigbee2mqtt"\nvalues.x = {}'

    assert sample(lamps, "zigbee2mqtt/bridge/info", b"{}").tried[0].why == "the stream ignores these topics"
    assert "level 1 is 'zigbee'" in sample(lamps, "zigbee/lamp", b"{}").tried[0].why
    assert "nothing from level 2 on" in sample(lamps, "zigbee2mqtt/", b"{}").tried[0].why


GATE = """
[agent]
id = "pi"
site = "plant-a"
state_dir = "state"
[[stream]]
name = "gate"
topics = ["gate/{device}"]
dialect = "picture"
values = { x = {} }
[[model]]
name = "wear"
stream = "gate"
"""


def picture(brightness: int) -> bytes:
    image = pytest.importorskip("PIL.Image", reason="Pillow comes with the extra pictures")
    file = io.BytesIO()
    image.new("RGB", (2, 2), (brightness,) * 3).save(file, "PNG")
    return file.getvalue()


def test_a_picture_is_described_and_answered(check, tmp_path):
    payload, bundle = picture(7), picture_bundle()
    (tmp_path / "agent.toml").write_text(GATE)

    status, told = check(payload, "gate/a", bundle=bundle)
    _, as_json = check(payload, "gate/a", "--json", bundle=bundle)

    assert status == 0
    assert "dialect   picture" in told
    assert f"value   x = a PNG of {len(payload)} bytes, 2 x 2" in told
    assert "says    7" in told
    assert json.loads(as_json)["read"][0]["answers"][0]["features"] == {"x": [7.0] * 12}


def test_a_picture_that_cannot_be_decoded_is_refused(check, tmp_path):
    (tmp_path / "agent.toml").write_text(GATE)

    status, told = check(picture(7)[:20], "gate/a", bundle=picture_bundle())

    assert status == 1
    assert "which cannot be decoded" in told
    assert "[malformed_payload]" in told


def test_features_of_the_calendar_are_those_of_now_where_nothing_tells_the_time():
    hour = Feature(kind=FeatureKind.HOUR_SIN)
    manifest = a_manifest(["x", hour], values=[ValueSpec(name="x")], length=1, zone="UTC")
    dated, undated = Answer("wear"), Answer("wear")
    at_six_ms, now_ms = 6 * 3_600_000.0, 18 * 3_600_000.0

    found = [
        samples_of(answer, manifest, [Reading({"x": 1.0}, time_ms=time_ms)], now_ms, {"x": None})
        for answer, time_ms in ((dated, at_six_ms), (undated, None))
    ]

    assert [list(samples.times_ms) for samples in found] == [[at_six_ms], [now_ms]]
    assert (dated.is_dated_now, undated.is_dated_now) == (False, True)
