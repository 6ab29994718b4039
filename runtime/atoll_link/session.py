"""One MQTT connection on paho, driven by whoever calls :meth:`Session.step`.

There is no network thread: one owner steps the session, and each step returns what happened. The
session connects by itself (full-jitter backoff), with MQTT 5 where the broker has it and 3.1.1
otherwise, subscribes anew at every connect, and gives each connection a number, so that an
acknowledgement never crosses from one connection into the next (packet ids are used again after a
reconnect).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from typing import Any, Final

from atoll_contract.errors import ConfigError
from atoll_link.attempts import Backoff, LevelChoice
from atoll_link.broker import Broker, Will
from atoll_link.events import Connected, Delivery, Disconnected, Event, Published, Refused, Subscribed
from atoll_link.inflow import MOST_DELIVERIES, Inflow
from atoll_link.limits import BrokerLimits, require_filter, require_payload, require_qos
from atoll_link.outflow import Outflow
from atoll_link.packets import (
    CONNACK,
    NO_PROPERTIES,
    PUBACK,
    PUBLISH,
    REFUSED,
    Level,
    PacketBuffer,
    PublishReader,
    pack_puback,
    pack_publish,
    unpack_puback,
)
from atoll_link.paho_client import RECEIVE_BYTES, PahoClient, limits_of, refused_by, words_of
from atoll_link.subscriptions import Subscriptions
from atoll_link.topic_cache import EncodedTopics
from atoll_link.waiting import Waiter, wait_connected

__all__ = [
    "Broker",
    "Connected",
    "Delivery",
    "Disconnected",
    "Event",
    "Published",
    "Refused",
    "Session",
    "Subscribed",
    "Will",
    "wait_connected",
]

_MAX_UNSENT_BYTES: Final = 8 * 1024 * 1024
"""With more than this waiting for the socket, a QoS 0 message has no room."""
_FILTERS_PER_PACKET: Final = 8
"""Some brokers accept no more in one SUBSCRIBE."""
_BATCH_BYTES: Final = 262_144
"""About so much is read in one step, so that writing is never starved by reading."""
_UNSUPPORTED_LEVEL: Final = 0x84


class Session:
    """One MQTT connection that keeps itself up.

    A persistent session needs a client id of its own that nobody else uses; a broker with MQTT 5 keeps
    it for seven days. Not thread-safe but for :meth:`wake`: one owner calls everything.

    Args:
        broker: Where the broker is.
        client_id: Who this is to the broker.
        is_clean: Whether the broker forgets subscriptions and messages when the connection ends.
        acknowledges_by_hand: Whether :meth:`acknowledge` is called for each QoS 1 delivery; else
            deliveries are acknowledged as they arrive.
        will: Makes the last will anew for each attempt to connect.
        max_inflight: Most QoS 1 messages sent and not yet acknowledged; a broker with MQTT 5 may allow
            fewer.
        max_kept: Most QoS 1 messages kept, those in flight among them; then there is no room.
        receive_maximum: Most QoS 1 deliveries that a broker with MQTT 5 sends before it gets an
            acknowledgement. Others have a setting of their own.
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
        receive_maximum: int = 1000,
        max_packet_bytes: int = 4 * 1024 * 1024,
        connect_timeout_s: float = 5.0,
        connack_timeout_s: float = 10.0,
    ) -> None:
        if not 1 <= receive_maximum <= MOST_DELIVERIES:
            raise ValueError(f"receive_maximum is {receive_maximum}, not 1 to {MOST_DELIVERIES}")
        self._broker = broker
        self._client_id = client_id
        self._is_clean = is_clean
        self._acknowledges_by_hand = acknowledges_by_hand
        self._will = will
        self._receive_maximum = receive_maximum
        self._max_packet_bytes = max_packet_bytes
        self._connect_timeout_s = connect_timeout_s
        self._connack_timeout_s = connack_timeout_s
        self._subscriptions = Subscriptions()
        self._topics = EncodedTopics()
        self._outflow = Outflow(max_inflight, max_kept)
        self._number = 0
        self._events: list[Event] = []
        self._unhurried = 0
        """How many of them tell only that a QoS 0 message was written."""
        self._backoff = Backoff()
        self._levels = LevelChoice()
        self._connection = 0
        self._is_trying = self._is_connected = self._is_closing = False
        self._began = self._connect_sent = 0.0
        self._patience_s = self._connected_since = self._look_at = 0.0
        if broker.tls:
            broker.tls_context()  # so that a wrong setting shows now, not at the first connect
        self._prepare(Level.MQTT_5)
        self._waiter = Waiter([self])

    @property
    def is_connected(self) -> bool:
        """Whether the broker has accepted the present connection."""
        return self._is_connected

    @property
    def connection(self) -> int:
        """Number of the present connection; grows by one with each accepted CONNECT."""
        return self._connection

    @property
    def grew_at(self) -> float | None:
        """When the message that is still arriving grew last (monotonic clock); None: there is none."""
        return self._client.last_arrival if self._inbox.is_amid else None

    @property
    def level(self) -> Level:
        """What the present connection speaks, or the last attempt at one."""
        return self._client.level

    @property
    def limits(self) -> BrokerLimits:
        """What the broker takes on the present connection, as far as it tells."""
        return self._limits

    def subscribe(self, topic_filter: str, qos: int = 1) -> None:
        """Subscribe now if connected, and at every connect until unsubscribed.

        Raises:
            ValueError: ``topic_filter`` is none, or ``qos`` is neither 0 nor 1.
        """
        require_filter(topic_filter)
        require_qos(qos)
        self._subscriptions.want(topic_filter, qos)
        if self._is_connected:
            self._send_subscribe([(topic_filter, qos)])

    def unsubscribe(self, topic_filter: str, *, once_answered: bool = False) -> None:
        """Forget it, here and at the broker; ``once_answered``: after the answer to what was asked before."""
        if once_answered and self._is_connected and self._subscriptions.waiting_since is not None:
            self._subscriptions.leave(topic_filter)
        elif self._subscriptions.forget(topic_filter) and self._is_connected:
            self._send_unsubscribe([topic_filter])

    def publish(self, topic: str, payload: bytes, *, qos: int = 1, retain: bool = False) -> int | None:
        """Queue a message and return its number, or None when it can neither be sent nor kept.

        A QoS 1 message is kept, and sent again at each connect, until :class:`Published` or
        :class:`Refused` is returned for its number. A QoS 0 message is taken only while connected.
        Numbers are never used again.

        Raises:
            ValueError: MQTT cannot carry it: the broker would end the connection, each time anew.
        """
        encoded = self._topics[topic]
        require_payload(payload)
        if qos == 0:
            return self._send_at_once(encoded, payload, retain=retain)
        require_qos(qos)
        if not self._outflow.has_room:
            return None
        self._number = number = self._number + 1
        packet = self._outflow.publish(number, encoded, payload, retain=retain)
        if packet is not None:
            self._client.outbox.put(packet)
        return number

    def take_back(self, numbers: Collection[int]) -> list[tuple[int, str, bytes]]:
        """Forget QoS 1 messages that were not acknowledged; return number, topic and payload of each."""
        taken = self._outflow.take_back(numbers)
        return [(number, topic[2:].decode(), payload) for number, topic, payload in taken]

    def acknowledge(self, delivery: Delivery) -> None:
        """Acknowledge a QoS 1 delivery, unless it came on an earlier connection."""
        is_current = delivery.connection == self._connection and self._is_connected
        if is_current and self._acknowledges_by_hand and delivery.qos > 0:
            self._inflow.acknowledge(len(delivery.payload))
            self._client.outbox.put(pack_puback(delivery.mid))

    def step(self, timeout_s: float) -> list[Event]:
        """Connect when due, wait until something can be done, do it, and return what happened.

        Returns after ``timeout_s`` at the latest, often earlier and with nothing; an attempt to connect goes
        on meanwhile. Reads at most a batch, so that whoever steps can keep up.
        """
        if not self._is_closing:
            if timeout_s > 0:
                self.flush()
                self._waiter.wait(0.0 if self._events else timeout_s)
            self._turn()
        events, self._events, self._unhurried = self._events, [], 0
        return events

    def flush(self) -> None:
        """Write what is queued, as far as the socket takes it now."""
        outflow, client = self._outflow, self._client
        for packet in outflow.due():
            client.outbox.put(packet)
        if outflow.refused:
            self._events += outflow.refused
            outflow.refused.clear()
        if client.want_write():
            written = client.flush()
            self._events += map(Published, written)
            self._unhurried += len(written)
            if not client.outbox.size and not self._acknowledges_by_hand:
                self._inflow.clear()
        if client.failure and self._is_trying:
            self._note_loss(client.failure)

    @property
    def wants_write(self) -> bool:
        """Whether bytes wait for the socket."""
        return self._client.want_write()

    def fileno(self) -> int:
        """Return the descriptor of the socket, or -1 when there is none."""
        return self._client.fileno()

    def due_s(self) -> float:
        """Return after how long a step is due though nothing arrives.

        That a QoS 0 message was written is no reason for a step: it is told with whatever is next.
        """
        if len(self._events) > self._unhurried or self._outflow.refused:
            return 0.0
        client = self._client
        due = self._look_at if client.is_open else client.dials_until or self._backoff.until
        return max(0.0, due - time.monotonic())

    def wake(self) -> None:
        """Make a waiting :meth:`step` return; may be called from any thread."""
        self._waiter.wake()

    def close(self, timeout_s: float = 2.0) -> None:
        """Send what is kept, disconnect, free the sockets; if some is left behind, the will says so."""
        deadline = time.monotonic() + timeout_s
        self._acknowledges_by_hand = True  # what nobody hears any more stays with the broker
        while self._is_connected and self._outflow.holds_any and time.monotonic() < deadline:
            self.step(max(0.0, deadline - time.monotonic()))
        self._is_closing = True
        if self._is_connected:
            self.flush()
        if self._is_connected and not self._outflow.holds_any:
            self._client.finish(deadline)
        self._drop()
        self._waiter.close()

    # Writing

    def _send_at_once(self, topic: bytes, payload: bytes, *, retain: bool) -> int | None:
        client = self._client
        if not self._is_connected or client.outbox.size > _MAX_UNSENT_BYTES:
            return None
        self._number = number = self._number + 1
        packet = pack_publish(topic, payload, NO_PROPERTIES[client.level], retain=retain)
        refusal = self._limits.refusal(len(packet), qos=0, retain=retain)
        if refusal is None:
            client.outbox.put(packet, number)
        else:
            self._events.append(Refused(number, refusal))
        return number

    def _send_subscribe(self, subscriptions: list[tuple[str, int]]) -> None:
        for start in range(0, len(subscriptions), _FILTERS_PER_PACKET):
            batch = subscriptions[start : start + _FILTERS_PER_PACKET]
            _, mid = self._client.subscribe(batch)
            if mid is not None:
                now = time.monotonic()
                self._subscriptions.ask(mid, [topic_filter for topic_filter, _ in batch], now)
                self._look_at = min(self._look_at, now + self._connack_timeout_s)

    def _send_unsubscribe(self, topic_filters: list[str]) -> None:
        for start in range(0, len(topic_filters), _FILTERS_PER_PACKET):
            batch = topic_filters[start : start + _FILTERS_PER_PACKET]
            _, mid = self._client.unsubscribe(batch)
            if mid is not None:
                self._subscriptions.ask_to_forget(mid, batch)

    # Connecting

    def _turn(self) -> None:
        now = time.monotonic()
        if self._client.is_open:
            self._read()
            if now >= self._look_at:
                self._look(now)
            self.flush()
        elif self._client.dials_until is not None:
            self._pick_up()
        elif now >= self._backoff.until:
            self._connect(now)

    def _prepare(self, level: Level) -> None:
        """Make all that belongs to one connection."""
        broker = self._broker
        self._client = PahoClient(
            self._client_id,
            level,
            is_clean=self._is_clean,
            receive_maximum=self._receive_maximum,
            tls=broker.tls_context if broker.tls else None,
            websocket_path=broker.websocket_path,
        )
        self._client.connect_timeout = self._connect_timeout_s
        self._client.on_connect = self._on_connect
        self._client.on_subscribe = self._on_subscribe
        self._client.on_unsubscribe = lambda _c, _u, mid, *_: self._subscriptions.answer_forgotten(mid)
        self._inbox = PacketBuffer(self._max_packet_bytes)
        self._reader = PublishReader(self._connection + 1, level, self._max_packet_bytes)
        self._inflow = Inflow(MOST_DELIVERIES)
        self._limits = BrokerLimits()
        self._refusal: int | None = None

    def _connect(self, now: float) -> None:
        self._is_trying = True
        self._began = now
        self._prepare(self._levels.choose(now))
        client, broker = self._client, self._broker
        try:
            client.username_pw_set(broker.username, broker.read_password())
            if self._will is not None:
                will = self._will()
                client.will_set(will.topic, will.payload, qos=1, retain=True)
            client.start(broker.host, broker.port, broker.keepalive_s)
        except (OSError, ValueError, ConfigError) as error:
            self._fail(f"{broker}: {error}")
        else:
            self._pick_up()

    def _pick_up(self) -> None:
        """Send CONNECT as soon as there is a connection."""
        client = self._client
        try:
            if not client.pick_up():
                return
        except (OSError, ValueError, ConfigError) as error:
            self._fail(f"{self._broker}: {error}")
            return
        self._connect_sent = self._look_at = time.monotonic()
        connecting_s = self._connect_sent - self._began
        self._patience_s = self._levels.patience_s(client.level, self._connack_timeout_s, connecting_s)
        self.flush()

    def _note_loss(self, failure: str) -> None:
        if self._is_connected:
            self._fail(f"connection to {self._broker} lost: {failure}")
        elif self._refusal not in {None, _UNSUPPORTED_LEVEL}:
            self._fail(f"{self._broker} refused the connection: {failure}", was_refused=True)
        elif self._levels.fail(self.level, was_refused=self._refusal is not None):
            self._is_trying = False
            self._drop()  # and the next step connects
        else:
            self._fail(f"{self._broker}: {failure}", was_refused=self._refusal is not None)

    def _fail(self, detail: str, *, was_refused: bool = False) -> None:
        """End the connection, or the attempt, if there is one; once."""
        was_connected, was_trying = self._is_connected, self._is_trying
        self._is_trying = False
        self._drop()
        if not was_trying or self._is_closing:
            return
        now = time.monotonic()
        if was_connected:
            self._backoff.lose(now, now - self._connected_since)
        else:
            self._backoff.fail(now)
        self._events.append(Disconnected(detail, was_connected, was_refused))

    def _drop(self) -> None:
        """Close the socket without a word."""
        self._is_connected = False
        self._client.drop()
        self._outflow.close()

    def _look(self, now: float) -> None:
        """Look after the keepalive and after answers that are overdue; note when to look again."""
        client = self._client
        if not self._is_connected:
            self._look_at = self._connect_sent + self._patience_s
            if now >= self._look_at:
                client.lose(f"did not answer CONNECT within {self._patience_s:.2g} s")
            return
        client.look()
        self._look_at = client.look_at
        # Seen with amqtt, whose loop for a client can die: it then takes everything and sends nothing.
        if (since := self._subscriptions.waiting_since) is not None:
            deadline = since + self._connack_timeout_s
            if now >= deadline:
                client.lose("a SUBSCRIBE was not answered")
            self._look_at = min(self._look_at, deadline)

    # Reading

    def _read(self) -> None:
        """Read and take in a batch of what has arrived."""
        client = self._client
        budget = _BATCH_BYTES
        while budget > 0 and (received := client.read()):
            budget -= len(received)
            self._reader.arrive(time.time() * 1e3, time.monotonic_ns())
            try:
                self._take_in(received)
            except ValueError as error:
                client.lose(str(error))
            if len(received) < RECEIVE_BYTES and not client.reads_in_records:
                return

    def _take_in(self, received: bytes) -> None:
        client, events = self._client, self._events
        acknowledges = not self._acknowledges_by_hand
        packets = self._inbox.feed(received)
        if not self._is_connected and not self._take_answer(packets):
            return
        for first, body in packets:
            kind = first & 0xF0
            if kind == PUBLISH:
                delivery = self._reader.read(first, body)
                events.append(delivery)
                if delivery.qos:
                    self._inflow.come(len(delivery.payload))
                    if acknowledges:
                        client.outbox.put(pack_puback(delivery.mid))
            elif kind == PUBACK:
                mid, reason = unpack_puback(body, client.level)
                number = self._outflow.acknowledge(mid)
                if number is not None:
                    events.append(Published(number) if reason < REFUSED else refused_by(reason, number))
            else:
                client.handle(first, body)
                if not client.is_open:
                    return

    def _take_answer(self, packets: Iterator[tuple[int, bytes]]) -> bool:
        """Take the first packet, if it is there: the answer to CONNECT; whether it accepts."""
        for first, body in packets:
            if first != CONNACK:
                raise ValueError("the broker did not answer CONNECT first")
            self._client.handle(first, body)
            break
        return self._is_connected

    # paho's callbacks: they only take notes

    def _on_connect(self, _client: Any, _userdata: Any, flags: Any, reason: Any, properties: Any) -> None:
        client = self._client
        if reason.is_failure:
            self._refusal = reason.value
            client.lose(words_of(reason, properties))
            return
        client.keep_alive_within(self._broker.keepalive_s)
        self._is_connected = True
        self._connection += 1
        self._connected_since = time.monotonic()
        self._look_at = 0.0
        self._levels.accept(client.level, self._connected_since)
        self._limits = limits_of(properties)
        session_present = bool(flags.session_present)
        self._events.append(Connected(self._connection, session_present))
        self._subscriptions.connect(session_present=session_present)
        self._send_subscribe(self._subscriptions.wanted)
        self._send_unsubscribe(self._subscriptions.forgotten)
        self._outflow.open(client.level, self._limits, session_present=session_present)

    def _on_subscribe(self, _client: Any, _userdata: Any, mid: int, reasons: Any, _properties: Any) -> None:
        refusals = [str(reason) if reason.value >= REFUSED else None for reason in reasons]
        self._events += self._subscriptions.answer(mid, refusals)
        for topic_filter in self._subscriptions.take_leaving():
            self.unsubscribe(topic_filter)
