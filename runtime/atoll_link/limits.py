"""What MQTT can carry: checked before a message is kept.

A broker that is sent anything else ends the connection, and a kept message would be sent again at
each connect, for ever.
"""

from __future__ import annotations

from typing import Final

_MAX_TEXT_BYTES: Final = 65_535
_MAX_PAYLOAD_BYTES: Final = 268_435_455 - 65_540
"""The longest packet, less the longest topic."""


def require_qos(qos: int) -> None:
    """Refuse, by a ValueError, another quality of service than 0 and 1."""
    if qos not in {0, 1}:
        raise ValueError(f"QoS {qos}: a session carries 0 and 1")


def require_publishable(topic: str, payload: bytes) -> None:
    """Refuse, by a ValueError, a topic or payload that cannot be published."""
    _require_text(topic, "topic")
    if "+" in topic or "#" in topic:
        raise ValueError(f"topic {topic[:80]!r} holds a wildcard")
    if len(payload) > _MAX_PAYLOAD_BYTES:
        raise ValueError(f"a payload of {len(payload)} bytes is more than MQTT can carry")


def require_filter(topic_filter: str) -> None:
    """Refuse, by a ValueError, what cannot be subscribed to.

    >>> require_filter("plant-a/+/vib/#")
    >>> require_filter("plant-a/#/vib")
    Traceback (most recent call last):
    ValueError: filter 'plant-a/#/vib' holds a wildcard in a wrong place
    """
    _require_text(topic_filter, "filter")
    levels = topic_filter.split("/")
    if any(("+" in level or "#" in level) and len(level) > 1 for level in levels) or "#" in levels[:-1]:
        raise ValueError(f"filter {topic_filter[:80]!r} holds a wildcard in a wrong place")


def _require_text(text: str, what: str) -> None:
    if not 1 <= len(text.encode("utf-8")) <= _MAX_TEXT_BYTES or "\0" in text:
        raise ValueError(f"{what} {text[:80]!r} is not 1 to {_MAX_TEXT_BYTES} bytes of UTF-8 without NUL")
