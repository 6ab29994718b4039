"""A slow line that can be cut: a TCP proxy with a token bucket for what comes down it.

It also reads what goes up it: the topics that clients subscribe to, as they ask for them.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

_READ_BYTES = 4096
_CONNECT, _SUBSCRIBE = 1, 8
_LEVEL_AT = 6
"""Where the version of MQTT stands in CONNECT."""
_SOCKET_BYTES = 32_768


class SlowLine:
    """Runs in a thread of its own while a ``with`` block lasts.

    Args:
        target: Port of the broker on this machine.
        bytes_per_s: What all connections together carry downwards.
        on_subscribe: Called, in that thread, with each topic that a client asks for.
    """

    def __init__(
        self, target: int, bytes_per_s: float, on_subscribe: Callable[[str], None] = lambda _topic: None
    ) -> None:
        self._target = target
        self._bytes_per_s = bytes_per_s
        self._on_subscribe = on_subscribe
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="line", daemon=True)
        self._listening = threading.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self._next_s = 0.0
        self.port = 0
        self.cuts = 0
        self.bytes_down = 0

    def __enter__(self) -> Self:
        self._thread.start()
        self._listening.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def cut(self) -> None:
        """Break all connections, with what is on its way in them."""
        self._loop.call_soon_threadsafe(self._cut)

    def _cut(self) -> None:
        self.cuts += 1
        for writer in list(self._writers):
            writer.transport.abort()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        self._loop.run_forever()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            up_reader, up_writer = await asyncio.open_connection(
                "127.0.0.1", self._target, limit=_SOCKET_BYTES
            )
        except OSError:
            writer.close()
            return
        ends = {writer, up_writer}
        for end in ends:
            end.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.transport.set_write_buffer_limits(high=_SOCKET_BYTES)
        self._writers |= ends
        await asyncio.wait(
            [
                asyncio.create_task(self._pump_up(reader, up_writer)),
                asyncio.create_task(self._pump_down(up_reader, writer)),
            ],
            return_when=asyncio.FIRST_COMPLETED,
        )
        for end in ends:
            end.transport.abort()
        self._writers -= ends

    async def _pump_down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while got := await reader.read(_READ_BYTES):
                # Each piece waits for its place on the line: connections take turns.
                now = self._loop.time()
                self._next_s = max(now, self._next_s) + len(got) / self._bytes_per_s
                await asyncio.sleep(self._next_s - now)
                self.bytes_down += len(got)
                writer.write(got)
                await writer.drain()
        except OSError:
            return

    async def _pump_up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        unread, level = b"", 0
        try:
            while got := await reader.read(65_536):
                unread += got
                while (packet := _first_packet(unread)) is not None:
                    kind, body, unread = packet
                    if kind == _CONNECT:
                        level = body[_LEVEL_AT]
                    elif kind == _SUBSCRIBE:
                        for topic in _topics(body, level):
                            self._on_subscribe(topic)
                writer.write(got)
                await writer.drain()
        except OSError:
            return


def _first_packet(stream: bytes) -> tuple[int, bytes, bytes] | None:
    length = shift = 0
    for index, byte in enumerate(stream[1:5], 1):
        length |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            end = index + 1 + length
            return (stream[0] >> 4, stream[index + 1 : end], stream[end:]) if len(stream) >= end else None
    return None


def _topics(body: bytes, level: int) -> list[str]:
    """Return the filters in a SUBSCRIBE."""
    # After the packet id; with MQTT 5 there are properties, of less than 128 bytes.
    body = body[2:] if level < 5 else body[3 + body[2] :]
    found = []
    while len(body) > 2:
        size = int.from_bytes(body[:2], "big")
        found.append(body[2 : 2 + size].decode())
        body = body[3 + size :]
    return found
