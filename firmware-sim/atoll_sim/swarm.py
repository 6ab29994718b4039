"""A connection of its own for each device: thousands of MQTT 3.1.1 sessions in one thread.

It can stand wherever :class:`atoll_sim.uplink.Uplink` does. A device's connection is a socket and two
buffers; there is no thread, no task and no timer per device. What is not acknowledged when a connection
breaks is sent again on the next, with DUP. Plain TCP only: for TLS let devices share a connection.
"""

from __future__ import annotations

import resource
import selectors
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from atoll_contract.errors import BrokerUnavailableError, ConfigError
from atoll_link.broker import Broker
from atoll_link.packets import (
    CONNACK,
    NO_PROPERTIES,
    PUBACK,
    PUBLISH,
    Level,
    PacketBuffer,
    PublishReader,
    pack_puback,
    pack_publish,
    unpack_puback,
)
from atoll_link.session import Delivery
from atoll_link.stop import Stop
from atoll_sim.swarm_packets import connect_packet, subscribe_packet, text
from atoll_sim.uplink import ignore

_STEP_S: Final = 0.5
_LAST_WAIT_S: Final = 5.0
_ANSWER_S: Final = 10.0
"""Longest wait for the answer to CONNECT."""
_MOST_CONNECTING: Final = 250
"""Connections that are being opened at one time: the backlog of a listening socket is not endless."""
_RETRY_S: Final = 2.0
_MAX_PACKET_BYTES: Final = 65_536
_READ_BYTES: Final = 65_536
_SPARE_FILES: Final = 64
_PINGREQ: Final = b"\xc0\x00"
_DISCONNECT: Final = b"\xe0\x00"
_LEVEL: Final = Level.MQTT_311
_LAST_MID: Final = 65_534
_MOST_WAITING: Final = 1000
"""Messages of a device that is not connected; the oldest goes first."""
_LOOK_S: Final = 1.0
"""How often it is looked which connections are silent, or overdue."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


_Address = tuple[socket.AddressFamily, str]


class _Line:
    """One device's connection."""

    __slots__ = (
        "address", "buffer", "device", "has_moved", "in_flight", "is_held", "is_open", "is_writing",
        "next_mid", "out", "reader", "since", "sock", "tries", "unsent", "waiting",
    )  # fmt: skip

    def __init__(self, device: str) -> None:
        self.device = device
        self.sock: socket.socket | None = None
        self.buffer: PacketBuffer | None = None
        self.reader: PublishReader | None = None
        self.address: _Address | None = None
        self.out = bytearray()
        self.unsent = 0
        """Messages of QoS 0 in ``out``."""
        self.in_flight: dict[int, tuple[str, bytes]] = {}
        self.waiting: deque[tuple[str, bytes]] = deque()
        """What came while it was closed, to be sent once it is open."""
        self.next_mid = 0
        self.is_open = False
        """CONNECT was accepted."""
        self.is_held = False
        self.is_writing = False
        self.since = 0.0
        """When something was last sent, or, while it is closed, when it closed."""
        self.tries = 0
        self.has_moved = True
        """Whether a message was acknowledged since it last opened: to open again is progress only then."""


class Swarm:
    """Publishes over a connection per device.

    Args:
        broker: Where the broker is; each device logs in with its own id and the one password.
        topic_filters: What each device subscribes to, by its id.
        stop: Ends every wait.
        window: Most messages in flight, of all devices together.
        give_up_after_s: Longest time without any connection, or any acknowledgement that is due.
        on_delivery: Is told of every message that arrives.

    Raises:
        ConfigError: It needs TLS or a WebSocket, or more open files than the system allows.
    """

    def __init__(
        self,
        broker: Broker,
        topic_filters: Mapping[str, str],
        stop: Stop,
        *,
        window: int,
        give_up_after_s: float = 60.0,
        on_delivery: Callable[[Delivery], None] = ignore,
    ) -> None:
        if broker.tls or broker.websocket_path is not None:
            raise ConfigError("--connections own: plain TCP only; with TLS let devices share a connection")
        self.acknowledged = 0
        self.lost = 0
        self.in_flight = 0
        self._broker = broker
        self._password = broker.read_password()
        self._addresses: list[_Address] = []
        """Those that have not been tried, until a broker has answered at one."""
        self._resolved = -_RETRY_S
        self._filters = topic_filters
        self._stop = stop
        self._window = window
        self._give_up_after_s = give_up_after_s
        self._on_delivery = on_delivery
        self._lines = {device: _Line(device) for device in topic_filters}
        self._connecting: set[_Line] = set()
        self._closed: dict[_Line, None] = dict.fromkeys(self._lines.values())
        self._selector = selectors.DefaultSelector()
        self._moved = time.monotonic()
        self._looked = 0.0
        self._last_failure = "no answer"
        require_files(len(self._lines))

    @property
    def connected(self) -> int:
        """How many devices are connected."""
        return len(self._lines) - len(self._closed) - len(self._connecting)

    def close(self) -> None:
        """End all connections; what waits for one is lost."""
        for line in self._lines.values():
            self.lost += len(line.waiting) + (0 if line.is_open else len(line.in_flight))
            if line.sock is not None:
                with suppress(OSError):
                    line.sock.send(_DISCONNECT)
                line.sock.close()
        self._selector.close()

    def connect(self) -> bool:
        """Wait for all connections; False: told to stop meanwhile.

        Raises:
            BrokerUnavailableError: Given up.
        """
        self._moved = time.monotonic()
        return self._wait_until(lambda: self.connected == len(self._lines))

    def hold(self, writer: str, *, is_offline: bool) -> None:
        """Cut a device off, or let it come back."""
        line = self._lines[writer]
        if line.is_held is is_offline:
            return
        line.is_held = is_offline
        if is_offline:
            self._drop(line, "held")

    def publish(self, topic: object, payload: bytes, qos: int, writer: str) -> bool:
        """Publish as soon as there is room in flight; False: told to stop meanwhile.

        A device that is not connected keeps the newest 1,000 messages of QoS 1 and sends them when it is.
        A message of QoS 0 is in flight until the socket has taken it.

        Raises:
            BrokerUnavailableError: Given up.
        """
        line = self._lines[writer]
        if self.in_flight >= self._window and not self._wait_until(lambda: self.in_flight < self._window):
            return False
        if not line.is_open:
            self._keep(line, str(topic), payload, qos)
        elif qos == 0:
            self._send_once(line, pack_publish(text(str(topic)), payload, NO_PROPERTIES[_LEVEL]))
        else:
            self._send_new(line, str(topic), payload)
        return True

    def _keep(self, line: _Line, topic: str, payload: bytes, qos: int) -> None:
        if qos == 0:
            self.lost += 1
            return
        if len(line.waiting) >= _MOST_WAITING:
            line.waiting.popleft()
            self.lost += 1
        line.waiting.append((topic, payload))

    def _send_once(self, line: _Line, packet: bytes) -> None:
        self._send(line, packet)
        if line.out:
            line.unsent += 1
            self.in_flight += 1
        elif line.is_open:
            self.acknowledged += 1
        else:  # the connection broke just now
            self.lost += 1

    def _send_new(self, line: _Line, topic: str, payload: bytes) -> None:
        line.next_mid = line.next_mid % _LAST_MID + 1
        line.in_flight[line.next_mid] = (topic, payload)
        self.in_flight += 1
        self._send(line, pack_publish(text(topic), payload, NO_PROPERTIES[_LEVEL], line.next_mid))

    def rest_until(self, due: float) -> bool:
        """Serve the connections until ``due`` on the monotonic clock; False: told to stop meanwhile.

        Raises:
            BrokerUnavailableError: Given up.
        """
        while not self._stop.is_requested:
            now = time.monotonic()
            rest_s = due - now
            # A turn for each message would cost more than the message.
            if rest_s > 0 or self.in_flight >= self._window // 2 or now - self._looked >= _LOOK_S:
                self._step(min(max(rest_s, 0.0), _STEP_S))
            if rest_s <= 0:
                return True
        return False

    def settle(self) -> None:
        """Wait until nothing is in flight; once told to stop, for a few seconds at most.

        Raises:
            BrokerUnavailableError: Given up.
        """
        ends = None
        while self.in_flight or self._are_waiting():
            if self._stop.is_requested:
                ends = ends or time.monotonic() + _LAST_WAIT_S
                if time.monotonic() >= ends or not self.connected:
                    return
            self._step(_STEP_S, is_awaited=True)

    def _are_waiting(self) -> bool:
        lines = self._lines.values()
        return any((line.waiting or line.in_flight) and not line.is_held for line in lines)

    def _wait_until(self, is_true: Callable[[], bool]) -> bool:
        while not is_true():
            if self._stop.is_requested:
                return False
            self._step(_STEP_S, is_awaited=True)
        return True

    def _step(self, timeout_s: float, *, is_awaited: bool = False) -> None:
        """Serve the connections; ``is_awaited``: something has to move meanwhile."""
        self._open_some()
        for key, mask in self._selector.select(timeout_s if not self._closed else min(timeout_s, 0.05)):
            line: _Line = key.data
            if mask & selectors.EVENT_WRITE:
                self._write(line)
            if mask & selectors.EVENT_READ and line.sock is not None:
                self._read(line)
        now = time.monotonic()
        if now - self._looked >= _LOOK_S:
            self._look(now)
        if self.connected and not self.in_flight and not is_awaited:
            self._moved = now
        elif now - self._moved > self._give_up_after_s:
            raise BrokerUnavailableError(
                f"{self.connected} of {len(self._lines)} devices connected, {self.in_flight} messages in "
                f"flight, nothing moved for {self._give_up_after_s:g} s; last failure: {self._last_failure}"
            )

    def _look(self, now: float) -> None:
        """Ping on connections that were silent; give up connecting where there is no answer."""
        self._looked = now
        for line in list(self._connecting):
            if now - line.since > _ANSWER_S:
                self._drop(line, f"no answer to CONNECT within {_ANSWER_S:g} s")
        for line in self._lines.values():
            if line.is_open and now - line.since > self._broker.keepalive_s * 0.7:
                self._send(line, _PINGREQ)

    def _open_some(self) -> None:
        now = time.monotonic()
        if not self._closed or not (self._addresses or self._resolve(now)):
            return
        for line in list(self._closed):
            if len(self._connecting) >= _MOST_CONNECTING:
                return
            # The name of the broker may stand for several addresses, of which one answers.
            is_due = line.tries < len(self._addresses) or now - line.since > _RETRY_S
            if is_due and not line.is_held:
                self._open(line, now)

    def _resolve(self, now: float) -> bool:
        if now - self._resolved < _RETRY_S:
            return False
        self._resolved = now
        try:
            found = socket.getaddrinfo(self._broker.host, self._broker.port, type=socket.SOCK_STREAM)
        except OSError as error:
            self._last_failure = f"{self._broker.host}: {error}"
            return False
        self._addresses = [(family, str(address[0])) for family, _, _, _, address in found]
        return True

    def _open(self, line: _Line, now: float) -> None:
        line.address = self._addresses[line.tries % len(self._addresses)]
        family, host = line.address
        sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line.sock, line.since, line.tries = sock, now, line.tries + 1
        line.buffer = PacketBuffer(_MAX_PACKET_BYTES)
        line.reader = PublishReader(line.tries, _LEVEL, _MAX_PACKET_BYTES)
        del self._closed[line]
        self._connecting.add(line)
        line.out += connect_packet(line.device, self._password, self._broker.keepalive_s)
        line.is_writing = True
        self._selector.register(sock, selectors.EVENT_READ | selectors.EVENT_WRITE, line)
        try:
            sock.connect((host, self._broker.port))
        except BlockingIOError:
            pass
        except OSError as error:
            self._drop(line, f"{host}: {error}")

    def _send(self, line: _Line, packet: bytes) -> None:
        line.since = time.monotonic()
        if line.is_writing or line.sock is None:
            line.out += packet
            return
        try:
            sent = line.sock.send(packet)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._drop(line, str(error))
            return
        if sent < len(packet):
            line.out += packet[sent:]
            line.is_writing = True
            self._selector.modify(line.sock, selectors.EVENT_READ | selectors.EVENT_WRITE, line)

    def _write(self, line: _Line) -> None:
        if line.sock is None:
            return
        try:
            del line.out[: line.sock.send(line.out)]
        except BlockingIOError:
            return
        except OSError as error:
            self._drop(line, str(error))
            return
        if line.unsent:
            self._moved = time.monotonic()
        if not line.out:
            line.is_writing = False
            self._selector.modify(line.sock, selectors.EVENT_READ, line)
            self.in_flight -= line.unsent
            self.acknowledged += line.unsent
            line.unsent = 0

    def _read(self, line: _Line) -> None:
        assert line.sock is not None  # noqa: S101 - asked by whoever has it
        assert line.buffer is not None  # noqa: S101 - made with the socket
        try:
            received = line.sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError as error:
            self._drop(line, str(error))
            return
        if not received:
            self._drop(line, "the broker closed the connection")
            return
        try:
            for first, body in line.buffer.feed(received):
                self._take(line, first, body)
        except (ValueError, IndexError) as error:
            self._drop(line, f"what the broker sends is no MQTT: {error}")

    def _take(self, line: _Line, first: int, body: bytes) -> None:
        kind = first & 0xF0
        if kind == PUBACK:
            mid, _ = unpack_puback(body, _LEVEL)
            if line.is_open and line.in_flight.pop(mid, None) is not None:
                self.in_flight -= 1
                self.acknowledged += 1
                self._moved = time.monotonic()
                line.has_moved = True
        elif kind == PUBLISH and line.reader is not None:
            line.reader.arrive(time.time() * 1e3, time.monotonic_ns())
            delivery = line.reader.read(first, body)
            if delivery.qos:
                self._send(line, pack_puback(delivery.mid))
            self._on_delivery(delivery)
        elif kind == CONNACK:
            self._begin(line, body)

    def _begin(self, line: _Line, body: bytes) -> None:
        if body[1] != 0:
            self._drop(line, f"the broker refuses {line.device!r} with code {body[1]}")
            return
        self._connecting.discard(line)
        line.is_open = True
        if line.has_moved:
            self._moved = time.monotonic()
        line.has_moved = False
        if line.address is not None:
            self._addresses = [line.address]
        self._send(line, subscribe_packet(self._filters[line.device]))
        self.in_flight += len(line.in_flight)
        for mid, (topic, payload) in list(line.in_flight.items()):
            self._send(line, pack_publish(text(topic), payload, NO_PROPERTIES[_LEVEL], mid, dup=True))
        while line.waiting and line.is_open:
            self._send_new(line, *line.waiting.popleft())

    def _drop(self, line: _Line, detail: str) -> None:
        if line.sock is None:
            return
        if line.is_open:
            self.in_flight -= len(line.in_flight) + line.unsent
            self.lost += line.unsent
        self._selector.unregister(line.sock)
        line.sock.close()
        line.sock, line.buffer, line.reader, line.unsent = None, None, None, 0
        line.out.clear()
        line.is_open = line.is_writing = False
        line.since = time.monotonic()
        self._connecting.discard(line)
        self._closed[line] = None
        if line.is_held:
            return
        if detail != self._last_failure:  # once tells enough
            _log.warning("broker.disconnected", device=line.device, detail=detail)
        self._last_failure = detail


def require_files(count: int) -> None:
    """Allow this process to open ``count`` sockets besides what it has.

    Raises:
        ConfigError: The system does not.
    """
    needed = count + _SPARE_FILES + len(list(Path("/proc/self/fd").iterdir()))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        if hard != resource.RLIM_INFINITY and hard < needed:
            message = (
                f"{count} connections need {needed} open files, and {hard} are allowed: raise ulimit -Hn"
            )
            raise ConfigError(message)
        resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
