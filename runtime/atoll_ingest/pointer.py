"""JSON whose values are found by RFC 6901 pointers: ``{"t": 21.5, "meta": {"ts": 1730794500}}``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from atoll_contract.errors import MalformedMessageError, Reason
from atoll_contract.messages import MAX_DETAIL_CHARS, MAX_PAYLOAD_BYTES, Array, Reading, Value
from atoll_ingest.time import TimeUnit, to_time_ms

_DECODER: Final = msgspec.json.Decoder()
_ABSENT: Final = object()
_STRAY_TILDE: Final = re.compile(r"~(?![01])")
_INDEX: Final = re.compile(r"0|[1-9][0-9]{0,8}")


def parse_pointer(pointer: str) -> tuple[str, ...]:
    """Return the reference tokens of an RFC 6901 JSON pointer; the empty one means the whole payload.

    >>> parse_pointer("/a~1b/0")
    ('a/b', '0')

    Raises:
        ValueError: ``pointer`` does not start with ``/`` or has a bad escape.
    """
    if not pointer:
        return ()
    if not pointer.startswith("/"):
        raise ValueError(f"pointer {pointer!r} must start with '/'")
    tokens = []
    for token in pointer[1:].split("/"):
        if _STRAY_TILDE.search(token):
            raise ValueError(f"pointer {pointer!r}: '~' stands only in '~0' and '~1'")
        tokens.append(token.replace("~1", "/").replace("~0", "~"))
    return tuple(tokens)


def resolve(document: object, tokens: tuple[str, ...]) -> object:
    """Return what ``tokens`` lead to in ``document``, or None when it is absent."""
    found = _walk(document, tokens)
    return None if found is _ABSENT else found


def _walk(document: object, tokens: tuple[str, ...]) -> object:
    for token in tokens:
        match document:
            case dict() if token in document:
                document = document[token]
            case list() if _INDEX.fullmatch(token) and int(token) < len(document):
                document = document[int(token)]
            case _:
                return _ABSENT
    return document


@dataclass(frozen=True, slots=True)
class PointerDialect:
    """JSON read by pointers; what no pointer names is ignored.

    Attributes:
        values: Value name to the tokens of its pointer.
        time: Tokens of the event time, or None: the time of arrival counts.
        time_unit: How the event time is written.
    """

    values: Mapping[str, tuple[str, ...]]
    time: tuple[str, ...] | None = None
    time_unit: TimeUnit = TimeUnit.MILLISECONDS

    def decode(self, payload: bytes) -> list[Reading]:
        """Return the one reading in ``payload``.

        A value that is absent or null is missing; anything else than numbers or arrays of
        numbers is refused.

        Raises:
            MalformedMessageError: ``payload`` cannot be read; the reason code says why.
        """
        if len(payload) > MAX_PAYLOAD_BYTES:
            message = f"payload of {len(payload)} bytes: at most {MAX_PAYLOAD_BYTES} are read"
            raise MalformedMessageError(message, Reason.TOO_LARGE)
        try:
            document = _DECODER.decode(payload)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MalformedMessageError(f"not JSON: {error}"[:MAX_DETAIL_CHARS]) from error
        values = {name: _number(name, _walk(document, tokens)) for name, tokens in self.values.items()}
        if all(value is None for value in values.values()):
            raise MalformedMessageError("none of the stream's values is in it", Reason.MISSING_VALUE)
        time_ms = None
        if self.time is not None:
            found = _walk(document, self.time)
            if found is _ABSENT or found is None:
                raise MalformedMessageError(f"no time at /{'/'.join(self.time)}", Reason.BAD_TIME)
            time_ms = to_time_ms(found, self.time_unit)
        return [Reading(values=values, time_ms=time_ms)]


def _number(name: str, found: object) -> Value:
    match found:
        case bool():
            raise MalformedMessageError(f"{name} is a boolean, not a number")
        case int() | float():
            return _finite(name, found)
        case list():
            return _array(name, found)
        case None:
            return None
        case _ if found is _ABSENT:
            return None
        case str():
            raise MalformedMessageError(f"{name} is a string, not a number: {found[:40]!r}")
        case _:
            raise MalformedMessageError(f"{name} is an object, not a number")


def _finite(name: str, number: float) -> float:
    try:
        return float(number)
    except OverflowError as error:  # an integer of hundreds of digits
        raise MalformedMessageError(f"{name} is too large a number", Reason.NOT_FINITE) from error


def _array(name: str, found: list[object]) -> Array:
    try:
        return msgspec.convert(found, Array)
    except (msgspec.ValidationError, OverflowError) as error:
        raise MalformedMessageError(f"{name} is no array of numbers: {error}"[:MAX_DETAIL_CHARS]) from error
