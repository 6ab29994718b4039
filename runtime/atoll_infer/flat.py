"""Reads the few fields of a FlatBuffer and of a FlexBuffer that tell what a model file is.

Bounded: whatever the bytes are, it ends soon, and by a value or by :class:`DamagedBufferError`. The
library ``flatbuffers`` does not come with every runtime, and checks no bounds.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

_U16: Final = struct.Struct("<H")
_I32: Final = struct.Struct("<i")
_U32: Final = struct.Struct("<I")
_BY_WIDTH: Final = {1: struct.Struct("<B"), 2: _U16, 4: _U32, 8: struct.Struct("<Q")}
_OFFSET_BYTES: Final = 4
_MOST_TABLES: Final = 100_000
_FLEX_TAIL_BYTES: Final = 2
_FLEX_STRING: Final = 5
_FLEX_MAP: Final = 9
_FLEX_BLOB: Final = 25


class DamagedBufferError(ValueError):
    """An offset or a length points outside the buffer."""


@dataclass(frozen=True, slots=True)
class FlatTable:
    """One table of a FlatBuffer; fields are asked for by their number in the schema."""

    content: bytes
    at: int

    @classmethod
    def root(cls, content: bytes, identifier: bytes) -> FlatTable:
        """Return the outermost table.

        Raises:
            DamagedBufferError: ``content`` does not bear ``identifier``.
        """
        if content[_OFFSET_BYTES : 2 * _OFFSET_BYTES] != identifier:
            raise DamagedBufferError(f"it does not bear the mark {identifier.decode()}")
        return cls(content, _read(_U32, content, 0))

    def number(self, field: int, form: str, default: int = 0) -> int:
        """Return a field that is a number of the :mod:`struct` format ``form``."""
        at = self._field(field)
        return default if at is None else _read(struct.Struct(f"<{form}"), self.content, at)

    def table(self, field: int) -> FlatTable | None:
        """Return a field that is a table."""
        at = self._field(field)
        return None if at is None else FlatTable(self.content, self._target(at))

    def tables(self, field: int) -> list[FlatTable]:
        """Return a field that is a vector of tables."""
        start, count = self._vector(field, _OFFSET_BYTES)
        if count > _MOST_TABLES:
            raise DamagedBufferError(f"a vector has {count} tables")
        places = range(start, start + count * _OFFSET_BYTES, _OFFSET_BYTES)
        return [FlatTable(self.content, self._target(at)) for at in places]

    def numbers(self, field: int, form: str, most: int) -> list[float]:
        """Return the first ``most`` elements of a field that is a vector of numbers."""
        start, count = self._vector(field, struct.calcsize(f"<{form}"))
        return list(struct.unpack_from(f"<{min(count, most)}{form}", self.content, start))

    def raw(self, field: int) -> bytes:
        """Return a field that is a string or a vector of bytes."""
        start, count = self._vector(field, 1)
        return self.content[start : start + count]

    def text(self, field: int) -> str:
        """Return a field that is a string, what is no UTF-8 replaced."""
        return self.raw(field).decode("utf-8", "replace")

    def _field(self, field: int) -> int | None:
        vtable = self.at - _read(_I32, self.content, self.at)
        entry = 4 + 2 * field
        if entry + 2 > _read(_U16, self.content, vtable):
            return None
        offset = _read(_U16, self.content, vtable + entry)
        return self.at + offset if offset else None

    def _target(self, at: int) -> int:
        return at + _read(_U32, self.content, at)

    def _vector(self, field: int, size: int) -> tuple[int, int]:
        at = self._field(field)
        if at is None:
            return 0, 0
        start = self._target(at)
        count = _read(_U32, self.content, start)
        start += _OFFSET_BYTES
        if start + count * size > len(self.content):
            raise DamagedBufferError("a vector ends outside the file")
        return start, count


def flex_blob(content: bytes, key: bytes) -> bytes | None:
    """Return the string or blob under ``key`` of the FlexBuffer map in ``content``, if there is one.

    Raises:
        DamagedBufferError: An offset or a length points outside ``content``.
    """
    if len(content) <= _FLEX_TAIL_BYTES:
        return None
    packed, width = content[-2], content[-1]
    if packed >> 2 != _FLEX_MAP or width not in _BY_WIDTH:
        return None
    at = len(content) - _FLEX_TAIL_BYTES - width
    start = at - _width_read(content, at, width)
    width = 1 << (packed & 3)
    count = _width_read(content, start - width, width)
    if count * width > len(content):
        raise DamagedBufferError("a map ends outside the file")
    keys_at = start - 3 * width
    keys = keys_at - _width_read(content, keys_at, width)
    key_width = _width_read(content, start - 2 * width, width)
    wanted = key + b"\0"
    for place in range(count):
        name_at = keys + place * key_width
        name = name_at - _width_read(content, name_at, key_width)
        if content[max(0, name) : max(0, name) + len(wanted)] != wanted:
            continue
        kind = _width_read(content, start + count * width + place, 1)
        if kind >> 2 not in {_FLEX_STRING, _FLEX_BLOB}:
            return None
        value_at = start + place * width
        value = value_at - _width_read(content, value_at, width)
        size_width = 1 << (kind & 3)
        size = _width_read(content, value - size_width, size_width)
        if value + size > len(content):
            raise DamagedBufferError("a string ends outside the file")
        return content[value : value + size]
    return None


def _width_read(content: bytes, at: int, width: int) -> int:
    if width not in _BY_WIDTH:
        raise DamagedBufferError(f"no number has {width} bytes")
    return _read(_BY_WIDTH[width], content, at)


def _read(form: struct.Struct, content: bytes, at: int) -> int:
    if not 0 <= at <= len(content) - form.size:
        raise DamagedBufferError("an offset points outside the file")
    number: int = form.unpack_from(content, at)[0]
    return number
