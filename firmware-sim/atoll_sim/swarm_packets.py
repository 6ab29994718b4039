"""The packets of MQTT 3.1.1 that a device of a swarm sends besides PUBLISH."""

from __future__ import annotations

import struct
from typing import Final

from atoll_link.packets import Level

SUBSCRIBE_MID: Final = 65_535
"""No PUBLISH has it."""

_SUBSCRIBE_HEAD: Final = 0x82


def text(written: str) -> bytes:
    """Return a string as it stands in a packet."""
    encoded = written.encode()
    return struct.pack(">H", len(encoded)) + encoded


def connect_packet(device: str, password: str | None, keepalive_s: int) -> bytes:
    """Return the CONNECT of a clean session."""
    flags = 0x02
    payload = text(f"{device}-device")
    if password is not None:
        flags |= 0xC0
        payload += text(device) + text(password)
    return _packet(0x10, text("MQTT") + struct.pack(">BBH", Level.MQTT_311, flags, keepalive_s) + payload)


def subscribe_packet(topic_filter: str) -> bytes:
    """Return the SUBSCRIBE to one filter, with QoS 1."""
    return _packet(_SUBSCRIBE_HEAD, struct.pack(">H", SUBSCRIBE_MID) + text(topic_filter) + b"\x01")


def _packet(first: int, body: bytes) -> bytes:
    length, head = len(body), bytearray((first,))
    while rest := length >> 7:
        head.append(length & 0x7F | 0x80)
        length = rest
    head.append(length)
    return bytes(head) + body
