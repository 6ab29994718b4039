"""A proxy in front of a broker that counts MQTT packets and kills a process at a chosen one."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from subprocess import Popen
from types import TracebackType
from typing import Final, Self

TYPES: Final = (
    *("reserved", "CONNECT", "CONNACK", "PUBLISH", "PUBACK", "PUBREC", "PUBREL", "PUBCOMP", "SUBSCRIBE"),
    *("SUBACK", "UNSUBSCRIBE", "UNSUBACK", "PINGREQ", "PINGRESP", "DISCONNECT", "AUTH"),
)
_MOST_LATER_S: Final = 0.02


class Moment(StrEnum):
    """When the process dies: the packet is lost, has just passed, or passed some milliseconds ago.

    ``FILE`` counts metadata files instead: it dies as soon as the n-th new one is there.
    """

    BEFORE = "before"
    AFTER = "after"
    LATER = "later"
    FILE = "file"


@dataclass(slots=True)
class Trap:
    """Kills ``process`` at packet ``number``; 0 is never.

    Attributes:
        process: Known soon after it has started.
        number: Counted over all its connections and both directions, from 1.
        moment: When exactly.
        seen: Packets so far.
        sprung_at: The packet that did it: direction and type.
    """

    number: int
    moment: Moment
    process: Popen[bytes] | None = None
    seen: int = 0
    sprung_at: str | None = None

    def kill(self) -> None:
        while self.process is None:
            time.sleep(0.001)
        self.process.kill()


class KillingProxy:
    """A context manager that listens on ``port`` and forwards to ``upstream``."""

    def __init__(self, upstream: int, source: random.Random) -> None:
        self._upstream = upstream
        self._source = source
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._lock = threading.Lock()
        self.trap = Trap(0, Moment.BEFORE)

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._upstream))
            for sock in (client, server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for source, sink, direction in ((client, server, "to broker"), (server, client, "from broker")):
                arguments = (source, sink, direction, self.trap)
                threading.Thread(target=self._forward, args=arguments, name=direction, daemon=True).start()

    def _forward(self, source: socket.socket, sink: socket.socket, direction: str, trap: Trap) -> None:
        with suppress(OSError):
            for packet in packets(source):
                if not self._passes(packet, sink, direction, trap):
                    break
        for sock in (source, sink):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _passes(self, packet: bytes, sink: socket.socket, direction: str, trap: Trap) -> bool:
        with self._lock:
            trap.seen += 1
            is_due = trap.seen == trap.number and trap.moment is not Moment.FILE
            if is_due:
                trap.sprung_at = f"{TYPES[packet[0] >> 4]} {direction}"
        if is_due and trap.moment is Moment.BEFORE:
            trap.kill()
            return False
        sink.sendall(packet)
        if is_due:
            if trap.moment is Moment.LATER:
                time.sleep(self._source.uniform(0, _MOST_LATER_S))
            trap.kill()
        return True


def packets(source: socket.socket) -> Iterator[bytes]:
    """Yield the MQTT packets that arrive on ``source``, whole, until it ends."""
    buffer = b""
    while received := source.recv(65_536):
        buffer += received
        while (size := packet_size(buffer)) is not None and len(buffer) >= size:
            yield buffer[:size]
            buffer = buffer[size:]


def packet_size(buffer: bytes) -> int | None:
    """Return the size of the packet that ``buffer`` begins with, None when that is not known yet."""
    length = 0
    for place, byte in enumerate(buffer[1:5]):
        length |= (byte & 0x7F) << (7 * place)
        if byte < 0x80:
            return 2 + place + length
    return None
