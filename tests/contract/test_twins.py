"""The two msgspec structs of the fast path and their pydantic twins accept and refuse the same bytes.

The twins are written from design section 4, not from the structs. What is the same for both:

* UTF-8 without a byte order mark, standard JSON (no NaN, no Infinity, no comments, no trailing
  comma, no lone surrogates), at most 262,144 bytes, at most 10,000 readings.
* Strict types: no numbers as text, no booleans as numbers, no 1.0 as an integer.
* Every number that counts is finite: 1e400 is refused. Arrays hold numbers only, four deep at most.
* Unknown keys are ignored, null is absence, and of a key that stands twice the last counts.

Three things are left open on purpose, and the comparison leaves them out or is one-sided:

* Of a key that stands twice, the struct refuses an earlier value of a wrong form; the twin never
  sees it. So where a key stands twice the struct may refuse more, never accept more.
* In the value of an unknown key, pydantic's parser gives up at a depth of 200 and at integers of
  more than 4,300 digits, msgspec at the depth of Python's own limit.
"""

from __future__ import annotations

import json
from typing import Annotated, Any

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from support.json_bytes import json_bytes, mutated, nearly

from atoll_contract.errors import MalformedMessageError, Reason
from atoll_contract.messages import (
    MAX_BATCH,
    MAX_PAYLOAD_BYTES,
    Prediction,
    Quality,
    Reading,
    WindowBounds,
    decode_prediction,
    decode_readings,
    encode_prediction,
    encode_reading,
)

LAST_MS = 253_402_300_799_999.0
READING_KEYS = ["values", "time_ms", "step_ms", "seq", "boot"]
PREDICTION_KEYS = [
    "time_ms", "value", "release", "latency_ms", "seq", "boot", "stream", "window", "output", "quality",
]  # fmt: skip


FULL_READING = {
    "values": {"a": 1.5, "b": [1, 2], "c": None}, "time_ms": 1.5, "step_ms": 2, "seq": 3, "boot": "x",
}  # fmt: skip
FULL_PREDICTION = {
    "time_ms": 1.5, "value": 2.5, "release": 3, "latency_ms": 0.5, "seq": 4, "boot": "x", "stream": "s",
    "window": {"start_ms": 1, "samples": 2}, "output": {"low": 1, "high": [2]}, "quality": ["late"],
}  # fmt: skip


def finite(found: Any) -> Any:
    """Refuse a JSON value that holds a number that is not finite."""
    match found:
        case float() if found - found != 0:
            raise ValueError("not finite")
        case dict():
            for value in found.values():
                finite(value)
        case list():
            for value in found:
                finite(value)
    return found


class Twin(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False, extra="ignore")


Row = list[float | list[float | list[float | list[float]]]]
TimeMs = Annotated[float, Field(ge=0, le=LAST_MS)]
Seq = Annotated[int, Field(ge=0, le=2**53)]
Boot = Annotated[str, Field(min_length=1, max_length=48)]


class ReadingTwin(Twin):
    values: float | dict[str, float | Row | None]
    time_ms: TimeMs | None = None
    step_ms: Annotated[float, Field(gt=0)] | None = None
    seq: Seq | None = None
    boot: Boot | None = None


class WindowTwin(Twin):
    start_ms: TimeMs
    samples: Annotated[int, Field(ge=1, le=2**53)]


class PredictionTwin(Twin):
    time_ms: TimeMs
    value: float
    release: Annotated[int, Field(ge=1, le=2**31)]
    latency_ms: float
    seq: Seq | None = None
    boot: Boot | None = None
    stream: str | None = None
    window: WindowTwin | None = None
    output: Annotated[dict[str, Any], AfterValidator(finite)] | None = None
    quality: list[Quality] | None = None


READINGS: TypeAdapter[Any] = TypeAdapter(
    ReadingTwin | Annotated[list[ReadingTwin], Field(max_length=MAX_BATCH)]
)
PREDICTIONS: TypeAdapter[Any] = TypeAdapter(PredictionTwin)


class NotStandardError(ValueError):
    """Not JSON as the standard has it."""


def no_constant(name: str) -> float:
    raise NotStandardError(name)


def twin_of(adapter: TypeAdapter[Any], payload: bytes) -> Any:
    """Return what the twin makes of ``payload`` as plain values, or None when it refuses."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        return None
    try:
        # pydantic's parser takes NaN and Infinity where it does not look; Python's can be told not to.
        json.loads(payload.decode("utf-8"), parse_constant=no_constant, parse_int=len)
        found = adapter.validate_json(payload)
    except (ValidationError, ValueError, RecursionError):
        return None
    ones = found if isinstance(found, list) else [found]
    return [one.model_dump(exclude_none=True) for one in ones]


def struct_of(decode: Any, payload: bytes) -> Any:
    """Return what we make of ``payload`` as plain values, or None when we refuse."""
    try:
        found = decode(payload)
    except MalformedMessageError as error:
        assert error.reason in {Reason.MALFORMED_PAYLOAD, Reason.TOO_LARGE}  # noqa: PT017
        assert 0 < len(error.detail) <= 500  # noqa: PT017
        return None
    ones = found if isinstance(found, list) else [found]
    return [without_none(msgspec.to_builtins(one)) for one in ones]


def without_none(one: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in one.items() if value is not None}


def has_a_key_twice(payload: bytes) -> bool:
    found = False

    def look(pairs: list[tuple[str, Any]]) -> None:
        nonlocal found
        found = found or len({key for key, _ in pairs}) != len(pairs)

    try:
        json.loads(payload, object_pairs_hook=look, parse_int=len)
    except (ValueError, RecursionError):
        return False
    return found


def require_agreement(decode: Any, adapter: TypeAdapter[Any], payload: bytes) -> None:
    ours, twin = struct_of(decode, payload), twin_of(adapter, payload)
    if ours is None and twin is not None and has_a_key_twice(payload):
        return
    assert ours == twin


# Whatever is generated


@given(mutated(json_bytes(READING_KEYS)))
@example(b'{"values": 1, "x": NaN}')
@example(b'{"values": 1, "\xff": 1}')
@example(b" " * 70 + b'[{"values": 1}]')
@example(b"\x0b" + b'{"values": 1}')
@example(b'{"values": {"a": [1, [2, [3, [4]]]]}}')
@example(b'{"values": {"a": [1, [2, [3, [4, [5]]]]]}}')
def test_readings_and_their_twin_agree_on_near_misses(payload: bytes) -> None:
    require_agreement(decode_readings, READINGS, payload)


@given(mutated(json_bytes(PREDICTION_KEYS)))
def test_predictions_and_their_twin_agree_on_near_misses(payload: bytes) -> None:
    require_agreement(decode_prediction, PREDICTIONS, payload)


@given(nearly(FULL_READING))
def test_readings_and_their_twin_agree_at_every_limit(payload: bytes) -> None:
    require_agreement(decode_readings, READINGS, payload)


@given(nearly(FULL_PREDICTION))
def test_predictions_and_their_twin_agree_at_every_limit(payload: bytes) -> None:
    require_agreement(decode_prediction, PREDICTIONS, payload)


@given(st.binary(max_size=200))
def test_both_agree_on_random_bytes(payload: bytes) -> None:
    require_agreement(decode_readings, READINGS, payload)
    require_agreement(decode_prediction, PREDICTIONS, payload)


@pytest.mark.parametrize(
    "payload",
    [
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"values": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"values": {"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}}",
        b'{"values": 1, "x": ' + b'{"a":' * 40_000 + b"1" + b"}" * 40_000 + b"}",
        b'{"values": 1, "x": ' + b"[" * 100 + b"]" * 100 + b"}",
        b'{"values": 1' + b"0" * 5000 + b"}",
        b'{"values": 1, "seq": 1' + b"0" * 5000 + b"}",
        b'{"values": 0.' + b"0" * 5000 + b"1}",
        b'{"values": 1' + b" " * MAX_PAYLOAD_BYTES + b"}",
        b"[" + b",".join([b'{"values":1}'] * (MAX_BATCH + 1)) + b"]",
        b"[" + b",".join([b'{"values":1}'] * MAX_BATCH) + b"]",
        b'{"values": {"a": ' + b"[" + b",".join([b"1"] * 50_000) + b"]}}",
    ],
    ids=len,
)
def test_both_agree_on_the_deep_and_the_long(payload: bytes) -> None:
    require_agreement(decode_readings, READINGS, payload)


def test_both_agree_on_every_vector() -> None:
    """The vectors are made by hand, so they go where generated payloads seldom come."""
    from pathlib import Path

    for name, decode, adapter in (
        ("readings", decode_readings, READINGS),
        ("predictions", decode_prediction, PREDICTIONS),
    ):
        document = json.loads(
            (Path(__file__).parent / "vectors" / f"{name}.json").read_text(encoding="utf-8")
        )
        for case in document["cases"]:
            payload = (
                bytes.fromhex(case["payload_hex"]) if "payload_hex" in case else case["payload"].encode()
            )
            require_agreement(decode, adapter, payload)


# Whatever is valid

numbers = st.floats(allow_nan=False, allow_infinity=False)
times = st.floats(0, LAST_MS)
arrays = st.recursive(st.lists(numbers, max_size=3), lambda inner: st.lists(inner, max_size=3), max_leaves=4)
shallow = arrays.filter(lambda array: depth_of(array) <= 4)
text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)


def depth_of(found: object) -> int:
    return 1 + max(map(depth_of, found), default=0) if isinstance(found, list) else 0


readings = st.builds(
    Reading,
    values=st.one_of(numbers, st.dictionaries(text, st.one_of(st.none(), numbers, shallow), max_size=4)),
    time_ms=st.none() | times,
    step_ms=st.none() | st.floats(0, exclude_min=True, allow_infinity=False),
    seq=st.none() | st.integers(0, 2**53),
    boot=st.none() | text.filter(bool),
)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**63), numbers, text),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(text, inner, max_size=3)),
    max_leaves=5,
)
predictions = st.builds(
    Prediction,
    time_ms=times,
    value=numbers,
    release=st.integers(1, 2**31),
    latency_ms=numbers,
    seq=st.none() | st.integers(0, 2**53),
    boot=st.none() | text.filter(bool),
    stream=st.none() | text,
    window=st.none() | st.builds(WindowBounds, start_ms=times, samples=st.integers(1, 2**53)),
    output=st.none() | st.dictionaries(text, json_values, max_size=3),
    quality=st.none() | st.lists(st.sampled_from(Quality), max_size=3),
)


@given(readings)
def test_a_reading_comes_back_as_it_was_sent_and_its_twin_agrees(reading: Reading) -> None:
    payload = encode_reading(reading)

    assert decode_readings(payload) == [reading]
    assert twin_of(READINGS, payload) == [without_none(msgspec.to_builtins(reading))]


@given(predictions)
def test_a_prediction_comes_back_as_it_was_sent_and_its_twin_agrees(prediction: Prediction) -> None:
    payload = encode_prediction(prediction)

    assert decode_prediction(payload) == prediction
    assert twin_of(PREDICTIONS, payload) == [without_none(msgspec.to_builtins(prediction))]


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: {"a": x}, lambda x: {"a": [1.0, [x]]}])
def test_a_reading_with_a_number_that_json_lacks_is_not_sent(number: float, wrap: Any) -> None:
    with pytest.raises(ValueError, match="finite"):
        encode_reading(Reading(values=wrap(number)))


def test_a_decoded_number_is_a_float_wherever_it_stands() -> None:
    [reading] = decode_readings(b'{"values": {"a": 1, "b": [1, [2]]}, "time_ms": 5}')

    assert isinstance(reading.values, dict)
    assert [type(reading.values["a"]), type(reading.values["b"][0]), type(reading.values["b"][1][0])] == [
        float
    ] * 3  # type: ignore[index]
    assert type(reading.time_ms) is float
