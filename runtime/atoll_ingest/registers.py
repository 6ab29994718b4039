"""Modbus registers: one or more words of 16 bits to the number that they hold."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec

from atoll_contract.errors import MalformedMessageError, Reason

_WORDS: Final = msgspec.json.Decoder(list[int])
_MAX_WORD: Final = 0xFFFF
_MIN_WORD: Final = -0x8000
"""Some gateways send words as signed numbers."""


class RegisterKind(StrEnum):
    """What registers hold; from the most significant word on unless the order says otherwise."""

    INT16 = "int16"
    UINT16 = "uint16"
    INT32 = "int32"
    UINT32 = "uint32"
    INT64 = "int64"
    UINT64 = "uint64"
    FLOAT32 = "float32"
    FLOAT64 = "float64"


_FORMATS: Final = {
    RegisterKind.INT16: ">h",
    RegisterKind.UINT16: ">H",
    RegisterKind.INT32: ">i",
    RegisterKind.UINT32: ">I",
    RegisterKind.INT64: ">q",
    RegisterKind.UINT64: ">Q",
    RegisterKind.FLOAT32: ">f",
    RegisterKind.FLOAT64: ">d",
}


@dataclass(frozen=True, slots=True)
class Register:
    """Where in a block of registers a number stands.

    Attributes:
        number: Number of its first register.
        kind: What it is.
        is_low_first: Whether the least significant word comes first.
    """

    number: int
    kind: RegisterKind = RegisterKind.UINT16
    is_low_first: bool = False

    def read(self, name: str, block: object, first: int) -> float | None:
        """Return the number, or None: there are no registers.

        Args:
            name: Of the value, for messages.
            block: The registers: an array, or text that holds one.
            first: Number of the first register of the block.

        Raises:
            MalformedMessageError: The block is no array of words, or the register is not in it.
        """
        if block is None:
            return None
        words = self._words(name, block)
        form = _FORMATS[self.kind]
        place, size = self.number - first, struct.calcsize(form) // 2
        if not 0 <= place <= len(words) - size:
            message = f"{name}: registers {self.number} to {self.number + size - 1} are not among those sent"
            raise MalformedMessageError(message, Reason.WRONG_SHAPE)
        held = words[place : place + size]
        if self.is_low_first:
            held.reverse()
        try:
            (number,) = struct.unpack(form, struct.pack(f">{size}H", *(word & _MAX_WORD for word in held)))
        except (struct.error, TypeError) as error:
            raise MalformedMessageError(f"{name}: a register is no number of 16 bits") from error
        return float(number)

    @staticmethod
    def _words(name: str, block: object) -> list[int]:
        try:
            words = _WORDS.decode(block) if isinstance(block, str) else msgspec.convert(block, list[int])
        except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError) as error:
            raise MalformedMessageError(f"{name} stands in no array of registers") from error
        if not all(_MIN_WORD <= word <= _MAX_WORD for word in words):
            raise MalformedMessageError(f"{name}: a register is no number of 16 bits")
        return words
