"""Packets on their way to the socket. Pure."""

from __future__ import annotations

from typing import Final

_MOST_BYTES: Final = 262_144
"""About so many are handed to the socket at once."""


class Outbox:
    """First in, first out; it knows the numbers of QoS 0 messages, which end when they are written.

    >>> outbox = Outbox()
    >>> outbox.put(b"abc", number=1)
    >>> outbox.put(b"def")
    >>> outbox.head()
    b'abcdef'
    >>> outbox.drop(4)
    [1]
    >>> bytes(outbox.head())
    b'ef'

    Attributes:
        size: How many bytes wait.
    """

    def __init__(self) -> None:
        self.size = 0
        self._packets: list[bytes | memoryview] = []
        self._numbers: list[int] = []
        """One for each packet; 0: none."""

    def put(self, packet: bytes, number: int = 0) -> None:
        """Append a packet; ``number`` is returned by :meth:`drop` once all of it is written."""
        self._packets.append(packet)
        self._numbers.append(number)
        self.size += len(packet)

    def head(self) -> bytes | memoryview:
        """Return what is to be written next, or some of it; always the same until it is dropped."""
        if self.size <= _MOST_BYTES:
            return b"".join(self._packets)
        size = count = 0
        for packet in self._packets:
            size += len(packet)
            if size > _MOST_BYTES:
                break
            count += 1
        if count == 0:
            return memoryview(self._packets[0])[:_MOST_BYTES]
        return b"".join(self._packets[:count])

    def drop(self, size: int) -> list[int]:
        """Forget the first ``size`` bytes, which are written; return the numbers that ended with them."""
        self.size -= size
        if not self.size:
            numbers = self._numbers
            self._packets = []
            self._numbers = []
        else:
            count = 0
            while size >= len(self._packets[count]):
                size -= len(self._packets[count])
                count += 1
            numbers = self._numbers[:count]
            del self._packets[:count], self._numbers[:count]
            if size:
                self._packets[0] = memoryview(self._packets[0])[size:]
        return [number for number in numbers if number]
