"""A broker that does what the test says, byte by byte: the other end of one TCP connection.

It has no thread: the kernel accepts the connection while the session steps, and the test takes its
end when it likes.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

CONNECT, CONNACK, PUBLISH, PUBACK = 0x10, 0x20, 0x30, 0x40
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK = 0x80, 0x90, 0xA0, 0xB0
PINGREQ, PINGRESP, DISCONNECT = 0xC0, 0xD0, 0xE0


@dataclass(frozen=True)
class Packet:
    """A packet from the client."""

    first: int
    body: bytes

    @property
    def kind(self) -> int:
        return self.first & 0xF0

    @property
    def mid(self) -> int:
        """Packet id, of everything but PUBLISH with QoS 0 and CONNECT."""
        start = 2 + int.from_bytes(self.body[:2], "big") if self.kind == PUBLISH else 0
        return int.from_bytes(self.body[start : start + 2], "big")

    @property
    def payload(self) -> bytes:
        """Payload of a PUBLISH."""
        start = 2 + int.from_bytes(self.body[:2], "big")
        return self.body[start + (2 if self.first & 6 else 0) :]

    @property
    def dup(self) -> bool:
        return bool(self.first & 8)


def publish(topic: bytes, payload: bytes, mid: int = 0, flags: int = 0) -> bytes:
    """Bytes of a PUBLISH; QoS 1 with a packet id."""
    body = len(topic).to_bytes(2, "big") + topic + (mid.to_bytes(2, "big") if mid else b"") + payload
    return packet(PUBLISH | flags | (2 if mid else 0), body)


def packet(first: int, body: bytes) -> bytes:
    """Bytes of any packet."""
    length = b""
    rest = len(body)
    while True:
        rest, low = divmod(rest, 128)
        length += bytes((low | (0x80 if rest else 0),))
        if not rest:
            return bytes((first,)) + length + body


class ScriptedBroker:
    """Listens on a loopback port; see :func:`scripted_broker`."""

    def __init__(self, receive_buffer: int | None = None) -> None:
        self._listener = socket.socket()
        if receive_buffer is not None:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(64)
        self._listener.settimeout(5)
        self._peer: socket.socket | None = None
        self._held = bytearray()
        self.accepted = 0

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def accept(self) -> None:
        """Take the next connection; the one before is closed."""
        self.hang_up()
        self._peer, _ = self._listener.accept()
        self._peer.settimeout(5)
        self._held = bytearray()
        self.accepted += 1

    def accept_session(self, *, session_present: bool = False, code: int = 0) -> Packet:
        """Take the next connection, read its CONNECT and answer it."""
        self.accept()
        connect = self.read()
        assert connect.kind == CONNECT
        self.send(packet(CONNACK, bytes((session_present, code))))
        return connect

    def hang_up(self) -> None:
        """Close the connection."""
        if self._peer is not None:
            self._peer.close()
            self._peer = None

    def send(self, data: bytes) -> None:
        assert self._peer is not None
        self._peer.sendall(data)

    def read(self) -> Packet:
        """Return the next packet; fail when none comes within 5 s or the client has hung up."""
        while (found := self._parse()) is None:
            assert self._peer is not None
            received = self._peer.recv(1 << 20)
            assert received, "the client hung up"
            self._held += received
        return found

    def read_available(self) -> list[Packet]:
        """Return the packets that have arrived by now."""
        assert self._peer is not None
        self._peer.setblocking(False)
        try:
            while received := self._peer.recv(1 << 20):
                self._held += received
        except BlockingIOError:
            pass
        finally:
            self._peer.settimeout(5)
        found = []
        while (one := self._parse()) is not None:
            found.append(one)
        return found

    def wait_for_hang_up(self, timeout_s: float = 5.0, *, may_reset: bool = True) -> None:
        """Return once the client has closed the connection."""
        assert self._peer is not None
        deadline = time.monotonic() + timeout_s
        self._peer.settimeout(timeout_s)
        try:
            while self._peer.recv(1 << 20):
                assert time.monotonic() < deadline
        except ConnectionResetError:
            assert may_reset, "the client reset the connection"

    def close(self) -> None:
        self.hang_up()
        self._listener.close()

    def _parse(self) -> Packet | None:
        length = 0
        for position in range(1, min(5, len(self._held))):
            length |= (self._held[position] & 0x7F) << (7 * (position - 1))
            if self._held[position] < 0x80:
                end = position + 1 + length
                if len(self._held) < end:
                    return None
                found = Packet(self._held[0], bytes(self._held[position + 1 : end]))
                del self._held[:end]
                return found
        return None


@contextmanager
def scripted_broker(receive_buffer: int | None = None) -> Iterator[ScriptedBroker]:
    """A scripted broker that is closed at the end."""
    broker = ScriptedBroker(receive_buffer)
    try:
        yield broker
    finally:
        broker.close()
