"""Sparkplug B: a birth tells the names of the metrics, later messages only their numbers (aliases)."""

from __future__ import annotations

import struct
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

from atoll_contract.errors import MalformedMessageError, Reason
from atoll_contract.messages import MAX_BATCH, MAX_DETAIL_CHARS, MAX_PAYLOAD_BYTES
from atoll_ingest.dialect import Record
from atoll_ingest.sparkplug_schema import payload_class

TOPICS: Final = ("spBv1.0/{group}/{type}/{node}", "spBv1.0/{group}/{type}/{node}/{device}")

_BIRTHS: Final = frozenset({"NBIRTH", "DBIRTH"})
_DATA: Final = frozenset({"NDATA", "DDATA"})
_DEATHS: Final = frozenset({"NDEATH", "DDEATH"})
_BITS: Final = {1: 8, 2: 16, 3: 32, 4: 64}
"""Signed integers, sent as two's complement in an unsigned field, by their data type."""
_ARRAYS: Final = {
    22: "b", 23: "h", 24: "i", 25: "q", 26: "B", 27: "H", 28: "I", 29: "Q", 30: "f", 31: "d",
}  # fmt: skip
"""Packed little-endian numbers, by their data type."""
_UNIT: Final = "engUnit"
_SESSION: Final = "bdSeq"
"""The metric that says to which connection of a node a birth and a death belong."""

Who = tuple[str, str, str]
"""Group, edge node and device; no device for the node itself."""


class _Known(NamedTuple):
    """What a birth said of a metric that the stream has."""

    name: str
    datatype: int
    unit: str | None


@dataclass(frozen=True, slots=True)
class SparkplugFormat:
    """Sparkplug B.

    Attributes:
        metrics: The name of a metric, to the stream's.
    """

    metrics: Mapping[str, str]

    def decoder(self, max_devices: int) -> SparkplugDecoder:
        """See :class:`atoll_ingest.dialect.Format`."""
        return SparkplugDecoder(self.metrics, max_devices)


class SparkplugDecoder:
    """See :class:`atoll_ingest.dialect.Decoder`.

    It remembers the aliases of the stream's metrics, for at most ``max_devices`` devices; the one that
    has been silent longest is forgotten, and counted.
    """

    def __init__(self, metrics: Mapping[str, str], max_devices: int) -> None:
        self.counts: Counter[str] = Counter()
        self._metrics = metrics
        self.max_devices = max_devices
        self._known: OrderedDict[Who, dict[int, _Known]] = OrderedDict()
        self._sessions: OrderedDict[Who, int] = OrderedDict()
        self._payload = payload_class()
        from google.protobuf.message import DecodeError  # noqa: PLC0415 - an extra

        self._error = DecodeError

    def records(self, parts: Mapping[str, str], payload: bytes) -> Sequence[Record]:
        """See :class:`atoll_ingest.dialect.Decoder`. Metrics of one time are one record.

        Raises:
            MalformedMessageError: No Sparkplug payload, or ``no_birth``: its names were told before
                anybody listened. The node tells them again at its next birth.
        """
        kind, node = parts.get("type", ""), parts.get("node", "")
        who = (parts.get("group", ""), node, parts.get("device", ""))
        if kind in _DEATHS:
            return () if kind == "NDEATH" and self._is_late_death(who, payload) else self._die(who)
        if kind not in _BIRTHS and kind not in _DATA:
            return ()  # commands, and what a host says of itself
        message = self._parse(payload)
        if kind in _BIRTHS:
            self._bear(who, message)
        known = self._known.get(who)
        if known is not None:
            self._known.move_to_end(who)
        by_time: dict[int | None, tuple[dict[str, object], dict[str, object]]] = {}
        for metric in message.metrics:
            found = self._find(metric, known)
            if found is None:
                continue
            time = _time(metric, message)
            values, units = by_time.setdefault(time, ({}, {}))
            values[found.name] = _value(metric, found)
            units[found.name] = found.unit
        device = {"device": who[2] or node}
        return [Record(values, time, device, units) for time, (values, units) in by_time.items()]

    def _parse(self, payload: bytes) -> Any:
        if len(payload) > MAX_PAYLOAD_BYTES:
            message = f"payload of {len(payload)} bytes: at most {MAX_PAYLOAD_BYTES} are read"
            raise MalformedMessageError(message, Reason.TOO_LARGE)
        try:
            parsed = self._payload.FromString(payload)
        except self._error as error:
            raise MalformedMessageError(f"no Sparkplug payload: {error}"[:MAX_DETAIL_CHARS]) from error
        if len(parsed.metrics) > MAX_BATCH:
            message = f"{len(parsed.metrics)} metrics in one message: at most {MAX_BATCH} are read"
            raise MalformedMessageError(message, Reason.TOO_LARGE)
        return parsed

    def _bear(self, who: Who, message: Any) -> None:
        self.counts["births"] += 1
        if not who[2]:
            self._forget_devices(who)
            self._note_session(who, _session(message))
        known = {}
        for metric in message.metrics:
            name = self._metrics.get(metric.name) if metric.HasField("name") else None
            if name is not None and metric.HasField("alias"):
                known[metric.alias] = _Known(name, metric.datatype, _unit(metric))
        self._known.pop(who, None)
        while len(self._known) >= self.max_devices:
            self._known.popitem(last=False)
            self.counts["births_forgotten"] += 1
        self._known[who] = known

    def _note_session(self, node: Who, session: int | None) -> None:
        self._sessions.pop(node, None)
        if session is not None:
            while len(self._sessions) >= self.max_devices:
                self._sessions.popitem(last=False)
            self._sessions[node] = session

    def _is_late_death(self, node: Who, payload: bytes) -> bool:
        """Whether the death is that of a connection before the last birth: a will may come after it."""
        session = self._sessions.get(node)
        is_late = session is not None and _session(self._parse(payload)) != session
        self.counts["deaths_late"] += is_late
        return is_late

    def _die(self, who: Who) -> Sequence[Record]:
        """The device is gone, or the node with all its devices."""
        self.counts["deaths"] += 1
        gone = {who[2] or who[1]}
        self._known.pop(who, None)
        if not who[2]:
            gone |= self._forget_devices(who)
        return [Record({}, parts={"device": device}, is_end=True) for device in sorted(gone)]

    def _forget_devices(self, node: Who) -> set[str]:
        devices = [who for who in self._known if who[:2] == node[:2] and who[2]]
        for who in devices:
            del self._known[who]
        return {device for _, _, device in devices}

    def _find(self, metric: Any, known: Mapping[int, _Known] | None) -> _Known | None:
        if metric.HasField("name") and metric.name:
            name = self._metrics.get(metric.name)
            return None if name is None else _Known(name, metric.datatype, _unit(metric))
        if known is None:
            message = "a metric without a name, and no birth seen of its device: the next one tells the names"
            raise MalformedMessageError(message, Reason.NO_BIRTH)
        return known.get(metric.alias)


def _session(message: Any) -> int | None:
    """Return which connection of its node a birth or a death belongs to, if it says so."""
    for metric in message.metrics:
        if metric.name == _SESSION:
            return int(metric.long_value or metric.int_value)
    return None


def _time(metric: Any, message: Any) -> int | None:
    if metric.HasField("timestamp"):
        return int(metric.timestamp)
    return int(message.timestamp) if message.HasField("timestamp") else None


def _unit(metric: Any) -> str | None:
    properties = metric.properties
    for key, value in zip(properties.keys, properties.values, strict=False):
        if key == _UNIT:
            return str(value.string_value) or None
    return None


def _value(metric: Any, known: _Known) -> object:
    if metric.is_null:
        return None
    datatype = metric.datatype or known.datatype
    for field in ("int_value", "long_value"):
        if metric.HasField(field):
            number = int(getattr(metric, field))
            bits = _BITS.get(datatype)
            if bits is None:
                return number
            number &= (1 << bits) - 1
            return number - (1 << bits) if number >> (bits - 1) else number
    for field in ("float_value", "double_value", "boolean_value", "string_value"):
        if metric.HasField(field):
            return getattr(metric, field)
    if metric.HasField("bytes_value") and datatype in _ARRAYS:
        return _array(known.name, metric.bytes_value, _ARRAYS[datatype])
    if not metric.HasField("bytes_value"):
        return None
    raise MalformedMessageError(f"{known.name} is no number", Reason.WRONG_SHAPE)


def _array(name: str, packed: bytes, form: str) -> list[float]:
    size = struct.calcsize(f"<{form}")
    if len(packed) % size:
        raise MalformedMessageError(f"{name}: an array of {len(packed)} bytes", Reason.WRONG_SHAPE)
    return [float(number) for number in struct.unpack(f"<{len(packed) // size}{form}", packed)]
