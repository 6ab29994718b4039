"""A line with faults on demand: a TCP proxy that delays, holds, cuts, or answers nobody.

Half-open is a line that takes what it is given and passes nothing on, in one direction or in both, while
both ends still believe in it. A slow reader is one that takes nothing: what is sent to it piles up.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from typing import Self

_READ_BYTES = 65_536
_SOCKET_BYTES = 65_536


class FaultyLine:
    """Runs in a thread of its own while a ``with`` block lasts; the attributes may be set from others.

    Args:
        target: Where it leads.
        host: The address that it listens on.

    Attributes:
        delay_s: How long each piece takes, either way.
        swallows: Whether it is half-open: what comes is taken and passed to nobody.
        swallows_up: Whether it is so towards the target only.
        stalls: Whether it takes nothing from the target.
        refuses: Whether new connections are ended at once.
    """

    def __init__(self, target: tuple[str, int], host: str = "127.0.0.1") -> None:
        self._target = target
        self._host = host
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="faulty-line", daemon=True)
        self._listening = threading.Event()
        self._writers: set[asyncio.StreamWriter] = set()
        self.delay_s = 0.0
        self.swallows = self.swallows_up = self.stalls = self.refuses = False
        self.port = 0
        self.cuts = self.swallowed_bytes = 0

    def __enter__(self) -> Self:
        self._thread.start()
        if not self._listening.wait(20):
            raise TimeoutError("the line does not listen")
        return self

    def __exit__(self, *_exception: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def cut(self) -> None:
        """Break all connections, with what is on its way in them."""
        self._loop.call_soon_threadsafe(self._cut)

    def heal(self) -> None:
        """End all faults; what was half-open is broken."""
        was_open = self.swallows or self.swallows_up
        self.delay_s = 0.0
        self.swallows = self.swallows_up = self.stalls = self.refuses = False
        if was_open:
            self.cut()

    def _cut(self) -> None:
        self.cuts += 1
        for writer in list(self._writers):
            writer.transport.abort()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(
            asyncio.start_server(self._serve, self._host, self.port, limit=_SOCKET_BYTES)
        )
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        self._loop.run_forever()
        server.close()
        self._cut()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if self.refuses:
                raise ConnectionRefusedError
            up_reader, up_writer = await asyncio.open_connection(*self._target, limit=_SOCKET_BYTES)
        except OSError:
            writer.transport.abort()
            return
        ends = {writer, up_writer}
        for end in ends:
            end.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.transport.set_write_buffer_limits(high=_SOCKET_BYTES)
        self._writers |= ends
        pumps = [
            asyncio.create_task(self._pump(reader, up_writer, is_up=True)),
            asyncio.create_task(self._pump(up_reader, writer, is_up=False)),
        ]
        await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.transport.abort()
        for pump in pumps:
            pump.cancel()
        self._writers -= ends

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_up: bool) -> None:
        with suppress(OSError):
            while got := await reader.read(_READ_BYTES):
                if self.swallows or (is_up and self.swallows_up):
                    self.swallowed_bytes += len(got)
                    continue
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                while self.stalls and not is_up:  # noqa: ASYNC110 - another thread ends it
                    await asyncio.sleep(0.05)
                writer.write(got)
                await writer.drain()
