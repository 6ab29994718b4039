"""Values as devices write them, to numbers: what is missing is never zero."""

from __future__ import annotations

import math
import re
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction
from types import MappingProxyType
from typing import Final

import msgspec

from atoll_contract.errors import MalformedMessageError, Reason
from atoll_contract.messages import MAX_DETAIL_CHARS, Array, Value
from atoll_ingest.registers import Register

WORDS: Final[Mapping[str, float]] = MappingProxyType(
    {
        "on": 1.0, "off": 0.0, "true": 1.0, "false": 0.0, "yes": 1.0, "no": 0.0, "open": 1.0, "closed": 0.0,
        "detected": 1.0, "clear": 0.0, "occupied": 1.0, "unoccupied": 0.0, "active": 1.0, "inactive": 0.0,
        "online": 1.0, "offline": 0.0,
    }
)  # fmt: skip
"""What switches and contacts say; in settings ``words`` adds to it and replaces."""

MISSING: Final = frozenset(
    {"", "-", "nan", "null", "none", "n/a", "na", "unavailable", "unknown", "undefined"}
)
"""How devices say that they have no value; in settings ``missing`` adds to it."""

_NUMBER: Final = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_MOST_DIGITS: Final = 400
"""Python refuses to read integers of thousands of digits; no float has so many."""


@dataclass(frozen=True, slots=True)
class ValueForm:
    """How one value is written.

    Attributes:
        words: Text in lower case to the number it stands for.
        missing: Text in lower case that stands for no value. A number there, written with ``decimal``, stands
            also for that number, as float64 or float32; not within arrays.
        decimal: The decimal sign in text.
        suffix: What may follow a number in text, as ``°C``.
        scale: What the number is multiplied with.
        offset: What is added after that.
        register: Which registers of an array hold the number, or None: it is no array of registers.
    """

    words: Mapping[str, float] = field(default_factory=lambda: WORDS)
    missing: frozenset[str] = MISSING
    decimal: str = "."
    suffix: str = ""
    scale: float = 1.0
    offset: float = 0.0
    register: Register | None = None
    _missing_numbers: frozenset[float] = field(init=False, repr=False, compare=False, default=frozenset())
    _is_plain: bool = field(init=False, repr=False, compare=False, default=True)

    def __post_init__(self) -> None:
        """Note which numbers stand for no value, and whether the others stand as they are."""
        bare = (text.removesuffix(self.suffix.lower()).rstrip() for text in self.missing)
        numbers = {number for text in bare if (number := self._number(text)) is not None}
        object.__setattr__(self, "_missing_numbers", frozenset(numbers | {*map(_in_float32, numbers)}))
        is_plain = self.scale == 1.0 and self.offset == 0.0 and self.register is None
        object.__setattr__(self, "_is_plain", is_plain)

    def value(self, name: str, found: object, first_register: int = 0) -> Value:
        """Return the value called ``name`` for what was found; None: it is missing.

        Raises:
            MalformedMessageError: It is neither a number nor one of the words.
        """
        if self._is_plain:
            if type(found) is float and -math.inf < found < math.inf and found not in self._missing_numbers:
                return found
            return self._read(name, found)
        if self.register is not None:
            found = self.register.read(name, found, first_register)
        number = self._read(name, found)
        if number is None:
            return None
        if isinstance(number, list):
            return _scaled(name, number, self.scale, self.offset)
        return _finite(name, number * self.scale + self.offset)

    def _read(self, name: str, found: object) -> Value:
        match found:
            case None:
                return None
            case float() if math.isnan(found):
                return None
            case bool():
                return float(found)
            case int() | float() | Decimal() | Fraction():
                return self._present(_finite(name, found))
            case str() | bytes():
                return self._read_text(
                    name, found if isinstance(found, str) else found.decode("utf-8", "replace")
                )
            case list() | tuple():
                return _array(name, found)
            case _:
                raise MalformedMessageError(f"{name} is an object, not a number")

    def _read_text(self, name: str, text: str) -> Value:
        stripped = text.strip()
        if self.suffix and stripped.endswith(self.suffix):
            stripped = stripped.removesuffix(self.suffix).rstrip()
        if (word := stripped.lower()) in self.missing:
            return None
        if word in self.words:
            return self.words[word]
        number = self._number(stripped)
        if number is None:
            raise MalformedMessageError(f"{name} is no number and no known word: {text[:40]!r}")
        return self._present(_finite(name, number))

    def _present(self, number: float) -> float | None:
        return None if number in self._missing_numbers else number

    def _number(self, text: str) -> float | None:
        """Return the number that ``text`` is, or None."""
        if self.decimal != ".":
            # A point that is no decimal sign parts thousands: not a number that this reads.
            text = text.replace(".", "_").replace(self.decimal, ".")
        return float(text) if len(text) <= _MOST_DIGITS and _NUMBER.fullmatch(text) else None


def _in_float32(number: float) -> float:
    """Return what a device sends that counts in float32."""
    try:
        found: float = struct.unpack("f", struct.pack("f", number))[0]
    except OverflowError:
        return number
    return found


def _finite(name: str, found: float | Decimal | Fraction) -> float:
    try:
        number = float(found)
    except (OverflowError, ValueError) as error:  # an integer of hundreds of digits; Decimal's sNaN
        raise MalformedMessageError(f"{name} is too large a number", Reason.NOT_FINITE) from error
    if not math.isfinite(number):
        raise MalformedMessageError(f"{name} is not finite", Reason.NOT_FINITE)
    return number


def _array(name: str, found: object) -> Array:
    try:
        array: Array = msgspec.convert(found, Array)
    except (msgspec.ValidationError, OverflowError, RecursionError) as error:
        raise MalformedMessageError(f"{name} is no array of numbers: {error}"[:MAX_DETAIL_CHARS]) from error
    if not _all_finite(array):
        raise MalformedMessageError(f"{name} holds a number that is not finite", Reason.NOT_FINITE)
    return array


def _all_finite(array: Array) -> bool:
    return all(_all_finite(item) if isinstance(item, list) else math.isfinite(item) for item in array)


def _scaled(name: str, array: Array, scale: float, offset: float) -> Array:
    return [
        _scaled(name, item, scale, offset) if isinstance(item, list) else _finite(name, item * scale + offset)
        for item in array
    ]
