"""What a WebSocket makes of a peer that does what the test says."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest
from wsproto import ConnectionType, WSConnection
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Ping, Pong, Request, TextMessage

from atoll_link.websocket import WebSocket


class Server:
    """The other end, once hands are shaken."""

    def __init__(self, end: socket.socket) -> None:
        self.end = end
        self.protocol = WSConnection(ConnectionType.SERVER)

    def shake_hands(self) -> None:
        self.protocol.receive_data(self.end.recv(4096))
        [request] = self.protocol.events()
        assert isinstance(request, Request)
        assert request.subprotocols == ["mqtt"]
        self.end.sendall(self.protocol.send(AcceptConnection(subprotocol="mqtt")))

    def hear(self) -> list[object]:
        """What came; wsproto refuses frames that are not masked."""
        self.protocol.receive_data(self.end.recv(1 << 20))
        return list(self.protocol.events())


@pytest.fixture
def ends() -> Iterator[tuple[WebSocket, Server]]:
    ours, theirs = socket.socketpair()
    theirs.settimeout(5)
    server = Server(theirs)
    shaking = threading.Thread(target=server.shake_hands)
    shaking.start()
    opened = WebSocket.open(ours, "broker:80", "/mqtt", 5.0)
    shaking.join(5)
    opened.setblocking(False)
    yield opened, server
    ours.close()
    theirs.close()


def test_a_frame_of_any_length_is_passed_on_as_it_comes(ends: tuple[WebSocket, Server]) -> None:
    opened, server = ends
    server.end.sendall(bytes((0x82, 127)) + (1 << 40).to_bytes(8, "big"))
    piece = os.urandom(50_000)
    for _ in range(100):
        server.end.sendall(piece)
        received = b""
        while len(received) < len(piece):
            received += opened.recv(65_536)
        assert received == piece


def test_a_ping_is_answered_by_a_masked_pong(ends: tuple[WebSocket, Server]) -> None:
    opened, server = ends
    server.end.sendall(server.protocol.send(Ping(b"there?")))
    with pytest.raises(BlockingIOError):
        opened.recv(65_536)

    assert server.hear() == [Pong(b"there?")]


def test_a_pong_waits_for_the_frame_that_is_being_written(ends: tuple[WebSocket, Server]) -> None:
    opened, server = ends
    data, heard = os.urandom(3_000_000), []
    assert opened.send(data) == 0
    server.end.sendall(server.protocol.send(Ping(b"there?")) * 100)
    sent, deadline = 0, time.monotonic() + 10
    while not sent and time.monotonic() < deadline:
        heard += server.hear()
        with suppress(BlockingIOError):
            opened.recv(65_536)
        sent = opened.send(data)
    assert sent == len(data)
    while sum(len(one.data) for one in heard if isinstance(one, BytesMessage)) < len(data):
        heard += server.hear()

    assert b"".join(one.data for one in heard if isinstance(one, BytesMessage)) == data


def test_pieces_of_frames_with_pings_between_them_are_one_stream(ends: tuple[WebSocket, Server]) -> None:
    opened, server = ends
    send = server.protocol.send
    frames = send(BytesMessage(b"abc", message_finished=False)) + send(Ping()) + send(BytesMessage(b"def"))
    received = b""
    for position in range(len(frames)):  # byte by byte
        server.end.sendall(frames[position : position + 1])
        try:
            received += opened.recv(65_536)
        except BlockingIOError:
            continue

    assert received == b"abcdef"


def test_the_end_is_told_after_what_came_before_it(ends: tuple[WebSocket, Server]) -> None:
    opened, server = ends
    server.end.sendall(
        server.protocol.send(BytesMessage(b"last")) + server.protocol.send(CloseConnection(1000))
    )

    assert opened.recv(65_536) == b"last"
    assert opened.recv(65_536) == b""
    with pytest.raises(ConnectionError):
        opened.send(b"x")


@pytest.mark.parametrize("rubbish", ["text", "masked", "unknown opcode"])
def test_what_is_no_mqtt_over_websocket_ends_the_connection(
    ends: tuple[WebSocket, Server], rubbish: str
) -> None:
    opened, server = ends
    frames = {
        "text": server.protocol.send(TextMessage("hello")),
        "masked": bytes.fromhex("8281 00000000 00"),
        "unknown opcode": bytes.fromhex("8300"),
    }
    server.end.sendall(frames[rubbish])

    with pytest.raises(ConnectionError):
        opened.recv(65_536)


@pytest.mark.parametrize("drops", [b"x", b"HTTP/1.1 101 Switching Protocols\r\n" + b"a: b\r\n" * 4000])
def test_a_handshake_that_never_ends_is_given_up(drops: bytes) -> None:
    ours, theirs = socket.socketpair()
    ended = threading.Event()

    def drip() -> None:
        try:
            for _ in range(1200):
                theirs.sendall(drops)
                if ended.wait(0.05):
                    return
        except OSError:
            return

    dripping = threading.Thread(target=drip)
    dripping.start()
    started = time.monotonic()
    with pytest.raises(ConnectionError, match="WebSocket handshake error"):
        WebSocket.open(ours, "broker:80", "/mqtt", 0.5)
    took_s = time.monotonic() - started
    ours.close()
    ended.set()
    dripping.join(5)
    theirs.close()

    assert took_s < 30
