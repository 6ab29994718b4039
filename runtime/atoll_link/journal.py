"""Frames of a journal: what was written before a crash is told from what a crash or a bad disk left.

A frame is a header (mark, number of the journal, length, CRC-32 of the body, CRC-32 of the header
before it) and a body. A writer that is killed leaves a frame without its end: that is a torn tail, and
nothing in it was ever said to be safe. Everything else that does not fit is damage.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final
from zlib import crc32

_MARK: Final = struct.Struct("<4sQ")
_SIZES: Final = struct.Struct("<II")
_CHECK: Final = struct.Struct("<I")
_HEADER_BYTES: Final = _MARK.size + _SIZES.size + _CHECK.size


@dataclass(slots=True)
class Found:
    """What is in a journal.

    Attributes:
        bodies: Of the whole frames, in order.
        damage: What is wrong with the rest, for people; None when it is whole or merely torn.
    """

    bodies: list[bytes] = field(default_factory=list)
    damage: str | None = None


def frame(number: int, body: bytes) -> bytes:
    """Return ``body`` as a frame of the journal with this number."""
    header = _mark(number) + _SIZES.pack(len(body), crc32(body))
    return header + _CHECK.pack(crc32(header)) + body


def scan(number: int, content: bytes) -> Found:
    """Return the frames in ``content``, also those behind damaged ones.

    >>> scan(7, frame(7, b"one") + frame(7, b"two")[:-1])
    Found(bodies=[b'one'], damage=None)
    """
    found = Found()
    mark, at = _mark(number), 0
    while at < len(content):
        header_end = at + _HEADER_BYTES
        if header_end > len(content) and mark.startswith(content[at : at + len(mark)]):
            break
        if not _is_header(mark, content[at:header_end]):
            found.damage = found.damage or f"no frame at byte {at:,}"
            if (at := content.find(mark, at + 1)) < 0:
                break
            continue
        length, checksum = _SIZES.unpack_from(content, at + len(mark))
        body = content[header_end : header_end + length]
        if len(body) < length:
            break
        if crc32(body) == checksum:
            found.bodies.append(body)
        else:
            found.damage = found.damage or f"wrong checksum of the frame at byte {at:,}"
        at = header_end + length
    return found


def _mark(number: int) -> bytes:
    # With the number of the journal no payload holds it by chance.
    return _MARK.pack(b"AJ\x01\n", number)


def _is_header(mark: bytes, header: bytes) -> bool:
    return (
        len(header) == _HEADER_BYTES
        and header.startswith(mark)
        and crc32(header[: -_CHECK.size]) == _CHECK.unpack(header[-_CHECK.size :])[0]
    )
