"""JSON by pointers: the examples of RFC 6901, and everything a payload can get wrong."""

from __future__ import annotations

import json

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.json_bytes import json_bytes, mutated

from atoll_contract.errors import MalformedMessageError, Reason
from atoll_contract.messages import MAX_PAYLOAD_BYTES, Reading
from atoll_ingest.pointer import PointerDialect, parse_pointer, resolve
from atoll_ingest.time import TimeForm, TimeUnit, is_undated

# RFC 6901, section 5, as it stands there.
RFC_DOCUMENT = {
    "foo": ["bar", "baz"],
    "": 0,
    "a/b": 1,
    "c%d": 2,
    "e^f": 3,
    "g|h": 4,
    "i\\j": 5,
    'k"l': 6,
    " ": 7,
    "m~n": 8,
}


@pytest.mark.parametrize(
    ("pointer", "found"),
    [
        ("", RFC_DOCUMENT),
        ("/foo", ["bar", "baz"]),
        ("/foo/0", "bar"),
        ("/", 0),
        ("/a~1b", 1),
        ("/c%d", 2),
        ("/e^f", 3),
        ("/g|h", 4),
        ("/i\\j", 5),
        ('/k"l', 6),
        ("/ ", 7),
        ("/m~0n", 8),
    ],
)
def test_the_examples_of_the_standard(pointer: str, found: object) -> None:
    assert resolve(RFC_DOCUMENT, parse_pointer(pointer)) == found


@pytest.mark.parametrize(
    "pointer",
    [
        "/nothing",
        "/foo/2",
        "/foo/-",
        "/foo/00",
        "/foo/01",
        "/foo/+0",
        "/foo/\N{ARABIC-INDIC DIGIT ZERO}",
        "/foo/0/0",
        "/a~1b/x",
        f"/foo/{'9' * 5000}",
    ],
)
def test_what_leads_nowhere_is_absent(pointer: str) -> None:
    assert resolve(RFC_DOCUMENT, parse_pointer(pointer)) is None


@pytest.mark.parametrize("pointer", ["foo", "/~", "/~2", "/a~", "/~~01", "/~~10", "/~~", " /a"])
def test_what_is_no_pointer_is_refused(pointer: str) -> None:
    with pytest.raises(ValueError, match="pointer"):
        parse_pointer(pointer)


@given(st.lists(st.text(), max_size=5))
def test_any_path_can_be_spelt(tokens: list[str]) -> None:
    spelt = "".join("/" + token.replace("~", "~0").replace("/", "~1") for token in tokens)

    assert parse_pointer(spelt) == tuple(tokens)


def dialect(**pointers: str) -> PointerDialect:
    return PointerDialect({name: parse_pointer(pointer) for name, pointer in pointers.items()})


def refusal(reader: PointerDialect, payload: bytes) -> MalformedMessageError:
    with pytest.raises(MalformedMessageError) as caught:
        reader.decode(payload)
    return caught.value


# Values


def test_values_are_found_wherever_they_stand() -> None:
    reader = dialect(temperature="/ENERGY/Power/1", shape="/grid", missing="/none", null="/null")

    [reading] = reader.decode(
        b'{"ENERGY": {"Power": [1, 2]}, "grid": [[1, 2.5], [3, 4]], "null": null, "other": "x"}'
    )

    assert reading == Reading(
        values={"temperature": 2.0, "shape": [[1.0, 2.5], [3.0, 4.0]], "missing": None, "null": None}
    )
    assert isinstance(reading.values, dict)
    assert all(isinstance(number, float) for row in reading.values["shape"] for number in row)  # type: ignore[union-attr]


def test_a_payload_that_is_one_number_has_the_empty_pointer() -> None:
    assert dialect(value="").decode(b" 21.5\n") == [Reading(values={"value": 21.5})]


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b'{"a": "21.5 C"}', Reason.MALFORMED_PAYLOAD),
        (b'{"a": "nan"}', Reason.MISSING_VALUE),
        (b'{"a": "1e999"}', Reason.NOT_FINITE),
        (b'{"a": {}}', Reason.MALFORMED_PAYLOAD),
        (b'{"a": ["1"]}', Reason.MALFORMED_PAYLOAD),
        (b'{"a": [true]}', Reason.MALFORMED_PAYLOAD),
        (b'{"a": [null]}', Reason.MALFORMED_PAYLOAD),
        (b'{"a": [{}]}', Reason.MALFORMED_PAYLOAD),
        (b'{"a": [[[[[1]]]]]}', Reason.MALFORMED_PAYLOAD),
        (b'{"a": 1' + b"0" * 400 + b"}", Reason.NOT_FINITE),
        (b'{"a": [1' + b"0" * 400 + b"]}", Reason.MALFORMED_PAYLOAD),
        (b'{"a": {"b": 1' + b"0" * 4000 + b"}}", Reason.MALFORMED_PAYLOAD),
        (b'{"a": 1e400}', Reason.MALFORMED_PAYLOAD),
        (b'{"a": NaN}', Reason.MALFORMED_PAYLOAD),
        (b'{"b": 1}', Reason.MISSING_VALUE),
        (b'{"a": null}', Reason.MISSING_VALUE),
        (b"[1]", Reason.MISSING_VALUE),
        (b"1", Reason.MISSING_VALUE),
        (b"", Reason.MALFORMED_PAYLOAD),
        (b"{", Reason.MALFORMED_PAYLOAD),
        (b'{"a": 1}{"a": 1}', Reason.MALFORMED_PAYLOAD),
        (b'{"\xff": 1}', Reason.MALFORMED_PAYLOAD),
        (b"[" * 100_000, Reason.MALFORMED_PAYLOAD),
        (b'{"a": 1' + b" " * MAX_PAYLOAD_BYTES + b"}", Reason.TOO_LARGE),
    ],
)
def test_what_is_no_reading_is_refused_by_reason(payload: bytes, reason: Reason) -> None:
    error = refusal(dialect(a="/a"), payload)

    assert error.reason is reason
    assert 0 < len(error.detail) <= 500


def test_the_detail_names_the_value_and_not_the_payload() -> None:
    assert refusal(dialect(temp="/t"), b'{"t": "' + b"x" * 1000 + b'"}').detail == (
        "temp is no number and no known word: '" + "x" * 40 + "'"
    )


# Time


def timed(unit: TimeUnit) -> PointerDialect:
    return PointerDialect({"a": ("a",)}, ("meta", "t"), TimeForm(unit))


@pytest.mark.parametrize(
    ("unit", "written", "time_ms"),
    [
        (TimeUnit.SECONDS, "1730794500.25", 1730794500250.0),
        (TimeUnit.SECONDS, "1730794500", 1730794500000.0),
        (TimeUnit.MILLISECONDS, "1730794500000.5", 1730794500000.5),
        (TimeUnit.MICROSECONDS, "1730794500000500", 1730794500000.5),
        (TimeUnit.NANOSECONDS, "1730794500000500000", 1730794500000.5),
        (TimeUnit.ISO8601, '"2024-11-05T08:15:00.0005Z"', 1730794500000.5),
        (TimeUnit.ISO8601, '"2024-11-05T09:15:00.0005+01:00"', 1730794500000.5),
        (TimeUnit.ISO8601, '"20241105T081500"', 1730794500000.0),
        (TimeUnit.ISO8601, '"2000-01-02"', 946771200000.0),
        (TimeUnit.SECONDS, '"1730794500"', 1730794500000.0),
    ],
)
def test_the_event_time_is_read_in_its_unit(unit: TimeUnit, written: str, time_ms: float) -> None:
    [reading] = timed(unit).decode(f'{{"a": 1, "meta": {{"t": {written}}}}}'.encode())

    assert reading.time_ms == time_ms


@pytest.mark.parametrize("unit", list(TimeUnit))
@pytest.mark.parametrize(
    "written",
    [
        "true", "[]", "{}", '"soon"', '""', "-1e15", "1e30", "1" + "0" * 400,
        '{"x": 1' + "0" * 4000 + "}",
        '"0001-01-01T00:00:00+23:59"', '"9999-12-31T23:59:59.999999-23:59"', '"1969-12-30T23:59:59.999Z"',
    ],
)  # fmt: skip
def test_what_is_no_time_is_refused_as_bad_time(unit: TimeUnit, written: str) -> None:
    error = refusal(timed(unit), f'{{"a": 1, "meta": {{"t": {written}}}}}'.encode())

    assert error.reason is Reason.BAD_TIME


def test_a_number_is_no_iso_time_though_it_looks_like_a_date() -> None:
    error = refusal(timed(TimeUnit.ISO8601), b'{"a": 1, "meta": {"t": 20241105}}')

    assert error.reason is Reason.BAD_TIME


@pytest.mark.parametrize("payload", [b'{"a": 1}', b'{"a": 1, "meta": {"t": null}}'])
def test_a_time_that_is_not_there_is_that_of_arrival(payload: bytes) -> None:
    [reading] = timed(TimeUnit.SECONDS).decode(payload)

    assert reading.time_ms is None
    assert not is_undated(reading)


@pytest.mark.parametrize(
    ("unit", "written"),
    [
        (TimeUnit.SECONDS, "0"),
        (TimeUnit.AUTO, "12"),
        (TimeUnit.SECONDS, "-3588"),
        (TimeUnit.ISO8601, '"1970-01-01T00:00:12"'),
        (TimeUnit.ISO8601, '"2000-01-01T23:59:59"'),
    ],
)
def test_a_clock_that_was_never_set_gives_the_time_of_arrival_and_says_so(
    unit: TimeUnit, written: str
) -> None:
    [reading] = timed(unit).decode(f'{{"a": 1, "meta": {{"t": {written}}}}}'.encode())

    assert reading.time_ms is None
    assert is_undated(reading)


# Anything


readers = st.sampled_from([dialect(a="/a"), dialect(a="/a/0", b=""), *(timed(unit) for unit in TimeUnit)])


@given(readers, st.one_of(st.binary(max_size=300), mutated(json_bytes(keys=["a", "b", "meta", "t"]))))
@example(dialect(a="/a"), b'{"a": 1' + b"0" * 4299 + b"}")
@example(dialect(a="/a"), b'{"a": 1' + b"0" * 4400 + b"}")
def test_any_bytes_are_read_or_refused(reader: PointerDialect, payload: bytes) -> None:
    try:
        [reading] = reader.decode(payload)
    except MalformedMessageError:
        return
    assert isinstance(reading.values, dict)
    # What was read is finite, and can be sent on.
    assert "NaN" not in json.dumps(reading.values)
    assert "Infinity" not in json.dumps(reading.values)
