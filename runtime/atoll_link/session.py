"""One MQTT connection on paho, driven by whoever calls :meth:`Session.step`.

There is no network thread: one owner steps the session, and each step returns what happened. The
session connects by itself (full-jitter backoff), subscribes anew at every connect, and gives each
connection a number, so that an acknowledgement never crosses from one connection into the next
(packet ids are used again after a reconnect).
"""

from __future__ import annotations

import random
import select
import socket
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from atoll_contract.errors import BrokerUnavailableError, ConfigError
from atoll_link.broker import Broker
from atoll_link.limits import require_filter, require_publishable, require_qos
from atoll_link.outflow import Outflow
from atoll_link.packets import Publish, pack_puback, pack_publish
from atoll_link.paho_client import PahoClient

__all__ = [
    "Broker",
    "Connected",
    "Delivery",
    "Disconnected",
    "Event",
    "Published",
    "Session",
    "Subscribed",
    "Will",
    "wait_connected",
]

_BACKOFF_BASE_S: Final = 0.5
_BACKOFF_CAP_S: Final = 30.0
_STABLE_AFTER_S: Final = 5.0
"""A connection that lasted this long resets the backoff."""
_MAX_UNSENT_BYTES: Final = 8 * 1024 * 1024
"""With more than this waiting for the socket, a QoS 0 message has no room."""
_FILTERS_PER_PACKET: Final = 8
"""Some brokers accept no more in one SUBSCRIBE."""
_MOST_WAIT_S: Final = 1.0
"""A step sleeps no longer without a look at the keepalive and the deadline of CONNACK."""
_SUBACK_REFUSED: Final = 0x80


@dataclass(frozen=True, slots=True)
class Will:
    """What the broker publishes, retained, when this connection breaks."""

    topic: str
    payload: bytes


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker accepted the connection; subscriptions are on their way."""

    connection: int
    session_present: bool


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection is gone, or an attempt to connect failed. QoS 0 messages not yet sent are lost.

    Attributes:
        detail: For people.
        was_connected: Whether the connection stood before.
        was_refused: Whether the broker refused CONNECT: a wrong login, say.
    """

    detail: str
    was_connected: bool
    was_refused: bool = False


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """A message that arrived.

    Attributes:
        topic: Where it was published.
        payload: Its bytes; cut off when the packet is longer than the session's ``max_packet_bytes``.
        qos: Quality of service of the delivery.
        mid: Packet id to acknowledge, for QoS 1.
        is_duplicate: The DUP flag: the broker sent it before.
        is_retained: The broker had kept it.
        connection: Number of the connection it arrived on.
        arrival_ms: Wall clock, milliseconds since the epoch.
        arrival_ns: Monotonic clock, for latencies.
    """

    topic: str
    payload: bytes
    qos: int
    mid: int
    is_duplicate: bool
    is_retained: bool
    connection: int
    arrival_ms: float
    arrival_ns: int


class Published(msgspec.Struct, frozen=True, gc=False):
    """The broker acknowledged this QoS 1 message, or the network took this QoS 0 message."""

    mid: int


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The broker answered a subscription."""

    topic_filter: str
    refused: bool


Event = Connected | Disconnected | Delivery | Published | Subscribed


@dataclass(slots=True)
class _Backoff:
    attempts: int = 0
    until: float = 0.0
    source: random.Random = field(default_factory=random.Random)

    def fail(self, now: float) -> None:
        ceiling = min(_BACKOFF_CAP_S, _BACKOFF_BASE_S * 2.0**self.attempts)
        self.attempts = min(self.attempts + 1, 10)
        self.until = now + self.source.uniform(0, ceiling)


class Session:
    """One MQTT 3.1.1 connection that keeps itself up.

    A persistent session needs a client id of its own that nobody else uses. Not thread-safe but for
    :meth:`wake`: one owner calls everything.

    Args:
        broker: Where the broker is.
        client_id: Who this is to the broker.
        is_clean: Whether the broker forgets subscriptions and messages when the connection ends.
        acknowledges_by_hand: Whether :meth:`acknowledge` is called for each QoS 1 delivery; else
            deliveries are acknowledged as they arrive.
        will: Makes the last will anew for each attempt to connect.
        max_inflight: Most QoS 1 messages sent and not yet acknowledged.
        max_kept: Most QoS 1 messages kept, those in flight among them; then there is no room.
        max_packet_bytes: Where a longer packet is cut off.
        connect_timeout_s: Longest wait for TCP, per address of the broker, and again for TLS.
        connack_timeout_s: Longest wait for the answer to CONNECT, and to SUBSCRIBE.
    """

    def __init__(
        self,
        broker: Broker,
        client_id: str,
        *,
        is_clean: bool = True,
        acknowledges_by_hand: bool = False,
        will: Callable[[], Will] | None = None,
        max_inflight: int = 20,
        max_kept: int = 32_768,
        max_packet_bytes: int = 4 * 1024 * 1024,
        connect_timeout_s: float = 5.0,
        connack_timeout_s: float = 10.0,
    ) -> None:
        self._broker = broker
        self._will = will
        self._acknowledges_by_hand = acknowledges_by_hand
        self._connack_timeout_s = connack_timeout_s
        self._subscriptions: dict[str, int] = {}
        self._forgotten: set[str] = set()
        self._pending_subacks: dict[int, tuple[str, ...]] = {}
        self._subscribed_since = 0.0
        self._pending_unsubacks: dict[int, tuple[str, ...]] = {}
        self._number = 0
        self._outflow = Outflow(max_inflight, max_kept)
        self._unsent: deque[tuple[int, int]] = deque()
        self._events: deque[Event] = deque()
        self._backoff = _Backoff()
        self._connection = 0
        self._is_trying = False
        self._is_connected = False
        self._is_closing = False
        self._connect_started = 0.0
        self._connected_since = 0.0
        if broker.tls:
            broker.tls_context()  # so that a wrong setting shows now, not at the first connect
        self._client = PahoClient(
            client_id,
            is_clean=is_clean,
            max_packet_bytes=max_packet_bytes,
            tls=broker.tls_context if broker.tls else None,
            on_delivery=self._on_delivery,
            on_acknowledgement=self._on_acknowledgement,
        )
        self._client.connect_timeout = connect_timeout_s
        self._client.on_connect = self._on_connect
        self._client.on_disconnect = self._on_disconnect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_unsubscribe = self._on_unsubscribe
        self._client.on_socket_open = _set_nodelay
        self._wake_read, self._wake_write = socket.socketpair()
        for end in (self._wake_read, self._wake_write):
            end.setblocking(False)

    @property
    def is_connected(self) -> bool:
        """Whether the broker has accepted the present connection."""
        return self._is_connected

    @property
    def connection(self) -> int:
        """Number of the present connection; grows by one with each accepted CONNECT."""
        return self._connection

    def subscribe(self, topic_filter: str, qos: int = 1) -> None:
        """Subscribe now if connected, and at every connect until unsubscribed.

        Raises:
            ValueError: ``topic_filter`` is none, or ``qos`` is neither 0 nor 1.
        """
        require_filter(topic_filter)
        require_qos(qos)
        self._subscriptions[topic_filter] = qos
        self._forgotten.discard(topic_filter)
        if self._is_connected:
            self._send_subscribe([(topic_filter, qos)])

    def unsubscribe(self, topic_filter: str) -> None:
        """Forget the subscription, here and, as soon as there is a connection, at the broker."""
        if self._subscriptions.pop(topic_filter, None) is not None:
            self._forgotten.add(topic_filter)
            if self._is_connected:
                self._send_unsubscribe([topic_filter])

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> int | None:
        """Queue a message and return its number, or None when it can neither be sent nor kept.

        A QoS 1 message is kept, and sent again at each connect, until :class:`Published` is returned
        for its number. A QoS 0 message is taken only while connected. Numbers are never used again.

        Raises:
            ValueError: MQTT cannot carry it: the broker would end the connection, each time anew.
        """
        require_publishable(topic, payload)
        require_qos(qos)
        if qos == 0:
            if not self._is_connected or self._client.unsent_bytes > _MAX_UNSENT_BYTES:
                return None
            self._number += 1
            self._client.queue(pack_publish(topic, payload, retain=retain))
            self._unsent.append((self._client.queued_bytes, self._number))
            return self._number
        if not self._outflow.has_room:
            return None
        self._number += 1
        self._outflow.keep(self._number, topic, payload, retain=retain)
        self._queue_due()
        return self._number

    def acknowledge(self, delivery: Delivery) -> None:
        """Acknowledge a QoS 1 delivery, unless it came on an earlier connection."""
        is_current = delivery.connection == self._connection and self._is_connected
        if is_current and self._acknowledges_by_hand and delivery.qos > 0:
            self._client.queue(pack_puback(delivery.mid))

    def wake(self) -> None:
        """Make a waiting :meth:`step` return; may be called from any thread."""
        with suppress(OSError):  # a full pipe wakes as well; a closed session has nobody to wake
            self._wake_write.send(b"\0")

    def fileno(self) -> int:
        """Return the descriptor of the socket, or -1 when there is none."""
        sock = self._client.socket()
        return -1 if sock is None else sock.fileno()

    def step(self, timeout_s: float) -> list[Event]:
        """Connect when due, wait until something can be done, do it, and return what happened.

        Returns after ``timeout_s`` at the latest, often earlier and with nothing; an attempt to
        connect takes its own time on top. Reads at most a batch, so that whoever steps can keep up.
        """
        if not self._is_closing:
            self._flush()
            self._wait(0.0 if self._events else max(0.0, timeout_s))
        events = list(self._events)
        self._events.clear()
        return events

    def flush(self) -> None:
        """Write what is queued, as far as the socket takes it now."""
        self._flush()

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what is queued, disconnect cleanly (the broker drops the will), free the sockets."""
        self._is_closing = True
        if self._is_connected:
            deadline = time.monotonic() + timeout_s
            self._client.disconnect()
            self._linger(deadline)
        self._drop()
        self._wake_read.close()
        self._wake_write.close()

    # Connecting

    def _connect_if_due(self, timeout_s: float) -> bool:
        """Whether there is a socket to wait for."""
        now = time.monotonic()
        if self._client.socket() is not None:
            if not self._is_connected and now - self._connect_started > self._connack_timeout_s:
                self._fail(f"{self._broker} did not answer CONNECT within {self._connack_timeout_s:g} s")
                return False
            return True
        if now < self._backoff.until:
            self._poll(min(timeout_s, self._backoff.until - now))
            return False
        return self._connect()

    def _connect(self) -> bool:
        self._connect_started = time.monotonic()
        self._is_trying = True
        self._client.failure = ""
        try:
            self._client.username_pw_set(self._broker.username, self._broker.read_password())
            if self._will is not None:
                will = self._will()
                self._client.will_set(will.topic, will.payload, qos=1, retain=True)
            self._client.connect(self._broker.host, self._broker.port, self._broker.keepalive_s)
        except (OSError, ValueError, ConfigError) as error:
            self._fail(f"{self._broker}: {error}")
            return False
        return True

    def _fail(self, detail: str, *, was_refused: bool = False) -> None:
        """End the connection, or the attempt, if there is one; once."""
        was_connected, self._is_connected = self._is_connected, False
        was_trying, self._is_trying = self._is_trying, False
        self._drop()
        if not was_trying or self._is_closing:
            return
        now = time.monotonic()
        if was_connected and now - self._connected_since > _STABLE_AFTER_S:
            self._backoff.attempts = 0
        self._backoff.fail(now)
        self._events.append(Disconnected(detail, was_connected, was_refused))

    def _drop(self) -> None:
        """Close the socket without a word."""
        self._is_connected = False
        self._client.drop()
        self._unsent.clear()

    def _linger(self, deadline: float) -> None:
        """Write all, then wait for the broker to hang up: closing earlier can cost what was written."""
        self._flush()
        while self._client.unsent_bytes > 0 and time.monotonic() < deadline:
            self._poll(deadline - time.monotonic())
            self._client.discard()
            self._flush()
        self._client.stop_sending()
        while self._client.socket() is not None and time.monotonic() < deadline:
            self._poll(deadline - time.monotonic())
            self._client.discard()

    # Waiting, reading, writing

    def _wait(self, timeout_s: float) -> None:
        if not self._connect_if_due(timeout_s):
            return
        if self._poll(min(timeout_s, _MOST_WAIT_S, self._broker.keepalive_s / 4)):
            self._client.receive()
        self._client.loop_misc()
        if self._client.silence_s > self._broker.keepalive_s / 2:
            self._fail(f"connection to {self._broker} lost: a ping was not answered")
        if self._pending_subacks and time.monotonic() - self._subscribed_since > self._connack_timeout_s:
            # Seen with amqtt, whose loop for a client can die: it then takes everything and sends nothing.
            self._fail(f"connection to {self._broker} lost: a SUBSCRIBE was not answered")
        self._flush()  # acknowledgements, and messages that had waited for their turn

    def _poll(self, timeout_s: float) -> bool:
        """Wait until something can be read or written or wake() was called; whether to read."""
        waiter = select.poll()
        waiter.register(self._wake_read, select.POLLIN)
        descriptor = self.fileno()
        if descriptor >= 0:
            wanted = select.POLLIN | (select.POLLOUT if self._client.want_write() else 0)
            waiter.register(descriptor, wanted)
        ready = dict(waiter.poll(max(0.0, timeout_s) * 1e3))
        if self._wake_read.fileno() in ready:
            with suppress(BlockingIOError):
                while self._wake_read.recv(4096):
                    pass
        return bool(ready.get(descriptor, 0) & ~select.POLLOUT)  # an error shows when it is read

    def _queue_due(self) -> None:
        if self._is_connected:
            for packet in self._outflow.due():
                self._client.queue(packet)

    def _flush(self) -> None:
        self._queue_due()
        self._client.flush()
        sent_bytes = self._client.queued_bytes - self._client.unsent_bytes
        while self._unsent and self._unsent[0][0] <= sent_bytes:
            self._events.append(Published(self._unsent.popleft()[1]))

    # paho's callbacks: they only take notes

    def _on_connect(self, _client: Any, _userdata: Any, flags: Any, reason: Any, _properties: Any) -> None:
        if reason.is_failure:
            self._fail(f"{self._broker} refused the connection: {reason}", was_refused=True)
            return
        self._is_connected = True
        self._connection += 1
        self._connected_since = time.monotonic()
        self._pending_subacks.clear()
        self._pending_unsubacks.clear()
        self._events.append(Connected(self._connection, bool(flags.session_present)))
        if flags.session_present:
            self._send_unsubscribe(sorted(self._forgotten))
        else:
            self._forgotten.clear()
        self._send_subscribe(list(self._subscriptions.items()))
        self._outflow.start_over()

    def _on_disconnect(
        self, _client: Any, _userdata: Any, _flags: Any, reason: Any, _properties: Any
    ) -> None:
        self._fail(f"connection to {self._broker} lost: {self._client.failure or reason}")

    def _on_delivery(self, publish: Publish) -> None:
        self._events.append(
            Delivery(
                topic=publish.topic,
                payload=publish.payload,
                qos=publish.qos,
                mid=publish.mid,
                is_duplicate=publish.is_duplicate,
                is_retained=publish.is_retained,
                connection=self._connection,
                arrival_ms=self._client.received_ms,
                arrival_ns=self._client.received_ns,
            )
        )
        if publish.qos > 0 and not self._acknowledges_by_hand:
            self._client.queue(pack_puback(publish.mid))

    def _on_acknowledgement(self, mid: int) -> None:
        number = self._outflow.acknowledge(mid)
        if number is not None:
            self._events.append(Published(number))

    def _on_subscribe(self, _client: Any, _userdata: Any, mid: int, reasons: Any, _properties: Any) -> None:
        for topic_filter, reason in zip(self._pending_subacks.pop(mid, ()), reasons, strict=False):
            self._events.append(Subscribed(topic_filter, refused=reason.value >= _SUBACK_REFUSED))

    def _on_unsubscribe(self, _client: Any, _userdata: Any, mid: int, *_: Any) -> None:
        self._forgotten.difference_update(self._pending_unsubacks.pop(mid, ()))

    def _send_subscribe(self, subscriptions: list[tuple[str, int]]) -> None:
        for start in range(0, len(subscriptions), _FILTERS_PER_PACKET):
            batch = subscriptions[start : start + _FILTERS_PER_PACKET]
            _, mid = self._client.subscribe(batch)
            if mid is not None:
                self._subscribed_since = time.monotonic()
                self._pending_subacks[mid] = tuple(topic_filter for topic_filter, _ in batch)

    def _send_unsubscribe(self, topic_filters: list[str]) -> None:
        for start in range(0, len(topic_filters), _FILTERS_PER_PACKET):
            batch = topic_filters[start : start + _FILTERS_PER_PACKET]
            _, mid = self._client.unsubscribe(batch)
            if mid is not None:
                self._pending_unsubacks[mid] = tuple(batch)


def wait_connected(session: Session, timeout_s: float) -> list[Event]:
    """Step ``session`` until it is connected and return all that happened on the way.

    Raises:
        BrokerUnavailableError: Not connected within ``timeout_s``; the last failure is told.
    """
    deadline = time.monotonic() + timeout_s
    seen: list[Event] = []
    while not session.is_connected:
        remaining_s = deadline - time.monotonic()
        if remaining_s <= 0:
            failures = [event.detail for event in seen if isinstance(event, Disconnected)]
            raise BrokerUnavailableError(failures[-1] if failures else "no answer from the broker")
        seen += session.step(min(remaining_s, 0.5))
    return seen


def _set_nodelay(_client: Any, _userdata: Any, sock: Any) -> None:
    # Without it Nagle's algorithm and delayed acknowledgements cost about 40 ms per message.
    if isinstance(sock, socket.socket) and sock.family in {socket.AF_INET, socket.AF_INET6}:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
