"""JSON whose values are found by RFC 6901 pointers: ``{"t": 21.5, "meta": {"ts": 1730794500}}``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

import msgspec

from atoll_contract.errors import MalformedMessageError, Reason
from atoll_contract.messages import MAX_DETAIL_CHARS, MAX_PAYLOAD_BYTES, Reading
from atoll_ingest.time import TimeForm
from atoll_ingest.value import ValueForm

ABSENT: Final = object()
_DECODER: Final = msgspec.json.Decoder()
_PLAIN: Final = ValueForm()
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
    found = walk(document, tokens)
    return None if found is ABSENT else found


def walk(document: object, tokens: tuple[str, ...]) -> object:
    """Return what ``tokens`` lead to in ``document``, or :data:`ABSENT`, which null is not."""
    for token in tokens:
        match document:
            case dict() if token in document:
                document = document[token]
            case list() if _INDEX.fullmatch(token) and int(token) < len(document):
                document = document[int(token)]
            case _:
                return ABSENT
    return document


@dataclass(frozen=True, slots=True)
class PointerDialect:
    """JSON read by pointers; what no pointer names is ignored.

    Attributes:
        values: Value name to the tokens of its pointer.
        time: Tokens of the event time, or None: the time of arrival counts.
        time_form: How the event time is written.
        forms: How values are written that are no plain numbers, by name.
    """

    values: Mapping[str, tuple[str, ...]]
    time: tuple[str, ...] | None = None
    time_form: TimeForm = field(default_factory=TimeForm)
    forms: Mapping[str, ValueForm] = field(default_factory=dict)

    def decode(self, payload: bytes) -> list[Reading]:
        """Return the one reading in ``payload``.

        A value that is absent or null is missing, a time that is absent or null is that of arrival.

        Raises:
            MalformedMessageError: ``payload`` cannot be read; the reason code says why.
        """
        document = json_document(payload)
        forms = self.forms
        values = {
            name: forms.get(name, _PLAIN).value(name, resolve(document, tokens))
            for name, tokens in self.values.items()
        }
        if all(value is None for value in values.values()):
            raise MalformedMessageError("none of the stream's values is in it", Reason.MISSING_VALUE)
        written = None if self.time is None else resolve(document, self.time)
        return [self.time_form.reading(values, written)]


def json_document(payload: bytes) -> object:
    """Return what ``payload`` says in JSON.

    Raises:
        MalformedMessageError: It is too large, or no JSON.
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        message = f"payload of {len(payload)} bytes: at most {MAX_PAYLOAD_BYTES} are read"
        raise MalformedMessageError(message, Reason.TOO_LARGE)
    try:
        return _DECODER.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MalformedMessageError(f"not JSON: {error}"[:MAX_DETAIL_CHARS]) from error
