"""The two MQTT packets that carry every message, PUBLISH and PUBACK, as bytes. Pure."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Final

from atoll_link.events import Delivery
from atoll_link.topic_cache import DecodedTopics

CONNACK: Final = 0x20
PUBLISH: Final = 0x30
PUBACK: Final = 0x40
REFUSED: Final = 0x80
"""Reason codes from here on are refusals."""
_DUP: Final = 0x08
_QOS_1: Final = 0x02
_RETAIN: Final = 0x01
_LENGTH_BYTES: Final = 4
"""A packet's length stands in four bytes at most, seven bits in each, the lowest first."""
_ONE_BYTE: Final = 0x7F
"""The longest length that stands in one byte: in a longer one the highest bit tells that more follow."""
_TWO_BYTES: Final = 0x3FFF
_MID: Final = struct.Struct(">H")
_PUBACK: Final = struct.Struct(">HH")
_PUBACK_HEAD: Final = 0x4002


class Level(IntEnum):
    """Protocol level: the version of MQTT that a connection speaks."""

    MQTT_311 = 4
    MQTT_5 = 5


NO_PROPERTIES: Final = {Level.MQTT_311: b"", Level.MQTT_5: b"\0"}
"""What stands before the payload of a PUBLISH without properties."""


def pack_publish(
    topic: bytes, payload: bytes, properties: bytes, mid: int = 0, *, retain: bool = False, dup: bool = False
) -> bytes:
    r"""Return a PUBLISH: QoS 1 with a packet id, QoS 0 without.

    Args:
        topic: With its length.
        payload: What it carries.
        properties: One of :data:`NO_PROPERTIES`.
        mid: The packet id; 0: none.
        retain: The RETAIN flag.
        dup: The DUP flag.

    >>> pack_publish(b"\0\3a/b", b"hi", b"", mid=7).hex(" ")
    '32 09 00 03 61 2f 62 00 07 68 69'
    """
    first = PUBLISH
    if retain:
        first |= _RETAIN
    if dup:
        first |= _DUP
    if mid:
        first |= _QOS_1
        middle = _MID.pack(mid)
    else:
        middle = b""
    length = len(topic) + len(middle) + len(properties) + len(payload)
    if length <= _ONE_BYTE:
        head = bytes((first, length))
    elif length <= _TWO_BYTES:
        head = bytes((first, length & _ONE_BYTE | 0x80, length >> 7))
    else:
        head = _long_head(first, length)
    return b"".join((head, topic, middle, properties, payload))


def _long_head(first: int, length: int) -> bytes:
    head = bytearray((first,))
    while rest := length >> 7:
        head.append(length & 0x7F | 0x80)
        length = rest
    head.append(length)
    return bytes(head)


def pack_puback(mid: int) -> bytes:
    """Return the acknowledgement of the message with this packet id."""
    return _PUBACK.pack(_PUBACK_HEAD, mid)


def unpack_puback(body: bytes, level: Level) -> tuple[int, int]:
    """Return the packet id that is acknowledged, and the reason code: from 0x80 on it is a refusal.

    Raises:
        ValueError: It is no PUBACK.
    """
    if len(body) == _MID.size:
        return body[0] << 8 | body[1], 0
    if len(body) < _MID.size or level < Level.MQTT_5:
        raise ValueError("a PUBACK of the wrong length")
    return body[0] << 8 | body[1], body[2]


class PublishReader:
    """Makes deliveries of the PUBLISH packets of one connection.

    Args:
        connection: Its number.
        level: What it speaks.
        max_packet_bytes: Where longer packets were cut off.
    """

    def __init__(self, connection: int, level: Level, max_packet_bytes: int) -> None:
        self._connection = connection
        self._has_properties = level >= Level.MQTT_5
        self._max_packet_bytes = max_packet_bytes
        self._topics = DecodedTopics()
        self._arrival_ms = 0.0
        self._arrival_ns = 0

    def arrive(self, arrival_ms: float, arrival_ns: int) -> None:
        """Set the time of arrival of the packets that follow."""
        self._arrival_ms = arrival_ms
        self._arrival_ns = arrival_ns

    def read(self, first: int, body: bytes) -> Delivery:
        """Return the PUBLISH of this first byte and body as a delivery.

        Raises:
            ValueError: It is none, or of a QoS that was not asked for.
        """
        qos = first >> 1 & 3
        mid = 0
        try:
            start = 2 + (body[0] << 8 | body[1])
            topic = self._topics[body[2:start]]
            if qos:
                mid = body[start] << 8 | body[start + 1]
                start += 2
            if self._has_properties:
                properties = body[start]
                start += 1
                if properties:
                    properties, start = _variable_length(body, start - 1)
                    start += properties
        except IndexError:
            raise ValueError("a PUBLISH that is cut short") from None
        if qos > 1 or (start > len(body) and len(body) < self._max_packet_bytes):
            raise ValueError("a PUBLISH that is cut short or of QoS 2")
        return Delivery(
            topic,
            body[start:],
            qos,
            mid,
            first & _DUP != 0,
            first & _RETAIN != 0,
            self._connection,
            self._arrival_ms,
            self._arrival_ns,
        )


class PacketBuffer:
    r"""Bytes in as they come, packets out when they are complete.

    >>> buffer = PacketBuffer(max_packet_bytes=1024)
    >>> list(buffer.feed(bytes.fromhex("d000 4002")))
    [(208, b'')]
    >>> list(buffer.feed(bytes.fromhex("0007")))
    [(64, b'\x00\x07')]
    """

    def __init__(self, max_packet_bytes: int) -> None:
        self._max_packet_bytes = max_packet_bytes
        self._parts: list[bytes] = []
        self._held = 0
        self._needed = 0
        """With so many bytes there is something to look at; until then parts are not joined."""
        self._skip = 0

    @property
    def is_amid(self) -> bool:
        """Whether the last packet is incomplete."""
        return bool(self._parts or self._skip)

    def feed(self, received: bytes) -> Iterator[tuple[int, bytes]]:
        """Yield first byte and body of each packet that is complete with ``received``, up to the last.

        A body that is too long is cut at ``max_packet_bytes``. What is not iterated over is lost.

        Raises:
            ValueError: The length is not one of MQTT's; nothing after it can be understood.
        """
        if self._skip:
            skipped = min(self._skip, len(received))
            self._skip -= skipped
            received = received[skipped:]
            if not received:
                return
        if self._parts:
            self._parts.append(received)
            self._held += len(received)
            if self._held < self._needed:
                return
            received = b"".join(self._parts)
            self._parts.clear()
        position, end, most = 0, len(received), self._max_packet_bytes
        while end - position >= 2:  # noqa: PLR2004 - the shortest packet
            length = received[position + 1]
            start = position + 2
            if length > _ONE_BYTE:
                if start < end and (second := received[start]) <= _ONE_BYTE:  # most readings are so long
                    length = length & _ONE_BYTE | second << 7
                    start += 1
                else:
                    length, start = _variable_length(received, position + 1)
            stop = start + (length if length < most else most)  # noqa: FURB136 - min() costs more
            if stop > end:
                break
            yield received[position], received[start:stop]
            position = start + length
        if position < end:
            self._keep(received[position:])
        else:
            self._skip = position - end

    def _keep(self, rest: bytes) -> None:
        length, start = _variable_length(rest, 1)
        self._parts.append(rest)
        self._held = len(rest)
        self._needed = start + min(length, self._max_packet_bytes)


def _variable_length(packets: bytes, position: int) -> tuple[int, int]:
    """Return the length that is spelt at ``position`` and where it ends.

    While it is incomplete, its end is beyond what is there.

    Raises:
        ValueError: It is not one of MQTT's.
    """
    length = 0
    for number in range(_LENGTH_BYTES):
        at = position + number
        if at >= len(packets):
            return 0, at + 1
        length |= (packets[at] & _ONE_BYTE) << 7 * number
        if packets[at] <= _ONE_BYTE:
            return length, at + 1
    raise ValueError("a length that has more than four bytes")
