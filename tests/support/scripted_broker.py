"""A broker that does what the test says, byte by byte: the other end of one TCP connection.

It speaks MQTT 5, or 3.1.1 only. It has no thread: the kernel accepts the connection while the session
steps, and the test takes its end when it likes.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from atoll_link.session import Session

CONNECT, CONNACK, PUBLISH, PUBACK = 0x10, 0x20, 0x30, 0x40
SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK = 0x80, 0x90, 0xA0, 0xB0
PINGREQ, PINGRESP, DISCONNECT, AUTH = 0xC0, 0xD0, 0xE0, 0xF0


@dataclass(frozen=True)
class Packet:
    """A packet from the client, in the version of MQTT that it speaks."""

    first: int
    body: bytes
    level: int

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
        """Payload of a PUBLISH, which has no properties."""
        start = 2 + int.from_bytes(self.body[:2], "big") + (2 if self.first & 6 else 0)
        if self.level == 5:
            assert self.body[start] == 0
            start += 1
        return self.body[start:]

    @property
    def dup(self) -> bool:
        return bool(self.first & 8)


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

    def __init__(self, level: int, receive_buffer: int | None) -> None:
        self._listener = socket.socket()
        if receive_buffer is not None:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(64)
        self._listener.settimeout(5)
        self._peer: socket.socket | None = None
        self._held = bytearray()
        self._highest_level = level
        self.level = level
        """What the present client speaks."""
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

    def accept_session(
        self,
        session: Session | None = None,
        *,
        session_present: bool = False,
        code: int = 0,
        properties: bytes = b"",
    ) -> Packet:
        """Take the next connection, read its CONNECT and answer it.

        Given a session, step it so that it connects; again when it had to hear that this broker does
        not speak MQTT 5. ``properties`` are those of CONNACK.
        """
        connect = self.read_connect(session)
        self.send(self.connack(session_present=session_present, code=code, properties=properties))
        return connect

    def read_connect(self, session: Session | None = None) -> Packet:
        """Do the same without the answer."""
        if session is not None:
            self._step_until_readable(session, self._listener)
        self.accept()
        if session is not None and self._peer is not None:
            self._step_until_readable(session, self._peer)  # the kernel accepts before the session knows
        connect = self.read()
        assert connect.kind == CONNECT
        if connect.body[6] <= self._highest_level:
            self.level = connect.body[6]
            return connect
        assert session is not None
        self.send(packet(CONNACK, b"\0\1"))
        self.hang_up()
        return self.read_connect(session)

    def connack(self, *, session_present: bool = False, code: int = 0, properties: bytes = b"") -> bytes:
        """Bytes of a CONNACK."""
        return packet(CONNACK, bytes((session_present, code)) + self._properties(properties))

    def publish(self, topic: bytes, payload: bytes, mid: int = 0, flags: int = 0) -> bytes:
        """Bytes of a PUBLISH; QoS 1 with a packet id."""
        name = len(topic).to_bytes(2, "big") + topic + (mid.to_bytes(2, "big") if mid else b"")
        return packet(PUBLISH | flags | (2 if mid else 0), name + self._properties() + payload)

    def puback(self, *mids: int) -> bytes:
        """Bytes of PUBACKs."""
        return b"".join(packet(PUBACK, mid.to_bytes(2, "big")) for mid in mids)

    def suback(self, request: Packet, *codes: int) -> bytes:
        """Bytes of the answer to a SUBSCRIBE."""
        return packet(SUBACK, request.body[:2] + self._properties() + bytes(codes))

    def unsuback(self, request: Packet, count: int = 1) -> bytes:
        """Bytes of the answer to an UNSUBSCRIBE."""
        codes = bytes(count) if self.level == 5 else b""
        return packet(UNSUBACK, request.body[:2] + self._properties() + codes)

    def _properties(self, properties: bytes = b"") -> bytes:
        return bytes((len(properties),)) + properties if self.level == 5 else b""

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

    def read_until_the_end(self) -> list[Packet]:
        """Return the packets up to the hang-up of the client."""
        assert self._peer is not None
        while received := self._peer.recv(1 << 20):
            self._held += received
        found = []
        while (one := self._parse()) is not None:
            found.append(one)
        return found

    def read_a_little(self) -> None:
        """Take some bytes off the socket, and look at none of them."""
        assert self._peer is not None
        self._peer.setblocking(False)
        try:
            self._peer.recv(65_536)
        except BlockingIOError:
            pass
        finally:
            self._peer.settimeout(5)

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

    def wait_for_hang_up_of(self, session: Session) -> None:
        """Step ``session`` until it has closed the connection."""
        assert self._peer is not None
        self._step_until_readable(session, self._peer)
        self.wait_for_hang_up()

    def _step_until_readable(self, session: Session, sock: socket.socket) -> None:
        deadline = time.monotonic() + 5
        while not select.select([sock], [], [], 0)[0]:
            assert time.monotonic() < deadline
            session.step(0.1)

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
                found = Packet(self._held[0], bytes(self._held[position + 1 : end]), self.level)
                del self._held[:end]
                return found
        return None


@contextmanager
def scripted_broker(level: int = 5, receive_buffer: int | None = None) -> Iterator[ScriptedBroker]:
    """A scripted broker that is closed at the end."""
    broker = ScriptedBroker(level, receive_buffer)
    try:
        yield broker
    finally:
        broker.close()
