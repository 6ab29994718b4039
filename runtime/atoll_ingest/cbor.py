"""CBOR (RFC 8949), read into what JSON would give: maps, arrays, text, numbers and times."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from atoll_contract.errors import MalformedMessageError, Reason
from atoll_contract.messages import MAX_DETAIL_CHARS, MAX_PAYLOAD_BYTES

_MAX_DEPTH: Final = 64


def cbor_document(payload: bytes) -> object:
    """Return what ``payload`` says; keys of maps become text.

    Raises:
        MalformedMessageError: It is too large, or no CBOR.
    """
    import cbor2  # noqa: PLC0415 - only for those who use it

    if len(payload) > MAX_PAYLOAD_BYTES:
        message = f"payload of {len(payload)} bytes: at most {MAX_PAYLOAD_BYTES} are read"
        raise MalformedMessageError(message, Reason.TOO_LARGE)
    try:
        found = cbor2.loads(payload, max_depth=_MAX_DEPTH, semantic_decoders=_PLAIN)
    except (cbor2.CBORError, ValueError, ArithmeticError, TypeError, RecursionError) as error:
        raise MalformedMessageError(f"not CBOR: {error}"[:MAX_DETAIL_CHARS]) from error
    return _with_text_keys(found)


def _inner(found: object, *_: object) -> object:
    return found


# Tags that make a value that refers to itself, a pattern, or a mail: their content stands for itself.
_PLAIN: Final[Mapping[int, Any]] = MappingProxyType(dict.fromkeys((28, 29, 35, 36), _inner))


def _with_text_keys(found: object) -> object:
    match found:
        case dict():
            return {_key(key): _with_text_keys(inner) for key, inner in found.items()}
        case list() | tuple():
            return [_with_text_keys(inner) for inner in found]
        case _:
            return found


def _key(key: object) -> str:
    if isinstance(key, str):
        return key
    if isinstance(key, int) and abs(key) < 2**64:
        return str(int(key))
    return f"{type(key).__name__}"
