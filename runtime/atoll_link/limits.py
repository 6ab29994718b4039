"""What MQTT can carry, checked before a message is kept, and what a broker takes, checked before it leaves.

A broker that is sent anything else ends the connection, and a kept message would be sent again at
each connect, for ever.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

_MAX_TEXT_BYTES: Final = 65_535
_MAX_PAYLOAD_BYTES: Final = 268_435_455 - 65_540
"""The longest packet, less the longest topic."""
_AROUND_BYTES: Final = 10
"""What else is in a PUBLISH, at the most: type, length of the packet and of the topic, id, no properties."""


@dataclass(frozen=True, slots=True)
class BrokerLimits:
    """What the broker takes on a connection; with MQTT 3.1.1 it does not tell.

    Attributes:
        max_inflight: QoS 1 messages that it has not acknowledged: its Receive Maximum.
        max_packet_bytes: The longest packet.
        takes_qos_1: Whether its Maximum QoS is not 0.
        retains: Whether it keeps retained messages.
    """

    max_inflight: int = 65_535
    max_packet_bytes: int = 268_435_460
    takes_qos_1: bool = True
    retains: bool = True

    def most_payload_bytes(self, topic: str) -> int:
        """Return the longest payload that it takes on ``topic``, by QoS 1.

        >>> BrokerLimits(max_packet_bytes=20_000).most_payload_bytes("a/b")
        19987
        """
        return max(0, min(self.max_packet_bytes - _AROUND_BYTES - len(topic.encode()), _MAX_PAYLOAD_BYTES))

    def refusal(self, packet_bytes: int, *, qos: int, retain: bool) -> str | None:
        """Return, in words, why it does not take such a PUBLISH; None: it does."""
        if packet_bytes > self.max_packet_bytes:
            return f"{packet_bytes} bytes are more than the {self.max_packet_bytes} that the broker takes"
        if retain and not self.retains:
            return "the broker retains nothing"
        if qos and not self.takes_qos_1:
            return "the broker takes QoS 0 only"
        return None


def require_qos(qos: int) -> None:
    """Refuse, by a ValueError, another quality of service than 0 and 1."""
    if qos not in {0, 1}:
        raise ValueError(f"QoS {qos}: a session carries 0 and 1")


def require_topic(topic: str) -> None:
    """Refuse, by a ValueError, a topic that cannot be published to."""
    _require_text(topic, "topic")
    if "+" in topic or "#" in topic:
        raise ValueError(f"topic {topic[:80]!r} holds a wildcard")


def require_payload(payload: bytes) -> None:
    """Refuse, by a ValueError, a payload that cannot be published."""
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
