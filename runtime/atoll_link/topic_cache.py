"""Topics between text and the bytes in a packet, remembered: most messages carry one seen before."""

from __future__ import annotations

from typing import Final

from atoll_link.limits import require_topic

_MOST: Final = 8192
_LONGEST: Final = 256
"""A longer topic is not remembered, which bounds the memory, too."""


class EncodedTopics(dict[str, bytes]):
    r"""By topic: its bytes with their length in front, as a packet carries them.

    Looking one up raises ValueError when it cannot be published to.

    >>> EncodedTopics()["a/b"]
    b'\x00\x03a/b'
    """

    def __missing__(self, topic: str) -> bytes:
        """Check and encode a topic."""
        require_topic(topic)
        name = topic.encode()
        encoded = len(name).to_bytes(2, "big") + name
        if len(name) <= _LONGEST:
            if len(self) >= _MOST:
                self.clear()
            self[topic] = encoded
        return encoded


class DecodedTopics(dict[bytes, str]):
    """By the bytes of a topic, without their length: its text, empty when they are no UTF-8."""

    def __missing__(self, name: bytes) -> str:
        """Decode a topic."""
        try:
            topic = name.decode()
        except UnicodeDecodeError:
            topic = ""
        if len(name) <= _LONGEST:
            if len(self) >= _MOST:
                self.clear()
            self[name] = topic
        return topic
