"""paho for connecting, logging in, subscribing and keeping alive; our own way for the bytes.

paho 2 reads a packet in three system calls, writes each one alone, keeps what it cannot write
without a limit, sends new messages before CONNACK and kept ones after (which leaves the older of
two retained states at the broker), and after a reconnect sends all that it kept at once. So here
bytes come and go in batches, and PUBLISH and PUBACK go past paho, see :mod:`atoll_link.packets`.

For that it overrides private methods of paho 2; the integration tests of the session hold paho to
what is expected of them.
"""

from __future__ import annotations

import select
import socket
import ssl
import struct
import time
from collections.abc import Callable
from itertools import cycle
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt import MQTTException
from paho.mqtt.client import MQTTErrorCode
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from atoll_link.dialling import Dialling
from atoll_link.events import Refused
from atoll_link.limits import BrokerLimits
from atoll_link.outbox import Outbox
from atoll_link.outflow import MOST_IDS
from atoll_link.packets import CONNACK, Level

SESSION_EXPIRY_S: Final = 7 * 24 * 3600
"""How long a broker with MQTT 5 keeps a persistent session, and the messages in it, for a client that
stays away. With 3.1.1 the client cannot tell: the broker's settings decide."""
RECEIVE_BYTES: Final = 65_536
"""Asked for in one call: more than a TLS record holds, so that nothing decrypted stays behind, which
poll() would not see."""
_MALFORMED: Final = (MQTTException, struct.error, LookupError)
"""What paho raises for packets that it cannot read: one error since 2.2, many before."""
_PASSING: Final = {0x80, 0x83, 0x97}
"""Unspecified error, implementation specific error, quota exceeded."""
_MOST_WORDS: Final = 200
"""A broker may tell a reason in words of its own, of any length."""


class PahoClient(paho.Client):
    """One connection, or attempt at it; the owner reads, flushes, and looks after it when it is time.

    Attributes:
        level: What it speaks.
        outbox: What is to be written.
        failure: Why the connection ended; empty until it has.
    """

    def __init__(
        self,
        client_id: str,
        level: Level,
        *,
        is_clean: bool,
        receive_maximum: int,
        tls: Callable[[], ssl.SSLContext] | None,
        websocket_path: str | None,
    ) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=is_clean if level is Level.MQTT_311 else None,
            protocol=paho.MQTTProtocolVersion(level),
            reconnect_on_failure=False,
        )
        self.level = level
        self.outbox = Outbox()
        self.failure = ""
        self._broken = ""
        """Why nothing more can be written; what the broker wrote before may tell more, so it is read."""
        self._dialling: Dialling | None = None
        self._dialled: Any = None
        self._made: socket.socket | None = None
        """paho leaves it open when a handshake on it fails."""
        self._is_clean = is_clean
        self._receive_maximum = receive_maximum
        self._make_tls_context = tls or ssl.create_default_context
        self._ssl = tls is not None
        self._path = websocket_path
        self._request_ids = cycle(range(MOST_IDS + 1, 65_536))
        self._blocked_since: float | None = None
        """Since when the socket has taken nothing of what is to be written."""
        self.on_disconnect = self._on_lost

    @property
    def is_open(self) -> bool:
        """Whether there is a socket."""
        return self._sock is not None

    @property
    def reads_in_records(self) -> bool:
        """Whether a call of :meth:`read` returns one TLS record or WebSocket frame, though more is there."""
        return self._ssl or self._path is not None

    @property
    def last_arrival(self) -> float:
        """When bytes arrived last, on the monotonic clock."""
        return self._last_bytes_received

    @property
    def look_at(self) -> float:
        """When :meth:`look` is needed next, on the monotonic clock."""
        if self._ping_t > 0:
            due = max(self._ping_t, self._last_bytes_received) + self._keepalive / 2
        else:
            due = min(self._last_msg_out, self._last_bytes_received) + self._keepalive
        return due if self._blocked_since is None else min(due, self._blocked_since + self._keepalive)

    def look(self) -> None:
        """Ping when it is time; give up a broker that has not answered the last ping, or does not read."""
        now = time.monotonic()
        if self._blocked_since is not None and now >= self._blocked_since + self._keepalive:
            self.lose(f"the broker has read nothing for {self._keepalive} s")
        elif self._ping_t > 0 and now >= self.look_at:
            self.lose("a ping was not answered")
        else:
            self.loop_misc()

    def fileno(self) -> int:
        """Return the descriptor to wait for, or -1 when there is none."""
        if self._dialling is not None:
            return self._dialling.fileno()
        return -1 if self._sock is None else self._sock.fileno()

    @property
    def dials_until(self) -> float | None:
        """When the attempt to connect is given up, on the monotonic clock; None: there is none under way."""
        return None if self._dialling is None else self._dialling.until

    def start(self, host: str, port: int, keepalive_s: int) -> None:
        """Begin to connect; :meth:`pick_up` ends it."""
        if self.level is Level.MQTT_311:
            self.connect_async(host, port, keepalive_s)
        else:
            properties = self._properties_of_session()
            self.connect_async(host, port, keepalive_s, clean_start=self._is_clean, properties=properties)
        self._dialling = Dialling(self._dial)

    def pick_up(self) -> bool:
        """Queue CONNECT once there is a connection; False: not yet.

        Raises:
            OSError: There is none. ConfigError: The files for TLS cannot be read.
        """
        dialling, self._dialling = self._dialling, None
        sock = dialling and dialling.take()
        if sock is None:
            self._dialling = dialling
            return False
        self._dialled = sock
        self.reconnect()
        return True

    def flush(self) -> list[int]:
        """Write what the socket takes now; return the numbers of the QoS 0 messages it has taken."""
        numbers: list[int] = []
        outbox = self.outbox
        while self.want_write():
            try:
                sent = self._sock_send(outbox.head())  # type: ignore[arg-type]  # sockets take any buffer
            except BlockingIOError:
                self._blocked_since = self._blocked_since or time.monotonic()
                break
            except OSError as error:
                self._broken = _told(error)
                break
            numbers += outbox.drop(sent)
            self._last_msg_out = time.monotonic()
            self._blocked_since = None
        return numbers

    def read(self) -> bytes:
        """Return what one call gives; nothing when there is nothing or no connection any more."""
        if self._sock is None:
            return b""
        try:
            received = self._sock_recv(RECEIVE_BYTES)
        except BlockingIOError:
            if self._broken:
                self.lose(self._broken)
            return b""
        except OSError as error:
            self.lose(_told(error))
            return b""
        if not received:
            self.lose("closed by the broker")
        self._last_bytes_received = time.monotonic()
        return received

    def handle(self, first: int, body: bytes) -> None:
        """Let paho handle a packet.

        Raises:
            ValueError: It is malformed, or has no place here.
        """
        if first & 0xF0 == CONNACK and self.is_connected():
            raise ValueError("a second answer to CONNECT")
        self._in_packet = {
            "command": first,
            "have_remaining": 1,
            "remaining_count": [],
            "remaining_mult": 1,
            "remaining_length": len(body),
            "packet": bytearray(body),
            "to_process": 0,
            "pos": 0,
        }
        try:
            rc = self._packet_handle()
        except _MALFORMED as error:
            raise ValueError(f"a malformed packet: {error}") from error
        if rc and first & 0xF0 == CONNACK:  # paho told all refusals but one
            raise ValueError("the broker does not speak this protocol version")
        if rc:
            raise ValueError("a packet that has no place here")

    def keep_alive_within(self, keepalive_s: int) -> None:
        """Ping at least so often, though the broker may have asked for less, or for nothing at all."""
        self._keepalive = min(self._keepalive or keepalive_s, keepalive_s)

    def finish(self, deadline: float) -> None:
        """Say good-bye, write all, and wait for the broker to hang up.

        Closing earlier can cost what was written.
        """
        self.disconnect()
        waiting = select.poll()
        waiting.register(self.fileno(), select.POLLIN | select.POLLOUT)
        self.flush()
        while self.want_write() and (rest_s := deadline - time.monotonic()) > 0:
            waiting.poll(rest_s * 1e3)
            self.read()
            self.flush()
        if isinstance(self._sock, socket.socket):
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError as error:
                self.lose(_told(error))
        while self.is_open and (rest_s := deadline - time.monotonic()) > 0:
            waiting.modify(self.fileno(), select.POLLIN)
            waiting.poll(rest_s * 1e3)
            self.read()

    def drop(self) -> None:
        """Close the socket without a word, or give up the attempt to have one."""
        if self._dialling is not None:
            self._dialling.give_up()
            self._dialling = None
        self._sock_close()

    def lose(self, failure: str) -> None:
        """Close the socket; the first failure stays the one that is told."""
        self.failure = self.failure or failure
        self._sock_close()

    # What paho calls

    def _on_lost(self, _client: Any, _userdata: Any, _flags: Any, reason: Any, properties: Any) -> None:
        self.lose(words_of(reason, properties))

    def _packet_queue(
        self, command: int, packet: bytes | bytearray, mid: int, qos: int, info: Any = None
    ) -> MQTTErrorCode:
        del command, mid, qos, info
        self.outbox.put(bytes(packet))
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def want_write(self) -> bool:
        """Whether bytes wait for the socket."""
        return self.outbox.size > 0 and self._sock is not None and not self._broken

    def loop_write(self) -> MQTTErrorCode:
        """Do nothing: :meth:`flush` writes."""
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _mid_generate(self) -> int:
        # Of SUBSCRIBE and UNSUBSCRIBE: no message that waits for its PUBACK may have the same.
        return next(self._request_ids)

    def _create_socket(self) -> Any:
        return self._dialled

    # In a thread of its own

    def _dial(self) -> Any:
        try:
            return self._opened()
        except BaseException:
            if self._made is not None:
                self._made.close()
            raise

    def _opened(self) -> Any:
        sock = self._create_socket_connection()
        if self._ssl:
            sock = self._ssl_wrap_socket(sock)
        if self._path is None:
            return sock
        from atoll_link.websocket import WebSocket  # noqa: PLC0415 - memory that most agents can save

        host = f"[{self.host}]" if ":" in self.host else self.host
        return WebSocket.open(sock, f"{host}:{self.port}", self._path, self.connect_timeout)

    def _create_socket_connection(self) -> socket.socket:
        self._made = sock = super()._create_socket_connection()
        # Without it Nagle's algorithm and delayed acknowledgements cost about 40 ms per message.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return sock

    def _ssl_wrap_socket(self, tcp_sock: Any) -> ssl.SSLSocket:
        self._made = sock = self._make_tls_context().wrap_socket(
            tcp_sock, server_hostname=self.host, do_handshake_on_connect=False
        )
        sock.settimeout(self.connect_timeout)
        sock.do_handshake()
        return sock

    def _properties_of_session(self) -> Properties:
        properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]  # paho's
        properties.ReceiveMaximum = self._receive_maximum
        if not self._is_clean:
            properties.SessionExpiryInterval = SESSION_EXPIRY_S
        return properties


def limits_of(properties: Properties) -> BrokerLimits:
    """Return the limits that a CONNACK tells."""
    free = BrokerLimits()
    return BrokerLimits(
        max_inflight=getattr(properties, "ReceiveMaximum", free.max_inflight),
        max_packet_bytes=getattr(properties, "MaximumPacketSize", free.max_packet_bytes),
        takes_qos_1=bool(getattr(properties, "MaximumQoS", free.takes_qos_1)),
        retains=bool(getattr(properties, "RetainAvailable", free.retains)),
    )


def words_of(reason: ReasonCode, properties: Properties) -> str:
    """Return a reason with what the broker added to it."""
    added = getattr(properties, "ReasonString", "")
    return f"{reason} ({added[:_MOST_WORDS]})" if added else str(reason)


def refused_by(code: int, number: int) -> Refused:
    """Return that message ``number`` was refused with a reason code, which the standard need not provide."""
    names = ReasonCode.names.get(code)
    return Refused(number, next(iter(names)) if names else f"reason code {code:#x}", code in _PASSING)


def _told(error: OSError) -> str:
    return error.strerror or str(error)
