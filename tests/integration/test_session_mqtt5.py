"""Session with MQTT 5: what the broker tells, what it refuses, and which version is spoken."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from support import brokers
from support.brokers import RunningBroker
from support.opened import Opened
from support.scripted_broker import (
    AUTH,
    DISCONNECT,
    PINGREQ,
    PUBLISH,
    SUBSCRIBE,
    ScriptedBroker,
    packet,
    scripted_broker,
)
from support.sessions import connected, has, of_kind, payloads, step_until

from atoll_link.packets import Level
from atoll_link.session import (
    Broker,
    Connected,
    Delivery,
    Disconnected,
    Published,
    Refused,
    Session,
    Subscribed,
    wait_connected,
)

RECEIVE_MAXIMUM, MAXIMUM_PACKET_SIZE, SERVER_KEEP_ALIVE = 0x21, 0x27, 0x13
MAXIMUM_QOS, RETAIN_AVAILABLE, REASON_STRING = 0x24, 0x25, 0x1F


@pytest.fixture
def peer() -> object:
    """A scripted broker that speaks MQTT 5, in place of the one that speaks either."""
    with scripted_broker(level=5) as broker:
        yield broker


def broker_at(running: RunningBroker, **settings: object) -> Broker:
    return Broker("127.0.0.1", running.port, **settings)  # type: ignore[arg-type]


def lose_all(opened: Opened, count: int) -> None:
    """Let the connection break ``count`` times before the broker has accepted it."""
    for _ in range(count):
        opened.session._backoff.until = 0.0
        opened.peer.read_connect(opened.session)
        opened.peer.hang_up()
        step_until(opened.session, has(Disconnected))


# What CONNECT says


def test_a_persistent_session_is_asked_to_be_kept_for_a_week(
    peer: ScriptedBroker, sessions: list[Session]
) -> None:
    week = (7 * 24 * 3600).to_bytes(4, "big")
    clean = Opened(peer, sessions).connect_packet.body
    kept = Opened(peer, sessions, is_clean=False).connect_packet.body

    assert clean[7] == 0x02  # clean start
    assert kept[7] == 0x00
    assert b"\x11" + week not in clean
    assert b"\x11" + week in kept


def test_the_receive_maximum_is_told(peer: ScriptedBroker, sessions: list[Session]) -> None:
    opened = Opened(peer, sessions, receive_maximum=7)

    assert bytes((RECEIVE_MAXIMUM, 0, 7)) in opened.connect_packet.body


# What CONNACK says


def test_no_more_is_under_way_than_the_broker_receives(peer: ScriptedBroker, sessions: list[Session]) -> None:
    opened = Opened(peer, sessions, properties=bytes((RECEIVE_MAXIMUM, 0, 2)), max_inflight=10)
    for number in range(5):
        opened.session.publish("a", b"%d" % number)
    under_way = [opened.read(PUBLISH), opened.read(PUBLISH)]
    opened.session.step(0.0)
    assert peer.read_available() == []
    peer.send(peer.puback(under_way[0].mid))
    step_until(opened.session, has(Published))
    assert opened.read(PUBLISH).payload == b"2"

    opened.lose()
    opened.connect()  # and this one does not tell
    assert [opened.read(PUBLISH).payload for _ in range(4)] == [b"1", b"2", b"3", b"4"]


@pytest.mark.parametrize("qos", [0, 1])
@pytest.mark.parametrize(
    ("limit", "payload", "retain", "told"),
    [
        ((MAXIMUM_PACKET_SIZE, 0, 0, 0, 40), b"x" * 40, False, "bytes are more than the 40 that the broker"),
        ((RETAIN_AVAILABLE, 0), b"x", True, "the broker retains nothing"),
    ],
)
def test_what_the_broker_does_not_take_is_refused_and_never_sent(
    peer: ScriptedBroker,
    sessions: list[Session],
    limit: tuple[int, ...],
    payload: bytes,
    told: str,
    *,
    qos: int,
    retain: bool,
) -> None:
    opened = Opened(peer, sessions, properties=bytes(limit))
    before = opened.session.publish("a", b"before", qos=qos)
    number = opened.session.publish("a", payload, qos=qos, retain=retain)
    opened.session.publish("a", b"after", qos=qos)
    [refused] = of_kind(Refused, step_until(opened.session, has(Refused)))

    assert refused.mid == number != before
    assert told in refused.detail
    assert [peer.read().payload for _ in range(2)] == [b"before", b"after"]


def test_a_kept_message_that_this_broker_does_not_take_is_refused_at_the_connect(
    peer: ScriptedBroker, sessions: list[Session]
) -> None:
    opened = Opened(peer, sessions)
    number = opened.session.publish("a", b"x" * 100)
    opened.read(PUBLISH)
    opened.lose()
    opened.session.publish("a", b"after")

    events = opened.connect(properties=bytes((MAXIMUM_PACKET_SIZE, 0, 0, 0, 40)))
    events += opened.session.step(0.0)

    assert [event.mid for event in of_kind(Refused, events)] == [number]
    assert opened.read(PUBLISH).payload == b"after"


def test_a_broker_without_qos_1_still_takes_qos_0(peer: ScriptedBroker, sessions: list[Session]) -> None:
    opened = Opened(peer, sessions, properties=bytes((MAXIMUM_QOS, 0)))
    number = opened.session.publish("a", b"x", qos=1)
    opened.session.publish("a", b"y", qos=0)
    [refused] = of_kind(Refused, step_until(opened.session, has(Refused)))

    assert refused == Refused(number, "the broker takes QoS 0 only")  # type: ignore[arg-type]
    assert peer.read().payload == b"y"


@pytest.mark.parametrize(("keepalive_s", "asked_s", "least_s"), [(60, 1, 0.8), (2, 0, 1.8), (2, 60, 1.8)])
def test_the_broker_may_ask_for_more_pings_and_never_for_less(
    peer: ScriptedBroker, sessions: list[Session], keepalive_s: int, asked_s: int, least_s: float
) -> None:
    session = Session(Broker("127.0.0.1", peer.port, keepalive_s=keepalive_s), "tested")
    sessions.append(session)
    started = time.monotonic()
    peer.accept_session(session, properties=bytes((SERVER_KEEP_ALIVE, 0, asked_s)))
    # Were only the other of the two heeded, this would wait in vain.
    step_until(session, lambda _seen: any(one.kind == PINGREQ for one in peer.read_available()), step_s=0.1)

    assert time.monotonic() - started > least_s


# What PUBACK, SUBACK and DISCONNECT say


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (0x87, "Not authorized"),
        (0x97, "Quota exceeded"),
        (0x80, "Unspecified error"),
        (0x95, "Packet too large"),
        (0xEE, "reason code 0xee"),
    ],
)
def test_a_refused_message_is_told_as_such_and_makes_room(
    peer: ScriptedBroker, sessions: list[Session], code: int, told: str
) -> None:
    opened = Opened(peer, sessions, max_inflight=1)
    number = opened.session.publish("a", b"denied")
    opened.session.publish("a", b"next")
    mid = opened.read(PUBLISH).mid
    peer.send(packet(0x40, mid.to_bytes(2, "big") + bytes((code, 0))))
    events = step_until(opened.session, has(Refused))

    assert events == [Refused(number, told, code in {0x80, 0x97})]  # type: ignore[arg-type]
    assert opened.read(PUBLISH).payload == b"next"
    opened.lose()
    opened.connect()
    assert opened.read(PUBLISH).payload == b"next"


def test_a_message_without_a_subscriber_counts_as_published(opened: Opened) -> None:
    number = opened.session.publish("a", b"x")
    mid = opened.read(PUBLISH).mid
    opened.peer.send(packet(0x40, mid.to_bytes(2, "big") + b"\x10"))

    assert step_until(opened.session, has(Published)) == [Published(number)]  # type: ignore[arg-type]


def test_a_refused_subscription_is_told_in_words(opened: Opened) -> None:
    opened.session.subscribe("secret")
    opened.session.subscribe("$share/group/a")
    asked = [opened.read(SUBSCRIBE), opened.read(SUBSCRIBE)]
    for request, code in zip(asked, (0x87, 0x9E), strict=True):
        opened.peer.send(opened.peer.suback(request, code))

    assert step_until(opened.session, has(Subscribed, 2)) == [
        Subscribed("secret", refused=True, detail="Not authorized"),
        Subscribed("$share/group/a", refused=True, detail="Shared subscription not supported"),
    ]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (b"\x8e\0", "Session taken over"),
        (b"\x93", "Receive maximum exceeded"),
        (b"\x95\0", "Packet too large"),
        (b"\x8b" + bytes((8, REASON_STRING, 0, 5)) + b"later", "Server shutting down (later)"),
        (b"", "Normal disconnection"),
    ],
)
def test_why_the_broker_ends_the_connection_is_told_in_words(opened: Opened, body: bytes, told: str) -> None:
    opened.peer.send(opened.peer.publish(b"a", b"before") + packet(DISCONNECT, body))
    events = step_until(opened.session, has(Disconnected))

    assert payloads(events) == [b"before"]
    [lost] = of_kind(Disconnected, events)
    assert lost.detail == f"connection to mqtt://127.0.0.1:{opened.peer.port} lost: {told}"
    assert lost.was_connected
    opened.connect()
    assert opened.session.level is Level.MQTT_5


def test_a_reason_of_any_length_is_cut(opened: Opened) -> None:
    reason = bytes((REASON_STRING, 0x80, 0)) + b"x" * 0x8000
    opened.peer.send(packet(DISCONNECT, b"\x8e\x83\x80\x02" + reason))
    [lost] = of_kind(Disconnected, step_until(opened.session, has(Disconnected)))

    assert "Session taken over" in lost.detail
    assert len(lost.detail) < 400


def test_why_the_connection_was_refused_is_told_in_the_broker_s_words(
    peer: ScriptedBroker, sessions: list[Session]
) -> None:
    session = Session(Broker("127.0.0.1", peer.port), "tested")
    sessions.append(session)
    peer.accept_session(session, code=0x8A, properties=bytes((REASON_STRING, 0, 2)) + b"no")
    [refused] = of_kind(Disconnected, step_until(session, has(Disconnected)))

    assert refused.was_refused
    assert "Banned (no)" in refused.detail


def test_the_reason_is_told_though_writing_failed_before_it_was_read(
    peer: ScriptedBroker, sessions: list[Session]
) -> None:
    opened = Opened(peer, sessions)
    peer.send(packet(DISCONNECT, b"\x95\0"))
    peer.hang_up()
    deadline = time.monotonic() + 5
    while not opened.session._client._broken and time.monotonic() < deadline:
        opened.session.publish("a", b"x" * 100_000, qos=0)
        opened.session.flush()
    [lost] = of_kind(Disconnected, step_until(opened.session, has(Disconnected)))

    assert "Packet too large" in lost.detail


def test_authentication_that_was_not_asked_for_ends_the_connection(opened: Opened) -> None:
    opened.peer.send(packet(AUTH, b"\x18\0"))

    [lost] = of_kind(Disconnected, step_until(opened.session, has(Disconnected)))
    assert "no place here" in lost.detail


# Which version is spoken


def test_a_broker_that_refuses_mqtt_5_gets_the_old_one_without_a_word(sessions: list[Session]) -> None:
    with scripted_broker(level=4) as peer:
        opened = Opened(peer, sessions)
        assert opened.session.level is Level.MQTT_311
        assert peer.accepted == 2
        lost = opened.lose()
        assert lost.was_connected
        opened.connect()

        assert peer.accepted == 3  # it was remembered


def test_a_broker_that_refuses_mqtt_5_in_its_own_words_gets_the_old_one(
    peer: ScriptedBroker, sessions: list[Session]
) -> None:
    session = Session(Broker("127.0.0.1", peer.port), "tested")
    sessions.append(session)
    peer.accept_session(session, code=0x84)
    peer.accept_session(session)

    assert len(step_until(session, has(Connected))) == 1
    assert session.level is Level.MQTT_311


def test_a_broker_that_speaks_neither_is_told(peer: ScriptedBroker, sessions: list[Session]) -> None:
    session = Session(Broker("127.0.0.1", peer.port), "tested")
    sessions.append(session)
    peer.accept_session(session, code=0x84)
    peer.accept_session(session, code=1)
    [refused] = of_kind(Disconnected, step_until(session, has(Disconnected)))

    assert "protocol version" in refused.detail


@pytest.mark.parametrize("answer", [b"", b"\x20\x02\0\2", b"rubbish", packet(0x20, b"\0")])
def test_a_broker_that_hangs_up_on_mqtt_5_gets_the_old_one_at_once(
    peer: ScriptedBroker, sessions: list[Session], answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    # To wait for an answer would take longer than the peer waits for the next connection.
    monkeypatch.setattr("atoll_link.attempts._LIKELY_CONNACK_S", 60.0)
    session = Session(Broker("127.0.0.1", peer.port), "tested")
    sessions.append(session)
    peer.read_connect(session)
    peer.send(answer)
    peer.hang_up()
    peer.accept_session(session)

    assert len(step_until(session, has(Connected))) == 1
    assert session.level is Level.MQTT_311
    assert session._backoff.attempts == 0  # nor was there a pause as after a failure


def test_a_broker_that_waits_for_more_gets_the_old_one_soon(
    peer: ScriptedBroker, sessions: list[Session]
) -> None:
    session = Session(Broker("127.0.0.1", peer.port), "tested", connack_timeout_s=60.0)
    sessions.append(session)
    started = time.monotonic()
    peer.read_connect(session)
    # A second, and more where connecting took long, and by far not as long as the answer may take.
    step_until(session, lambda _seen: session.level is Level.MQTT_311, timeout_s=30.0)
    assert time.monotonic() - started > 0.9
    peer.wait_for_hang_up()
    peer.accept_session(session)
    step_until(session, has(Connected))

    assert session.level is Level.MQTT_311


def test_connections_that_break_do_not_cost_a_broker_its_mqtt_5(opened: Opened) -> None:
    opened.lose()
    lose_all(opened, 4)
    opened.connect()

    assert opened.session.level is Level.MQTT_5


def test_a_slow_broker_that_has_spoken_mqtt_5_is_waited_for(
    peer: ScriptedBroker, sessions: list[Session]
) -> None:
    opened = Opened(peer, sessions)
    opened.lose()
    opened.session._backoff.until = 0.0
    peer.read_connect(opened.session)
    assert opened.session.step(1.0) == []
    peer.send(peer.connack())
    step_until(opened.session, has(Connected))

    assert opened.session.level is Level.MQTT_5


@pytest.mark.mosquitto
def test_each_broker_is_spoken_to_in_its_newest_version(
    any_broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    # An answer that never comes would be waited for beyond the patience of ``connected``.
    monkeypatch.setattr("atoll_link.attempts._LIKELY_CONNACK_S", 60.0)
    with connected(broker_at(any_broker), "tested", "a", connack_timeout_s=60.0) as session:
        assert session.level is (Level.MQTT_311 if any_broker.kind == "amqtt" else Level.MQTT_5)


@pytest.mark.mosquitto
def test_a_broker_that_restarts_is_spoken_to_in_mqtt_5_again(mosquitto_broker: RunningBroker) -> None:
    with connected(broker_at(mosquitto_broker), "tested") as session:
        for _ in range(2):
            mosquitto_broker.stop(signal.SIGKILL)
            step_until(session, has(Disconnected))
            mosquitto_broker.start()
            wait_connected(session, 30.0)
            assert session.level is Level.MQTT_5


# Mosquitto


@pytest.mark.mosquitto
def test_an_access_rule_refuses_one_message_and_not_the_next(tmp_path: Path) -> None:
    rules = tmp_path / "rules"
    rules.write_text("topic write open\n")
    rules.chmod(0o644)
    with (
        brokers.mosquitto(tmp_path / "broker", f"acl_file {rules}") as running,
        connected(broker_at(running), "writer") as writer,
    ):
        denied = writer.publish("secret", b"x")
        allowed = writer.publish("open", b"x")
        events = step_until(writer, has(Published))

    # Mosquitto 2.0.11 ends the connection after such an answer.
    assert of_kind(Refused, events) == [Refused(denied, "Not authorized")]  # type: ignore[arg-type]
    assert of_kind(Published, events) == [Published(allowed)]  # type: ignore[arg-type]


@pytest.mark.mosquitto
@pytest.mark.parametrize(
    ("line", "size", "retain", "told"),
    [
        ("max_packet_size 1000", 2000, False, "more than the 1000 that the broker takes"),
        ("message_size_limit 1000", 2000, False, "Packet too large"),
        ("retain_available false", 10, True, "retains nothing"),
    ],
)
def test_what_is_beyond_mosquitto_s_limits_is_told_once(
    tmp_path: Path, line: str, size: int, told: str, *, retain: bool
) -> None:
    with (
        brokers.mosquitto(tmp_path / "broker", line) as running,
        connected(broker_at(running), "writer") as writer,
    ):
        refused = writer.publish("a", b"x" * size, retain=retain)
        taken = writer.publish("a", b"y")
        events = step_until(writer, has(Published))

    assert of_kind(Published, events) == [Published(taken)]  # type: ignore[arg-type]
    [refusal] = of_kind(Refused, events)
    assert refusal.mid == refused
    assert told in refusal.detail


@pytest.mark.mosquitto
@pytest.mark.parametrize("receive_maximum", [1, 30])
def test_mosquitto_sends_as_many_as_are_received(
    mosquitto_broker: RunningBroker, receive_maximum: int
) -> None:
    broker = broker_at(mosquitto_broker)
    options = {"is_clean": False, "acknowledges_by_hand": True, "receive_maximum": receive_maximum}
    with connected(broker, "lane", "r", **options) as lane, connected(broker, "writer") as writer:
        for number in range(50):
            writer.publish("r", b"%d" % number)
        step_until(writer, has(Published, 50))
        seen: list[Delivery] = []
        while len(seen) < 50:
            got = of_kind(Delivery, step_until(lane, has(Delivery, min(receive_maximum, 50 - len(seen)))))
            got += of_kind(Delivery, lane.step(0.0))
            assert len(got) <= receive_maximum
            for delivery in got:
                lane.acknowledge(delivery)
            seen += got

    assert [delivery.payload for delivery in seen] == [b"%d" % number for number in range(50)]


@pytest.mark.mosquitto
def test_a_session_of_the_old_version_is_resumed_in_the_new_one(mosquitto_broker: RunningBroker) -> None:
    """An agent that is updated finds what the broker kept for it."""
    broker = broker_at(mosquitto_broker)
    old = Session(broker, "agent", is_clean=False)
    old._levels.accept(Level.MQTT_311, time.monotonic())
    old.subscribe("r")
    step_until(old, has(Subscribed))
    assert old.level is Level.MQTT_311
    old.close()
    with connected(broker, "writer") as writer:
        writer.publish("r", b"meanwhile")
        step_until(writer, has(Published))

    new = Session(broker, "agent", is_clean=False)
    events = step_until(new, has(Delivery))
    new.close()

    assert new.level is Level.MQTT_5
    assert [event.session_present for event in of_kind(Connected, events)] == [True]
    assert payloads(events) == [b"meanwhile"]
