"""OPC UA PubSub in JSON, as OPC Publisher writes it: several data sets, each value with its own time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from atoll_contract.errors import MalformedMessageError, Reason
from atoll_contract.messages import MAX_BATCH
from atoll_ingest.dialect import Record
from atoll_ingest.pointer import json_document

_BAD: Final = 0x80000000
"""The highest bit of a status code."""


@dataclass(frozen=True, slots=True)
class OpcuaFormat:
    """OPC UA PubSub, JSON.

    Attributes:
        fields: The name of a field in a data set, to the stream's.
    """

    fields: Mapping[str, str]

    def decoder(self, max_devices: int) -> OpcuaDecoder:  # noqa: ARG002 - remembers nothing
        """See :class:`atoll_ingest.dialect.Format`."""
        return OpcuaDecoder(self.fields)


class OpcuaDecoder:
    """See :class:`atoll_ingest.dialect.Decoder`."""

    max_devices = 0

    def __init__(self, fields: Mapping[str, str]) -> None:
        self.counts: Counter[str] = Counter()
        self._fields = fields

    def records(self, parts: Mapping[str, str], payload: bytes) -> Sequence[Record]:  # noqa: ARG002
        """See :class:`atoll_ingest.dialect.Decoder`. Values of one source time are one record."""
        document = json_document(payload)
        if isinstance(document, dict) and document.get("MessageType") == "ua-metadata":
            return ()
        found: list[Record] = []
        for message in _messages(document):
            found += self._data_set(message)
            if len(found) > MAX_BATCH:
                raise MalformedMessageError(f"more than {MAX_BATCH} readings", Reason.TOO_LARGE)
        return found

    def _data_set(self, message: object) -> Iterator[Record]:
        if not isinstance(message, dict):
            raise MalformedMessageError("a data set message is no object", Reason.WRONG_SHAPE)
        if message.get("MessageType") == "ua-keepalive":
            return
        # Without headers the message is the payload.
        payload = message.get("Payload", message)
        if not isinstance(payload, dict):
            raise MalformedMessageError("the payload of a data set is no object", Reason.WRONG_SHAPE)
        writer = message.get("DataSetWriterName")
        parts = {"writer": writer} if isinstance(writer, str) else {}
        by_time: dict[object, dict[str, object]] = {}
        for field, name in self._fields.items():
            if field not in payload:
                continue
            value, time = _data_value(payload[field])
            if time is None:
                time = message.get("Timestamp")
            if not isinstance(time, str | None):
                raise MalformedMessageError(f"the time of {name} is no text", Reason.BAD_TIME)
            by_time.setdefault(time, {})[name] = value
        for time, values in by_time.items():
            yield Record(values, time, parts)


def _messages(document: object) -> list[object]:
    """Return the data set messages of a network message, or of what stands without one."""
    match document:
        case list():
            # An array of network messages, or of data set messages.
            return [
                inner for item in document for inner in (_messages(item) if _is_network(item) else [item])
            ]
        case dict() if _is_network(document):
            inner = document["Messages"]
            return inner if isinstance(inner, list) else [inner]
        case dict():
            return [document]
        case _:
            raise MalformedMessageError("no network message", Reason.WRONG_SHAPE)


def _is_network(document: object) -> bool:
    return isinstance(document, dict) and "Messages" in document


def _data_value(found: object) -> tuple[object, object]:
    """Return value and source time of a DataValue, or of a bare value; a bad one is missing."""
    if not isinstance(found, dict):
        return found, None
    time = found.get("SourceTimestamp") or found.get("ServerTimestamp")
    status = found.get("StatusCode", found.get("Status", 0))
    code = status.get("Code", 0) if isinstance(status, dict) else status
    is_bad = isinstance(code, int) and bool(code & _BAD)
    value = found.get("Value")
    # Reversible encoding wraps a Variant: {"Type": 11, "Body": 71.25}.
    if isinstance(value, dict) and "Body" in value:
        value = value["Body"]
    return None if is_bad else value, time
