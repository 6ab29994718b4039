"""A stream of each dialect, and payloads of the kind that it reads, to be read as they are or spoilt."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass

import cbor2

from atoll_ingest.sparkplug_schema import payload_class
from atoll_ingest.stream import Stream
from atoll_link.stream_settings import StreamTable


@dataclass(frozen=True)
class Sample:
    """A stream, and messages for it: topics and payloads, in order."""

    settings: str
    messages: tuple[tuple[str, bytes], ...]

    @property
    def stream(self) -> Stream:
        """The stream."""
        return stream(self.settings)


def stream(settings: str) -> Stream:
    """Return the stream that the keys of ``[[stream]]`` describe."""
    return StreamTable.model_validate({"name": "s", **tomllib.loads(settings)}).build("site")


def sparkplug(*metrics: dict, **fields: object) -> bytes:
    """Return the bytes of a Sparkplug payload."""
    payload = payload_class()(**fields)
    for metric in metrics:
        unit = metric.pop("unit", None)
        added = payload.metrics.add(**metric)
        if unit is not None:
            added.properties.keys.append("engUnit")
            added.properties.values.add(type=12, string_value=unit)
    return payload.SerializeToString()


_BIRTH = sparkplug(
    {"name": "Line/Temp", "alias": 7, "timestamp": 1_730_000_000_000, "datatype": 10, "double_value": 20.5,
     "unit": "°C"},
    {"name": "Level", "alias": 8, "datatype": 3, "int_value": 2**32 - 5},
    {"name": "Wave", "alias": 9, "datatype": 30, "bytes_value": bytes.fromhex("0000803f00000040")},
    {"name": "Unwanted", "alias": 10, "datatype": 12, "string_value": "x"},
    timestamp=1_730_000_000_000, seq=0,
)  # fmt: skip
_DATA = sparkplug(
    {"alias": 7, "timestamp": 1_730_000_001_000, "double_value": 21.5},
    {"alias": 8, "int_value": 3},
    {"alias": 10, "string_value": "y"},
    timestamp=1_730_000_002_000, seq=1,
)  # fmt: skip
_SENML = [
    {"bn": "urn:dev:mac:0b92/", "bt": 1_730_000_000.0, "bu": "Cel", "n": "temp", "v": 21.5},
    {"n": "temp", "t": 1.0, "v": 21.75},
    {"n": "door", "u": "/", "vb": True},
    {"n": "door", "t": 2, "vs": "closed"},
]
_SENML_KEYS = {"bn": -2, "bt": -3, "bu": -4, "n": 0, "u": 1, "v": 2, "vs": 3, "vb": 4, "t": 6}

SAMPLES = {
    "atoll": Sample(
        'dialect = "atoll"\nvalues.temp = {}\nvalues.door = {}',
        (
            (
                "atoll/v1/site/pump-7/reading/s",
                b'{"time_ms": 1730000000000.5, "values": {"temp": 21.5, "door": null}, "seq": 3}',
            ),
            (
                "atoll/v1/site/pump-7/reading/s",
                b'[{"values": 3}, {"values": {"temp": [1, 2]}, "step_ms": 5}]',
            ),
        ),
    ),
    "json": Sample(
        """
        dialect = "json"
        topics = ["a/{device}"]
        values.temp = { pointer = "/t/0", unit = "°C", suffix = "°C" }
        values.door = { words = { ajar = 0.5 } }
        time = { pointer = "/ts", unit = "auto", zone = "Europe/Vienna", formats = ["%d.%m.%Y %H:%M"] }
        """,
        (
            ("a/pump-7", b'{"t": ["21.5 \xc2\xb0C"], "door": "ajar", "ts": "2024-11-05 09:15:00,123"}'),
            ("a/pump-7", b'{"t": [21.5, 3], "door": true, "ts": 1730794500123456}'),
            ("a/pump-8", b'{"t": [-1e3], "ts": "05.11.2024 09:15"}'),
        ),
    ),
    "json-each": Sample(
        """
        dialect = "json"
        topics = ["gw/{gateway}"]
        each = "/{device}/*"
        device = "{gateway}-{device}"
        first_register = "/first"
        values.temp = { jmespath = "values.temps | max(@)" }
        values.word.pointer = "/words"
        values.word.modbus = { address = 3001, type = "float32", word_order = "little" }
        values.unit = { pointer = "/values/n", unit = "K", unit_pointer = "/unit" }
        time = { jmespath = "ts || time", unit = "s" }
        """,
        (
            (
                "gw/1",
                (
                    b'{"a b": [{"ts": 1730794501, "values": {"temps": [20, 21.5], "n": "4"}, "first": "3000",'
                    b' "words": "[1, 0, 16384]", "unit": "K"}, {"time": 1730794500, "first": 3000,'
                    b' "words": [1, 2, 3], "values": {"temps": [1]}}], "c": []}'
                ),
            ),
        ),
    ),
    "json-columns": Sample(
        """
        dialect = "json"
        topics = ["col/{device}"]
        columns = true
        values.temp = {}
        values.door = {}
        time = { pointer = "/t0", unit = "auto", step_pointer = "/dt" }
        hold_s = 10
        """,
        (
            (
                "col/x",
                b'{"t0": "2024-11-05T08:15Z", "dt": 0.5, "temp": [1, 2.5, null], "door": ["on", 0, false]}',
            ),
        ),
    ),
    "json-rows": Sample(
        """
        dialect = "json"
        topics = ["rows/{device}"]
        each = "/data/*"
        header = "/columns"
        values.temp = {}
        time = { pointer = "/time", unit = "ms" }
        """,
        (("rows/x", b'{"columns": ["time", "temp"], "data": [[1730794501000, 2], [1730794500000, "1.5"]]}'),),
    ),
    "cbor": Sample(
        """
        dialect = "cbor"
        topics = ["c/{device}"]
        values.temp = { pointer = "/1/t" }
        values.door = { pointer = "/door", scale = 2, offset = 1 }
        time = { pointer = "/0", unit = "auto" }
        """,
        (
            ("c/x", cbor2.dumps({0: 1_730_794_500, 1: {"t": 21.5}, "door": True})),
            ("c/x", bytes.fromhex("a2 00 c1 fb 41d9ca79b1200000 01 a1 61 74 c4 82 20 18d7")),
        ),
    ),
    "scalar": Sample(
        """
        dialect = "scalar"
        topics = ["s/{device}/{value}/state"]
        values.temp = { name = "temperature", suffix = "°C" }
        values.door = {}
        time = { topic = "s/{device}/last_updated", unit = "iso8601" }
        join_s = 5
        """,
        (
            ("s/x/temperature/state", b" 21.5 \xc2\xb0C\n"),
            ("s/x/door/state", b'"open"'),
            ("s/x/last_updated", b"2024-11-05T08:15:00.920969+00:00"),
            ("s/y/temperature/state", b'{"value": "21.6", "unit": "C"}'),
            ("s/y/door/state", b"[null]"),
        ),
    ),
    "senml": Sample(
        'dialect = "senml"\ntopics = ["n/{gateway}"]\ndevice = "{base}"\nvalues.temp = { unit = "°C" }\n'
        'values.door = {}\ntime.unit = "s"',
        (("n/1", str(_SENML).replace("'", '"').replace("True", "true").encode()),),
    ),
    "senml-cbor": Sample(
        'dialect = "senml-cbor"\ntopics = ["n/{gateway}"]\ndevice = "{base}"\nvalues.temp = { unit = "°C" }\n'
        'values.door = {}\ntime.unit = "s"',
        (
            (
                "n/1",
                cbor2.dumps([{_SENML_KEYS[key]: value for key, value in entry.items()} for entry in _SENML]),
            ),
        ),
    ),
    "sparkplug": Sample(
        """
        dialect = "sparkplug"
        values.temp = { name = "Line/Temp", unit = "°C" }
        values.level = { name = "Level" }
        values.wave = { name = "Wave" }
        hold_s = 60
        """,
        (
            ("spBv1.0/P/DBIRTH/edge/press", _BIRTH),
            ("spBv1.0/P/DDATA/edge/press", _DATA),
            ("spBv1.0/P/NBIRTH/edge", _BIRTH),
            ("spBv1.0/P/NDATA/edge", _DATA),
            ("spBv1.0/P/DDEATH/edge/press", b""),
            ("spBv1.0/P/NDEATH/edge", b""),
        ),
    ),
    "influx": Sample(
        """
        dialect = "influx"
        topics = ["telegraf/{host}"]
        device = "{host}-{name}"
        measurement = "machine"
        values.temp = {}
        values.door = { name = "running" }
        time.unit = "ns"
        """,
        (
            (
                "telegraf/edge",
                (
                    b'machine,host=e,name=press\\ 7 temp=71.25,running=true,n=1i,s="ok, \\"w\\"" '
                    b"1730794501000000000\n"
                    b"machine,host=e,name=press\\ 7 temp=71.5,running=F 1730794500000000000\n"
                    b'env,room=h t=1\n# note\nmachine,name=a temp=3,text="two\nlines"\n'
                ),
            ),
        ),
    ),
    "opcua": Sample(
        """
        dialect = "opcua"
        topics = ["opcua/{device}"]
        values.temp = { name = "Temperature" }
        values.door = { name = "Running" }
        time.unit = "iso8601"
        hold_s = 60
        """,
        (
            (
                "opcua/press",
                (
                    b'{"MessageType": "ua-data", "Messages": [{"DataSetWriterName": "w", "Timestamp":'
                    b' "2024-11-05T08:15:01.3424136Z", "Payload": {"Temperature": {"Value": 71.25,'
                    b' "SourceTimestamp": "2024-11-05T08:15:00.9313098Z"}, "Running": {"StatusCode": {"Code":'
                    b' 2150694912}}}}, {"Payload": {"Running": true}}]}'
                ),
            ),
        ),
    ),
}
