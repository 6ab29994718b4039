"""The two MQTT 3.1.1 packets that carry every message, PUBLISH and PUBACK, as bytes. Pure."""

from __future__ import annotations

import struct
from typing import Final

import msgspec

PUBLISH: Final = 0x30
PUBACK: Final = 0x40
_DUP: Final = 0x08
_RETAIN: Final = 0x01
_LENGTH_BITS: Final = 28
"""A packet's length stands in four bytes at most, seven bits in each."""
_MID: Final = struct.Struct(">H")


class Publish(msgspec.Struct, gc=False):
    """A PUBLISH that arrived; ``mid`` is 0 for QoS 0."""

    topic: str
    payload: bytes
    qos: int
    mid: int
    is_duplicate: bool
    is_retained: bool


def pack_publish(
    topic: str, payload: bytes, *, mid: int = 0, retain: bool = False, dup: bool = False
) -> bytes:
    """Return a PUBLISH: QoS 1 with a packet id, QoS 0 without.

    >>> pack_publish("a/b", b"hi", mid=7).hex(" ")
    '32 09 00 03 61 2f 62 00 07 68 69'
    """
    name = topic.encode()
    first = PUBLISH | (0x02 if mid else 0) | (_RETAIN if retain else 0) | (_DUP if dup else 0)
    length = 2 + len(name) + (2 if mid else 0) + len(payload)
    head = bytearray((first,))
    while rest := length >> 7:
        head.append(length & 0x7F | 0x80)
        length = rest
    head.append(length)
    return b"".join((head, _MID.pack(len(name)), name, _MID.pack(mid) if mid else b"", payload))


def unpack_publish(first: int, body: bytes) -> Publish:
    """Return the PUBLISH of this first byte and body.

    Raises:
        ValueError: It is none, or of a QoS that was not asked for. A topic that is not UTF-8 is no
            fault: it arrives empty, so that it can be refused and acknowledged.
    """
    qos = first >> 1 & 3
    topic_end = 2 + int.from_bytes(body[:2], "big")
    payload_start = topic_end + (2 if qos else 0)
    if qos > 1 or payload_start > len(body) or len(body) < 2:  # noqa: PLR2004 - the topic's length
        raise ValueError("a PUBLISH that is cut short or of QoS 2")
    try:
        topic = body[2:topic_end].decode()
    except UnicodeDecodeError:
        topic = ""
    mid = int.from_bytes(body[topic_end:payload_start], "big")
    return Publish(topic, body[payload_start:], qos, mid, bool(first & _DUP), bool(first & _RETAIN))


def pack_puback(mid: int) -> bytes:
    """Return the acknowledgement of the message with this packet id."""
    return b"\x40\x02" + _MID.pack(mid)


def unpack_puback(body: bytes) -> int:
    """Return the packet id that is acknowledged.

    Raises:
        ValueError: It is no PUBACK.
    """
    if len(body) != _MID.size:
        raise ValueError("a PUBACK of the wrong length")
    return int.from_bytes(body, "big")


class PacketBuffer:
    r"""Bytes in as they come, packets out when they are complete.

    >>> buffer = PacketBuffer(max_packet_bytes=1024)
    >>> buffer.feed(bytes.fromhex("d000 4002"))
    >>> buffer.take(), buffer.take()
    ((208, b''), None)
    >>> buffer.feed(bytes.fromhex("0007"))
    >>> buffer.take()
    (64, b'\x00\x07')
    """

    def __init__(self, max_packet_bytes: int) -> None:
        self._max_packet_bytes = max_packet_bytes
        self._bytes = bytearray()
        self._start = 0
        self._skip = 0

    def clear(self) -> None:
        """Forget everything."""
        self._bytes = bytearray()
        self._start = self._skip = 0

    def feed(self, received: bytes) -> None:
        """Append what was received."""
        if self._skip:
            skipped = min(self._skip, len(received))
            self._skip -= skipped
            received = received[skipped:]
        del self._bytes[: self._start]
        self._start = 0
        self._bytes += received

    def take(self) -> tuple[int, bytes] | None:
        """Return the next packet's first byte and its body, or None when none is complete.

        A body that is too long is cut at ``max_packet_bytes``.

        Raises:
            ValueError: The length is not one of MQTT's; nothing after it can be understood.
        """
        held = self._bytes
        length = shift = 0
        position = self._start
        while True:
            position += 1
            if position >= len(held):
                return None
            byte = held[position]
            length |= (byte & 0x7F) << shift
            if not byte & 0x80:
                break
            shift += 7
            if shift == _LENGTH_BITS:
                raise ValueError("the length of a packet has more than four bytes")
        body_start = position + 1
        body_end = body_start + min(length, self._max_packet_bytes)
        if len(held) < body_end:
            return None
        with memoryview(held) as view:
            packet = view[self._start], bytes(view[body_start:body_end])
        # Of what is beyond a cut, part may be here, and the rest is still to come.
        beyond = body_start + length - body_end
        here = min(beyond, len(held) - body_end)
        self._skip = beyond - here
        self._start = body_end + here
        return packet
