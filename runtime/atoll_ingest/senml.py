"""SenML (RFC 8428), JSON and CBOR: base fields hold for what follows, names are joined of two parts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from atoll_contract.errors import MalformedMessageError, Reason
from atoll_contract.messages import MAX_BATCH
from atoll_ingest.dialect import Record

# RFC 8428, table 6: the keys of CBOR.
_LABELS: Final = {
    "-1": "bver", "-2": "bn", "-3": "bt", "-4": "bu", "-5": "bv", "-6": "bs",
    "0": "n", "1": "u", "2": "v", "3": "vs", "4": "vb", "5": "s", "6": "t", "7": "ut", "8": "vd",
}  # fmt: skip
_KNOWN: Final = frozenset({*_LABELS.values(), "bver"})
_NEWEST_VERSION: Final = 10
_RELATIVE_BELOW_S: Final = 2.0**28
"""A time below counts from now (RFC 8428, section 4.5.3): from arrival."""
_MAX_NAME: Final = 1024
BASE: Final = "base"
"""The part of a name before the value's, without the sign that parts them."""


@dataclass(frozen=True, slots=True)
class SenmlFormat:
    """SenML.

    Attributes:
        names: How a value is called in SenML, whole or at its end, to the stream's name.
        load: What takes the payload apart.
    """

    names: Mapping[str, str]
    load: Callable[[bytes], object]

    def decoder(self, max_devices: int) -> SenmlDecoder:  # noqa: ARG002 - remembers nothing
        """See :class:`atoll_ingest.dialect.Format`."""
        return SenmlDecoder(self)


class SenmlDecoder:
    """See :class:`atoll_ingest.dialect.Decoder`."""

    max_devices = 0

    def __init__(self, plan: SenmlFormat) -> None:
        self.counts: Counter[str] = Counter()
        self._load = plan.load
        # The longest first: "inner/temperature" before "temperature".
        self._names = sorted(plan.names.items(), key=lambda pair: -len(pair[0]))

    def records(self, parts: Mapping[str, str], payload: bytes) -> Sequence[Record]:  # noqa: ARG002
        """See :class:`atoll_ingest.dialect.Decoder`. Values of one time and base are one record."""
        pack = self._load(payload)
        if not isinstance(pack, list) or not all(isinstance(entry, dict) for entry in pack):
            raise MalformedMessageError("SenML is an array of records", Reason.WRONG_SHAPE)
        if len(pack) > MAX_BATCH:
            message = f"{len(pack)} records in one message: at most {MAX_BATCH} are read"
            raise MalformedMessageError(message, Reason.TOO_LARGE)
        base: dict[str, object] = {}
        found: dict[tuple[str, float], tuple[dict[str, object], dict[str, object]]] = {}
        for entry in pack:
            named = {_LABELS.get(key, key): value for key, value in entry.items()}
            _require_understood(named)
            base.update({key: value for key, value in named.items() if key[:1] == "b"})
            full = _text(base, "bn") + _text(named, "n")
            place = self._place(full)
            if place is None:
                continue
            name, before = place
            values, units = found.setdefault((before, _time_s(base, named)), ({}, {}))
            values[name] = _value(base, named)
            units[name] = named.get("u", base.get("bu"))
        return [
            Record(values, None, {BASE: before}, units, after_arrival_ms=time_s * 1e3)
            if abs(time_s) < _RELATIVE_BELOW_S
            else Record(values, time_s, {BASE: before}, units)
            for (before, time_s), (values, units) in found.items()
        ]

    def _place(self, full: str) -> tuple[str, str] | None:
        """Return the stream's name for a value and what stands before it; None: it is another one."""
        if len(full) > _MAX_NAME:
            raise MalformedMessageError(f"a name of {len(full)} characters", Reason.TOO_LARGE)
        for written, name in self._names:
            before = full[: len(full) - len(written)]
            if full.endswith(written) and (not before or before[-1] in ":/.-_"):
                return name, before.rstrip(":/.-_")
        return None


def _require_understood(named: Mapping[str, object]) -> None:
    # RFC 8428, section 4.4: a key that ends in "_" must be understood, a newer version too.
    if unknown := [key for key in named if key[-1:] == "_" and key not in _KNOWN]:
        raise MalformedMessageError(f"SenML key {unknown[0][:40]!r} must be understood and is not")
    version = named.get("bver", _NEWEST_VERSION)
    if isinstance(version, bool) or not isinstance(version, int) or version > _NEWEST_VERSION:
        raise MalformedMessageError(f"SenML of a version above {_NEWEST_VERSION}")


def _text(named: Mapping[str, object], key: str) -> str:
    found = named.get(key, "")
    if not isinstance(found, str):
        raise MalformedMessageError(f"SenML key {key!r} is no text")
    return found


def _number(named: Mapping[str, object], key: str) -> float | None:
    match named.get(key):
        case None:
            return None
        case bool() | str() | bytes() | dict() | list():
            raise MalformedMessageError(f"SenML key {key!r} is no number")
        case found:
            try:
                return float(found)  # type: ignore[arg-type]  # numbers of all kinds: CBOR has many
            except (TypeError, ValueError, OverflowError) as error:
                raise MalformedMessageError(f"SenML key {key!r} is no number") from error


def _time_s(base: Mapping[str, object], named: Mapping[str, object]) -> float:
    return (_number(base, "bt") or 0.0) + (_number(named, "t") or 0.0)


def _value(base: Mapping[str, object], named: Mapping[str, object]) -> object:
    for key in ("vb", "vs", "vd"):  # base values are for numbers only
        if key in named:
            return named[key]
    key = "s" if "v" not in named and ("s" in named or "bv" not in base) else "v"
    numbers = [_number(base, f"b{key}"), _number(named, key)]
    told = [number for number in numbers if number is not None]
    return sum(told) if told else None
