"""One value per topic, without JSON around it: ``21.5``, ``ON``, ``"21.5"``, ``{"value": 21.5}``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from atoll_contract.errors import MalformedMessageError, Reason
from atoll_ingest.dialect import Record
from atoll_ingest.pointer import json_document

VALUE: Final = "value"
"""The part of a topic that says which value it carries."""
TIME: Final = "time"
"""What stands there when the topic carries the time."""
_KEYS: Final = ("value", "v", "state", "val")
_MAX_BYTES: Final = 4096
_MOST_WRAPPED: Final = 4


@dataclass(frozen=True, slots=True)
class ScalarFormat:
    """Scalars; which value it is stands in the topic.

    Attributes:
        names: The name that a topic has for a value, to the stream's.
    """

    names: Mapping[str, str]

    def decoder(self, max_devices: int) -> ScalarDecoder:  # noqa: ARG002 - remembers nothing
        """See :class:`atoll_ingest.dialect.Format`."""
        return ScalarDecoder(self.names)


class ScalarDecoder:
    """See :class:`atoll_ingest.dialect.Decoder`."""

    max_devices = 0

    def __init__(self, names: Mapping[str, str]) -> None:
        self.counts: Counter[str] = Counter()
        self._names = names

    def records(self, parts: Mapping[str, str], payload: bytes) -> Sequence[Record]:
        """See :class:`atoll_ingest.dialect.Decoder`."""
        name = self._names.get(parts.get(VALUE, ""))
        if name is None:
            return ()
        found = _unwrapped(payload)
        if name == TIME:
            return (Record({}, time=found),)
        return (Record({name: found}),)


def _unwrapped(payload: bytes) -> object:
    """Return the value in ``payload``, out of the JSON that may be around it."""
    if len(payload) > _MAX_BYTES:
        message = f"payload of {len(payload)} bytes: a single value has at most {_MAX_BYTES}"
        raise MalformedMessageError(message, Reason.TOO_LARGE)
    if payload.lstrip()[:1] not in {b"{", b"[", b'"'}:
        try:
            return str(payload, "utf-8")
        except UnicodeDecodeError as error:
            raise MalformedMessageError(f"no text: {error}") from error
    found = json_document(payload)
    for _ in range(_MOST_WRAPPED):
        match found:
            case [inner]:
                found = inner
            case dict():
                key = next((key for key in _KEYS if key in found), None)
                if key is None:
                    message = f"an object without any of {', '.join(_KEYS)}"
                    raise MalformedMessageError(message, Reason.MISSING_VALUE)
                found = found[key]
            case _:
                break
    return found
