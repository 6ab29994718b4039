"""A socket that speaks WebSocket, by wsproto: what a broker sends is bounded, what it must hear is masked.

paho's own keeps a whole frame, of any length, answers a ping by a frame that brokers have to refuse,
and waits for the answer to its handshake for ever.
"""

from __future__ import annotations

import socket
import ssl
import time
from contextlib import suppress
from typing import Final, Self

from wsproto import ConnectionType, WSConnection
from wsproto.events import (
    AcceptConnection,
    BytesMessage,
    CloseConnection,
    Ping,
    RejectConnection,
    Request,
    TextMessage,
)
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import ProtocolError

_HANDSHAKE_BYTES: Final = 4096
_MOST_CALLS: Final = 64
"""So often a broker may send nothing but pings and halves of frame heads in one read."""
_MOST_UNSENT: Final = 4096
"""With so much waiting for the socket, a ping is not answered: the broker does not read anyway."""
_ORDERLY: Final = frozenset({CloseReason.NORMAL_CLOSURE, CloseReason.GOING_AWAY, CloseReason.NO_STATUS_RCVD})
_BUSY: Final = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class WebSocket:
    """Looks like the socket that it is made of, as far as paho and the session use one."""

    def __init__(self, connected: socket.socket) -> None:
        self._socket = connected
        self._protocol = WSConnection(ConnectionType.CLIENT)
        self._unsent = bytearray()
        self._taken = 0
        """How long the data are whose frame is the last of what is unsent; 0: none is."""
        self._end: CloseConnection | None = None

    @classmethod
    def open(cls, connected: socket.socket, host: str, path: str, timeout_s: float) -> Self:
        """Shake hands on a blocking socket.

        Args:
            connected: TCP or TLS, connected; it is left open when this fails.
            host: What the broker is called, with its port.
            path: Where it serves MQTT.
            timeout_s: For all of it.

        Raises:
            OSError: The broker did not agree, or not in time.
        """
        opened = cls(connected)
        opened._shake_hands(host, path, time.monotonic() + timeout_s)
        return opened

    def _shake_hands(self, host: str, path: str, deadline: float) -> None:
        request = Request(host=host, target=path, subprotocols=["mqtt"])
        is_over = False
        try:
            self._socket.sendall(self._protocol.send(request))
            while not self._is_accepted(is_over=is_over):
                self._socket.settimeout(max(deadline - time.monotonic(), 0.001))
                received = self._socket.recv(_HANDSHAKE_BYTES)
                self._protocol.receive_data(received or None)
                is_over = not received
        except TimeoutError as error:
            raise ConnectionError("WebSocket handshake error: no answer in time") from error
        except (OSError, ProtocolError, ValueError) as error:
            raise ConnectionError(f"WebSocket handshake error: {error}") from error

    def _is_accepted(self, *, is_over: bool) -> bool:
        for event in self._protocol.events():
            if isinstance(event, AcceptConnection):
                return True
            if isinstance(event, RejectConnection):
                raise ConnectionError(f"the broker answered {event.status_code}")
        if is_over:
            raise ConnectionError("closed by the broker")
        return False

    def recv(self, size: int) -> bytes:
        """Return what has arrived, without its frames; nothing at the end of the connection.

        Raises:
            BlockingIOError: Nothing is there now; over TLS, what :mod:`ssl` raises for that.
            ConnectionError: It is no WebSocket for MQTT.
        """
        for _ in range(_MOST_CALLS):
            if self._end is not None:
                if self._end.code in _ORDERLY:
                    return b""
                raise ConnectionAbortedError(f"WebSocket ended: {self._end.reason or self._end.code!r}")
            received = self._socket.recv(size)
            if not received:
                return b""
            if messages := self._unframed(received):
                return messages
        raise BlockingIOError

    def _unframed(self, received: bytes) -> bytes:
        parts = []
        try:
            self._protocol.receive_data(received)
            for event in self._protocol.events():
                if isinstance(event, BytesMessage):
                    parts.append(event.data)
                elif isinstance(event, Ping):
                    self._answer(event)
                elif isinstance(event, CloseConnection):
                    self._end = event  # also what wsproto makes of a malformed frame
                elif isinstance(event, TextMessage):
                    raise ConnectionAbortedError("a WebSocket message that is text")
        except ProtocolError as error:
            raise ConnectionAbortedError(f"a malformed WebSocket frame: {error}") from error
        return b"".join(parts)

    def _answer(self, ping: Ping) -> None:
        if len(self._unsent) < _MOST_UNSENT:
            self._unsent += self._protocol.send(ping.response())
            with suppress(*_BUSY):
                self._push()

    def send(self, data: bytes | memoryview) -> int:
        """Write ``data`` as one frame; return their length once all of it is written.

        Until then it returns 0, and the same data have to be handed over again.

        Raises:
            BlockingIOError: The socket takes nothing now; over TLS, what :mod:`ssl` raises for that.
        """
        if not self._taken:
            try:
                self._unsent += self._protocol.send(BytesMessage(bytes(data)))
            except ProtocolError as error:
                raise ConnectionAbortedError("closed by the broker") from error
            self._taken = len(data)
        self._push()
        if self._unsent:
            return 0
        taken, self._taken = self._taken, 0
        return taken

    def _push(self) -> None:
        del self._unsent[: self._socket.send(self._unsent)]

    def pending(self) -> int:
        """Return how many decrypted bytes wait, which poll() does not see."""
        return self._socket.pending() if isinstance(self._socket, ssl.SSLSocket) else 0

    def fileno(self) -> int:
        """Return the descriptor of the socket."""
        return self._socket.fileno()

    def setblocking(self, flag: bool) -> None:  # noqa: FBT001 - as sockets have it
        """Have calls wait, or not."""
        self._socket.setblocking(flag)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
