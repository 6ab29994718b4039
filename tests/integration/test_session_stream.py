"""Session on a stream that arrives in any pieces, stalls, and is cut anywhere."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support import brokers
from support.brokers import RunningBroker
from support.cutting_proxy import DOWN, UP, CuttingProxy, cutting_proxy
from support.opened import Opened
from support.scripted_broker import (
    PINGRESP,
    PUBLISH,
    SUBSCRIBE,
    UNSUBSCRIBE,
    ScriptedBroker,
    packet,
    scripted_broker,
)
from support.sessions import connected, has, of_kind, step_until

from atoll_link.outflow import MOST_IDS
from atoll_link.packets import Level
from atoll_link.session import Broker, Connected, Delivery, Event, Published, Session, Subscribed

PUBREC, PUBREL, PUBCOMP = 0x50, 0x62, 0x70


def test_every_kind_of_packet_may_arrive_in_two_pieces_cut_anywhere(opened: Opened) -> None:
    """Each ends in events of its own or, those of QoS 2 and the ping, in none and no harm."""
    session, peer = opened.session, opened.peer
    cut, length = 1, 2
    while cut < length:
        session.subscribe("a/+")
        subscribe = opened.read(SUBSCRIBE)
        session.subscribe("b")
        other = opened.read(SUBSCRIBE)
        session.unsubscribe("b")
        unsubscribe = opened.read(UNSUBSCRIBE)
        number = session.publish("out", b"%d" % cut)
        sent = opened.read(PUBLISH)
        stream = (
            peer.suback(subscribe, 1)
            + peer.publish(b"a/b", b"zero")
            + packet(PINGRESP, b"")
            + peer.suback(other, 0x80)
            + b"".join(packet(kind, b"\0\x63") for kind in (PUBREC, PUBREL, PUBCOMP))
            + peer.puback(sent.mid)
            + peer.publish(b"a/c", b"one" * 50, mid=cut)
            + peer.unsuback(unsubscribe)
            + peer.publish(b"a/d", b"")
        )
        length = len(stream)
        peer.send(stream[:cut])
        events = session.step(0.0)
        peer.send(stream[cut:])
        events += step_until(session, lambda late: has(Delivery, 3)(events + late))  # noqa: B023
        assert [_told(event) for event in events] == [
            ("a/+", False),
            b"zero",
            ("b", True),
            number,
            b"one" * 50,
            b"",
        ]
        session.step(0.0)
        peer.read_available()
        cut += 1

    assert cut > 200


def test_an_answer_to_connect_may_be_cut_anywhere(peer: ScriptedBroker, sessions: list[Session]) -> None:
    opened = Opened(peer, sessions)
    for cut in range(1, len(peer.connack())):
        opened.lose()
        opened.session._backoff.until = 0.0
        peer.read_connect(opened.session)
        peer.send(peer.connack(session_present=True)[:cut])
        assert opened.session.step(0.0) == []
        peer.send(peer.connack(session_present=True)[cut:] + peer.publish(b"a", b""))
        connect, delivery = step_until(opened.session, has(Delivery))
        assert connect == Connected(cut + 1, session_present=True)
        assert isinstance(delivery, Delivery)
        assert delivery.connection == cut + 1


def test_everything_is_written_in_order_however_little_the_socket_takes(sessions: list[Session]) -> None:
    payloads = [b"%d " % number + b"x" * (number * 7919 % 20_000) for number in range(60)]
    with scripted_broker(receive_buffer=2048) as peer:
        opened = Opened(peer, sessions, max_inflight=MOST_IDS)
        sock = opened.session._client.socket()
        assert isinstance(sock, socket.socket)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        numbers = [
            opened.session.publish("a", payload, qos=number % 2) for number, payload in enumerate(payloads)
        ]
        arrived, told = [], []
        deadline = time.monotonic() + 30
        while len(told) < len(payloads) and time.monotonic() < deadline:
            new = peer.read_available()
            arrived += [one.payload for one in new]
            peer.send(peer.puback(*[one.mid for one in new if one.first & 2]))
            told += [event.mid for event in of_kind(Published, opened.session.step(0.01))]

    assert arrived == payloads
    assert sorted(told) == numbers


@dataclass
class Bench:
    """A lane behind the proxy, and a writer and an observer beside it."""

    proxy: CuttingProxy
    lane: Session
    writer: Session
    observer: Session
    told: list[int] = field(default_factory=list)
    delivered: list[Delivery] = field(default_factory=list)
    seen: list[bytes] = field(default_factory=list)
    connects: list[Connected] = field(default_factory=list)
    is_subscribed: bool = False

    def turn(self) -> None:
        """Let everybody do what is due; the lane acknowledges all."""
        self.lane._backoff.until = 0.0
        self.proxy.turn()
        events = self.lane.step(0.0)
        deliveries = of_kind(Delivery, events)
        for delivery in deliveries:
            self.lane.acknowledge(delivery)
        self.lane.flush()
        self.delivered += deliveries
        self.told += [event.mid for event in of_kind(Published, events)]
        self.connects += of_kind(Connected, events)
        self.is_subscribed |= has(Subscribed)(events)
        self.writer.step(0.0)
        self.seen += [event.payload for event in of_kind(Delivery, self.observer.step(0.0))]

    def is_settled(self, numbers: list[int | None]) -> bool:
        """Whether all was told."""
        return self.lane.is_connected and len(self.told) == len(numbers)

    def turn_until(self, fact: Callable[[], object]) -> None:
        """Let everybody go on until ``fact`` holds."""
        deadline = time.monotonic() + 20
        while not fact():
            assert time.monotonic() < deadline, (self.told, self.delivered, self.seen)
            self.turn()


@pytest.mark.mosquitto
@pytest.mark.parametrize("direction", [UP, DOWN])
@pytest.mark.parametrize("level", Level)
def test_wherever_the_connection_is_cut_nothing_is_lost_or_told_twice(
    mosquitto_broker: RunningBroker, sessions: list[Session], level: Level, direction: str
) -> None:
    """Each number of bytes passes twice: on a connection that stands, and on the fresh one after it."""
    cut_and_recover(mosquitto_broker, sessions, level, direction, range(1, 80))


def test_wherever_amqtt_is_cut_off_what_was_published_arrives(
    tmp_path: Path, sessions: list[Session]
) -> None:
    """It does not send again what was not acknowledged, so only one way is looked at."""
    with brokers.amqtt(tmp_path / "broker") as running:
        cut_and_recover(running, sessions, Level.MQTT_311, UP, range(1, 80, 7))


def cut_and_recover(
    running: RunningBroker, sessions: list[Session], level: Level, direction: str, counts: range
) -> None:
    direct = Broker("127.0.0.1", running.port)
    with (
        cutting_proxy(running.port, level) as proxy,
        connected(direct, "writer") as writer,
        connected(direct, "observer", "out") as observer,
    ):
        lane = Session(
            Broker("127.0.0.1", proxy.port), "lane", is_clean=False, acknowledges_by_hand=True, max_inflight=3
        )
        sessions.append(lane)
        lane.subscribe("in")
        bench = Bench(proxy, lane, writer, observer)
        bench.turn_until(lambda: bench.is_subscribed)
        assert lane.level is level
        numbers: list[int | None] = []
        for count in counts:
            for _ in range(2):
                proxy.cut_after(direction, count)
                while not proxy.cuts:
                    text = b"%d" % len(numbers)
                    if running.kind == "mosquitto":
                        writer.publish("in", text)
                    numbers.append(lane.publish("out", text))
                    bench.turn_until(lambda: proxy.cuts or bench.is_settled(numbers))
                proxy.cuts = 0
            bench.turn_until(lambda: bench.is_settled(numbers))
        texts = [b"%d" % number for number in range(len(numbers))]
        wanted = texts if running.kind == "mosquitto" else []
        bench.turn_until(
            lambda: (
                set(texts) <= set(bench.seen)
                and set(wanted) <= {delivery.payload for delivery in bench.delivered}
            )
        )

    assert bench.told == numbers
    assert list(dict.fromkeys(bench.seen)) == texts
    assert list(dict.fromkeys(delivery.payload for delivery in bench.delivered)) == wanted
    assert all(event.session_present for event in bench.connects[1:])
    assert len(bench.connects) > len(counts)
    assert len(bench.delivered) > len(wanted) or not wanted  # some acknowledgements were lost
    first: dict[bytes, Delivery] = {}
    for delivery in bench.delivered:
        before = first.setdefault(delivery.payload, delivery)
        if before is not delivery:
            assert delivery.is_duplicate
            assert delivery.mid == before.mid
            assert delivery.connection > before.connection


def _told(event: Event) -> object:
    match event:
        case Delivery():
            return event.payload
        case Published():
            return event.mid
        case Subscribed():
            return event.topic_filter, event.refused
        case _:
            return event
