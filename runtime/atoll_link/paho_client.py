"""paho for connecting, logging in, subscribing and keeping alive; our own way for the bytes.

paho 2 reads a packet in three system calls, writes each one alone, keeps what it cannot write
without a limit, sends new messages before CONNACK and kept ones after (which leaves the older of
two retained states at the broker), and after a reconnect sends all that it kept at once. So here
bytes come and go in batches, and PUBLISH and PUBACK go past paho, see :mod:`atoll_link.packets`.

For that it overrides private methods of paho 2; the integration tests of the session hold paho to
what is expected of them.
"""

from __future__ import annotations

import socket
import ssl
import struct
import time
from collections.abc import Callable
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt import MQTTException
from paho.mqtt.client import MQTTErrorCode
from paho.mqtt.enums import CallbackAPIVersion

from atoll_link.packets import PUBACK, PUBLISH, PacketBuffer, Publish, unpack_puback, unpack_publish

_CONNACK: Final = 0x20
_MALFORMED: Final = (MQTTException, struct.error, LookupError)
"""What paho raises for packets that it cannot read: one error since 2.2, many before."""
_RECEIVE_BYTES: Final = 65_536
"""More than a TLS record holds: nothing decrypted stays behind, which poll() would not see."""
_SEND_BYTES: Final = 262_144
_BATCH_BYTES: Final = 262_144
"""Most bytes that one call of receive() takes, so that writing is never starved by reading."""


class PahoClient(paho.Client):
    """An MQTT 3.1.1 client whose owner calls :meth:`receive`, :meth:`flush` and ``loop_misc``.

    ``on_delivery`` and ``on_acknowledgement`` take the place of paho's callbacks for messages.

    Attributes:
        failure: Why the last connection ended, as far as it is known here.
        queued_bytes: How many bytes were ever put into the outbox.
        received_ms: When the bytes at hand arrived: wall clock, milliseconds since the epoch.
        received_ns: The same on the monotonic clock.
    """

    def __init__(
        self,
        client_id: str,
        *,
        is_clean: bool,
        max_packet_bytes: int,
        tls: Callable[[], ssl.SSLContext] | None,
        on_delivery: Callable[[Publish], None],
        on_acknowledgement: Callable[[int], None],
    ) -> None:
        super().__init__(
            CallbackAPIVersion.VERSION2,
            client_id=client_id,
            clean_session=is_clean,
            protocol=paho.MQTTv311,
            reconnect_on_failure=False,
        )
        self._on_delivery = on_delivery
        self._on_acknowledgement = on_acknowledgement
        self._make_tls_context = tls or ssl.create_default_context
        self._ssl = tls is not None
        self._inbox = PacketBuffer(max_packet_bytes)
        self._outbox = bytearray()
        self.failure = ""
        self.queued_bytes = 0
        self.received_ms = 0.0
        self.received_ns = 0

    @property
    def unsent_bytes(self) -> int:
        """How many bytes wait for the socket."""
        return len(self._outbox)

    @property
    def silence_s(self) -> float:
        """For how long the broker has not said a word since it was pinged; 0 when it was not."""
        if self._sock is None or self._ping_t <= 0:
            return 0.0
        return time.monotonic() - max(self._ping_t, self._last_bytes_received)

    def queue(self, packet: bytes | bytearray) -> None:
        """Append a packet to what is to be written."""
        self._outbox += packet
        self.queued_bytes += len(packet)

    def flush(self) -> None:
        """Write what the socket takes now."""
        while self._outbox and self._sock is not None:
            try:
                with memoryview(self._outbox) as view, view[:_SEND_BYTES] as head:
                    sent = self._sock_send(head)  # type: ignore[arg-type]  # sockets take any buffer
            except BlockingIOError:
                return
            except OSError as error:
                self._lose(_told(error))
                return
            del self._outbox[:sent]
            self._last_msg_out = time.monotonic()

    def receive(self) -> None:
        """Read and handle a batch of what has arrived."""
        budget = _BATCH_BYTES
        while budget > 0:
            received = self._read_some()
            if received is None:
                return
            budget -= len(received)
            self._inbox.feed(received)
            if not self._handle_packets():
                return
            if len(received) < _RECEIVE_BYTES and not self._ssl:
                return

    def discard(self) -> None:
        """Read and throw away a batch of what has arrived."""
        self._read_some()

    def stop_sending(self) -> None:
        """Tell the other side that nothing follows; it may still send."""
        if isinstance(self._sock, socket.socket):
            try:
                self._sock.shutdown(socket.SHUT_WR)
            except OSError as error:
                self._lose(_told(error))

    def drop(self) -> None:
        """Close the socket without a word."""
        self._sock_close()

    def _read_some(self) -> bytes | None:
        """Return what one call gives; None when there is nothing or no connection any more."""
        if self._sock is None:
            return None
        try:
            received = self._sock_recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return None
        except OSError as error:
            self._lose(_told(error))
            return None
        if not received:
            self._lose("closed by the broker")
            return None
        self.received_ms = time.time() * 1e3
        self.received_ns = time.monotonic_ns()
        self._last_bytes_received = time.monotonic()
        return received

    def _handle_packets(self) -> bool:
        """Handle what is complete; False when the connection is gone."""
        while self._sock is not None:
            try:
                packet = self._inbox.take()
                if packet is None:
                    return True
                self._handle_packet(*packet)
            except ValueError as error:
                self._lose(str(error), MQTTErrorCode.MQTT_ERR_PROTOCOL)
        return False

    def _handle_packet(self, first: int, body: bytes) -> None:
        kind = first & 0xF0
        if kind == PUBLISH:
            self._on_delivery(unpack_publish(first, body))
        elif kind == PUBACK:
            self._on_acknowledgement(unpack_puback(body))
        else:
            self._hand_to_paho(first, body)

    def _hand_to_paho(self, first: int, body: bytes) -> None:
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
        if rc and first & 0xF0 == _CONNACK:  # paho told all refusals but one
            self._lose("the broker does not speak this protocol version", rc)
        elif rc:
            self._lose("a packet that has no place here", rc)

    def _lose(self, failure: str, rc: MQTTErrorCode = MQTTErrorCode.MQTT_ERR_CONN_LOST) -> None:
        self.failure = failure
        self._loop_rc_handle(rc)

    # What paho calls

    def _packet_queue(
        self, command: int, packet: bytes | bytearray, mid: int, qos: int, info: Any = None
    ) -> MQTTErrorCode:
        del command, mid, qos, info
        self.queue(packet)
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def want_write(self) -> bool:
        """Whether bytes wait for the socket."""
        return bool(self._outbox)

    def loop_write(self) -> MQTTErrorCode:
        """Do nothing: :meth:`flush` writes."""
        return MQTTErrorCode.MQTT_ERR_SUCCESS

    def _sock_close(self) -> None:
        super()._sock_close()
        self._inbox.clear()
        self._outbox.clear()

    def _ssl_wrap_socket(self, tcp_sock: Any) -> ssl.SSLSocket:
        # paho leaves the socket open when the handshake fails.
        try:
            context = self._make_tls_context()
            sock = context.wrap_socket(tcp_sock, server_hostname=self.host, do_handshake_on_connect=False)
        except BaseException:
            tcp_sock.close()
            raise
        try:
            sock.settimeout(self.connect_timeout)
            sock.do_handshake()
        except BaseException:
            sock.close()
            raise
        return sock


def _told(error: OSError) -> str:
    return error.strerror or str(error)
