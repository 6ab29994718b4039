"""Bytes that look like JSON, and some that nearly do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from hypothesis import strategies as st

_ODD_VALUES = [
    b"NaN",
    b"-Infinity",
    b"1e400",
    b"-1e400",
    b"1e-400",
    b"-0",
    b"-0.0",
    b"01",
    b"1.",
    b".5",
    b"+1",
    b"1" + b"0" * 30,
    b"1" + b"0" * 400,
    b"-1" + b"0" * 5000,
    b"18446744073709551616",
    b"9007199254740993",
    b"1.0",
    b"1e2",
    b"true",
    b"null",
    b'""',
    b'"\\ud800"',
    b'"\\ud83d\\ude00"',
    b'"\\u0000"',
    b'"\x01"',
    b'"\xff"',
    b'"\xed\xa0\x80"',
    b'"\xf0\x9f\x98\x80"',
    b'"\\x"',
    b"[]",
    b"{}",
    b"[[[[1]]]]",
    b"[[[[[1]]]]]",
    b"[1, null]",
    b"[NaN]",
    b'{"a": {"b": [1, {"c": null}]}}',
    b"/* */ 1",
    b"tru",
    b"1 2",
    b"",
    b"[" * 60 + b"]" * 60,
    b"[" * 100_000,
]


def numbers() -> st.SearchStrategy[bytes]:
    """Numbers as people and devices write them."""
    finite = st.floats(allow_nan=False, allow_infinity=False).map(lambda number: json.dumps(number).encode())
    times = st.floats(0, 253_402_300_799_999.0).map(lambda number: json.dumps(number).encode())
    whole = st.integers(-(2**70), 2**70).map(lambda number: str(number).encode())
    return st.one_of(finite, times, whole, st.integers(0, 5).map(lambda number: str(number).encode()))


def values() -> st.SearchStrategy[bytes]:
    """Any JSON value, and odd ones."""
    text = st.text(max_size=8).map(
        lambda text: json.dumps(text, ensure_ascii=False).encode("utf-8", "surrogatepass")
    )
    return st.recursive(
        st.one_of(numbers(), text, st.sampled_from(_ODD_VALUES)),
        lambda inner: st.one_of(
            st.lists(inner, max_size=4).map(lambda items: b"[" + b", ".join(items) + b"]"),
            objects(["a", "b", "start_ms", "samples"], inner),
        ),
        max_leaves=6,
    )


def objects(keys: Sequence[str], value: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Objects with some of the keys, perhaps twice, perhaps with others."""
    names = st.one_of(
        st.sampled_from(keys).map(lambda key: json.dumps(key).encode()),
        st.sampled_from([b'"other"', b'"\xff"', b'"\\u0061"', b'"\\ud800"', b"a", b'""']),
    )
    pairs = st.lists(st.tuples(names, value), max_size=len(keys) + 2)
    return pairs.map(lambda found: b"{" + b",".join(name + b": " + item for name, item in found) + b"}")


def json_bytes(keys: Sequence[str]) -> st.SearchStrategy[bytes]:
    """Payloads made of these keys, alone or in a list."""
    one = objects(keys, values())
    return st.one_of(
        one, st.lists(one, max_size=3).map(lambda items: b"[" + b",".join(items) + b"]"), values()
    )


_NEAR_VALUES = [
    str(number).encode()
    for limit in (0, 1, 2**31, 2**53, 253_402_300_799_999, 10_000, 48)
    for number in (limit - 1, limit, limit + 1, limit + 0.5)
]


def nearly(valid: Mapping[str, object]) -> st.SearchStrategy[bytes]:
    """Objects with all of these keys and values but for up to two: odd, just beyond a limit, or missing."""

    @st.composite
    def change(draw: st.DrawFn) -> bytes:
        pairs = {key: json.dumps(value).encode() for key, value in valid.items()}
        odd = st.one_of(st.sampled_from(_NEAR_VALUES), st.sampled_from(_ODD_VALUES), values(), st.none())
        for key in draw(st.lists(st.sampled_from(sorted(pairs)), max_size=2)):
            changed = draw(odd)
            if changed is None:
                pairs.pop(key, None)
            elif isinstance(inner := valid[key], dict) and inner and draw(st.booleans()):
                # One level down: a key of the inner object.
                inner_key = draw(st.sampled_from(sorted(inner)))
                spelt = {name: json.dumps(value).encode() for name, value in inner.items()}
                pairs[key] = _object({**spelt, inner_key: changed})
            else:
                pairs[key] = changed
        return _object(pairs)

    return change()


def _object(pairs: Mapping[str, bytes]) -> bytes:
    return b"{" + b", ".join(json.dumps(key).encode() + b": " + value for key, value in pairs.items()) + b"}"


def mutated(payloads: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """These payloads, and the same with some bytes changed, cut out or put in."""

    @st.composite
    def change(draw: st.DrawFn) -> bytes:
        payload = bytearray(draw(payloads))
        for _ in range(draw(st.integers(0, 3))):
            if not payload:
                break
            position = draw(st.integers(0, len(payload) - 1))
            size = draw(st.integers(0, 3))
            payload[position : position + size] = draw(
                st.one_of(
                    st.binary(max_size=2),
                    st.sampled_from([b'"', b"{", b"]", b",", b"\\", b"e", b"-", b" " * 70]),
                )
            )
        return bytes(payload)

    return change()
