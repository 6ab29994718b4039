"""A proxy between a session and a broker that cuts the connection after so many bytes.

It has no thread: the test gives it a turn between the steps of the session.
"""

from __future__ import annotations

import math
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager

UP, DOWN = "up", "down"
_LEVEL_AT = 8
"""Where the level stands in a CONNECT of less than 128 bytes."""


class CuttingProxy:
    """Passes one connection on; see :func:`cutting_proxy`.

    Attributes:
        cuts: How many connections it has cut.
    """

    def __init__(self, target: int, highest_level: int) -> None:
        self._target = target
        self._highest_level = highest_level
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._client: socket.socket | None = None
        self._broker: socket.socket | None = None
        self._left = {UP: math.inf, DOWN: math.inf}
        self.cuts = 0

    @property
    def port(self) -> int:
        return int(self._listener.getsockname()[1])

    def cut_after(self, direction: str, count: int) -> None:
        """Let ``count`` bytes pass in this direction from now on, then cut, once."""
        self._left[direction] = count

    def turn(self, timeout_s: float = 0.002) -> None:
        """Pass on what has arrived."""
        ends = [end for end in (self._listener, self._client, self._broker) if end is not None]
        ready, _, _ = select.select(ends, [], [], timeout_s)
        if self._listener in ready:
            self.close()
            self._client, _ = self._listener.accept()
        elif self._client in ready and self._broker is None:
            self._pass_connect(self._client)
        elif self._client in ready:
            self._pass(UP, self._client, self._broker)
        elif self._broker in ready:
            self._pass(DOWN, self._broker, self._client)

    def close(self) -> None:
        """Close the connection, if there is one."""
        for end in (self._client, self._broker):
            if end is not None:
                end.close()
        self._client = self._broker = None

    def close_all(self) -> None:
        self.close()
        self._listener.close()

    def _pass_connect(self, client: socket.socket) -> None:
        first = client.recv(16, socket.MSG_PEEK)
        if not first:
            self.close()
        elif first[_LEVEL_AT] > self._highest_level:
            client.sendall(b"\x20\x02\0\1")
            self.close()
        else:
            self._broker = socket.create_connection(("127.0.0.1", self._target), timeout=5)
            self._broker.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _pass(self, direction: str, source: socket.socket | None, sink: socket.socket | None) -> None:
        assert source is not None
        assert sink is not None
        try:
            received = source.recv(int(min(65_536, self._left[direction])))
            if received:
                sink.sendall(received)
        except OSError:
            received = b""
        self._left[direction] -= len(received)
        if not received:
            self.close()
        elif self._left[direction] == 0:
            self._left[direction] = math.inf
            self.cuts += 1
            self.close()


@contextmanager
def cutting_proxy(target: int, highest_level: int = 5) -> Iterator[CuttingProxy]:
    """A proxy to the broker at this port; it refuses levels that are higher."""
    proxy = CuttingProxy(target, highest_level)
    try:
        yield proxy
    finally:
        proxy.close_all()
