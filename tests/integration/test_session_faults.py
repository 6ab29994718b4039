"""Session against a broker that does what the test says: connecting, losing, rubbish."""

from __future__ import annotations

import time
from pathlib import Path
from random import Random

import pytest
from support.opened import Opened
from support.scripted_broker import (
    PINGREQ,
    PINGRESP,
    ScriptedBroker,
    packet,
)
from support.sessions import has, of_kind, payloads, step_until

from atoll_link.session import (
    Broker,
    Connected,
    Delivery,
    Disconnected,
    Session,
    Will,
)

# Connecting


def test_a_connection_takes_few_steps_and_no_time(peer: ScriptedBroker, sessions: list[Session]) -> None:
    session = Session(Broker("127.0.0.1", peer.port), "tested")
    sessions.append(session)
    started = time.monotonic()
    session.step(30.0)
    peer.accept_session(session)
    step_until(session, has(Connected), step_s=30.0)

    assert time.monotonic() - started < 15


def test_a_broker_that_never_answers_connect_is_given_up(
    peer: ScriptedBroker, sessions: list[Session]
) -> None:
    session = Session(Broker("127.0.0.1", peer.port), "tested", connack_timeout_s=0.3)
    sessions.append(session)

    started = time.monotonic()
    [failure] = of_kind(Disconnected, step_until(session, has(Disconnected), step_s=0.1))

    assert time.monotonic() - started > 0.25
    assert "did not answer CONNECT within 0.3 s" in failure.detail
    assert not failure.was_connected
    assert session.fileno() == -1


def test_a_broker_that_never_answers_subscribe_is_given_up(
    peer: ScriptedBroker, sessions: list[Session]
) -> None:
    session = Session(Broker("127.0.0.1", peer.port), "tested", connack_timeout_s=0.3)
    sessions.append(session)
    session.subscribe("a/b")
    peer.accept_session(session)
    step_until(session, has(Connected))
    [failure] = of_kind(Disconnected, step_until(session, has(Disconnected), step_s=0.1))

    assert "a SUBSCRIBE was not answered" in failure.detail
    assert failure.was_connected


def test_a_long_step_does_not_outsleep_the_deadline_of_connack(
    peer: ScriptedBroker, sessions: list[Session]
) -> None:
    session = Session(Broker("127.0.0.1", peer.port), "tested", connack_timeout_s=0.3)
    sessions.append(session)

    started = time.monotonic()
    step_until(session, has(Disconnected), step_s=30.0)

    assert time.monotonic() - started < 15


@pytest.mark.parametrize(
    ("old_code", "new_code", "told"),
    [
        (2, 0x85, "Client identifier not valid"),
        (3, 0x88, "Server unavailable"),
        (4, 0x86, "Bad user name or password"),
        (5, 0x87, "Not authorized"),
        (77, 0x80, "Unspecified error"),
    ],
)
def test_each_refusal_is_told_once(
    peer: ScriptedBroker, sessions: list[Session], old_code: int, new_code: int, told: str
) -> None:
    code = new_code if peer.level == 5 else old_code
    session = Session(Broker("127.0.0.1", peer.port), "tested")
    sessions.append(session)
    for attempt in range(1, 4):
        session._backoff.until = 0.0
        peer.accept_session(session, code=code)
        session._backoff.until = 0.0  # whatever would tell it a second time has its chance
        failures = of_kind(Disconnected, step_until(session, has(Disconnected)))

        assert len(failures) == 1
        assert told in failures[0].detail
        assert failures[0].was_refused
        assert not failures[0].was_connected
        assert session._backoff.attempts == attempt


def test_the_backoff_grows_to_its_cap_and_a_stable_connection_resets_it(opened: Opened) -> None:
    session = opened.session

    class Longest(Random):
        def uniform(self, a: float, b: float) -> float:
            self.ceilings.append(b)
            return b

    longest = Longest()
    longest.ceilings = []
    session._backoff.source = longest
    for _ in range(9):
        session._is_trying = True
        session._fail("by the test")
    assert longest.ceilings == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0, 30.0]

    opened.connect()
    opened.lose()
    # It had lasted no time, but the broker is there.
    assert longest.ceilings[-1] == 4.0

    opened.connect()
    session._connected_since -= 10
    opened.lose()
    assert session._backoff.until - time.monotonic() < 1


def test_the_will_is_made_anew_for_each_attempt(peer: ScriptedBroker, sessions: list[Session]) -> None:
    made = iter(range(100))
    opened = Opened(peer, sessions, will=lambda: Will("will", b"attempt %d" % next(made)))
    first = opened.connect_packet.body
    opened.lose()
    opened.connect()
    before = 0 if peer.level == 5 else 1  # the one that the broker refused for its level

    assert b"attempt %d" % before in first
    assert b"attempt %d" % (before + 1) in opened.connect_packet.body


def test_failed_attempts_leak_no_descriptors(peer: ScriptedBroker, sessions: list[Session]) -> None:
    session = Session(Broker("127.0.0.1", peer.port), "tested")
    sessions.append(session)

    def fail_once() -> int:
        session._backoff.until = 0.0
        peer.accept_session(session, code=0x87 if peer.level == 5 else 5)
        step_until(session, has(Disconnected))
        peer.hang_up()
        return len(list(Path("/proc/self/fd").iterdir()))

    before = fail_once()
    for _ in range(30):
        after = fail_once()
    assert after == before


# Losing


def test_a_lost_connection_is_told_once(opened: Opened) -> None:
    opened.session._backoff.until = 0.0
    opened.peer.hang_up()
    events = step_until(opened.session, has(Disconnected))
    opened.session._backoff.until = time.monotonic() + 60
    events += opened.session.step(0.1)

    [lost] = of_kind(Disconnected, events)
    assert lost.was_connected
    assert "closed by the broker" in lost.detail


def test_a_ping_without_an_answer_ends_the_connection(peer: ScriptedBroker, sessions: list[Session]) -> None:
    session = Session(Broker("127.0.0.1", peer.port, keepalive_s=1), "tested")
    sessions.append(session)
    peer.accept_session(session)
    started = time.monotonic()
    [lost] = of_kind(Disconnected, step_until(session, has(Disconnected), step_s=60.0))

    assert 1.0 < time.monotonic() - started < 30
    assert "ping" in lost.detail
    assert peer.read().kind == PINGREQ


def test_a_broker_that_talks_is_alive_even_while_its_answer_to_the_ping_is_late(
    peer: ScriptedBroker, sessions: list[Session]
) -> None:
    session = Session(Broker("127.0.0.1", peer.port, keepalive_s=1), "tested")
    sessions.append(session)
    peer.accept_session(session)
    step_until(session, has(Connected))
    deadline = time.monotonic() + 1.8
    events = []
    while time.monotonic() < deadline:
        events += session.step(0.2)
        peer.send(peer.publish(b"a", b""))
    peer.send(packet(PINGRESP, b""))
    events += session.step(0.2)

    assert of_kind(Disconnected, events) == []
    assert any(one.kind == PINGREQ for one in peer.read_available())


@pytest.mark.parametrize(
    "rubbish",
    [
        pytest.param(b"\x30\xff\xff\xff\xff\x7f", id="a length of five bytes"),
        pytest.param(packet(0x30, b""), id="publish without a topic"),
        pytest.param(packet(0x30, b"\x00\x09abc"), id="publish with a topic cut short"),
        pytest.param(packet(0x32, b"\x00\x01a\x00"), id="publish with a packet id cut short"),
        pytest.param(packet(0x34, b"\x00\x01a\x00\x01"), id="publish of QoS 2"),
        pytest.param(packet(0x36, b"\x00\x01a\x00\x01"), id="publish of QoS 3"),
        pytest.param(packet(0x40, b"\x00"), id="puback cut short"),
        pytest.param(packet(0x90, b"\x00"), id="suback cut short"),
        pytest.param(packet(0xB0, b"\x00"), id="unsuback cut short"),
        pytest.param(packet(0xD0, b"\x00"), id="pingresp with a body"),
        pytest.param(packet(0x00, b""), id="packet of type 0"),
        pytest.param(packet(0xF0, b""), id="packet of type 15"),
        pytest.param(packet(0x10, b"\x00\x04MQTT\x04\x02\x00\x00\x00\x00"), id="connect from the broker"),
        pytest.param(packet(0xE0, b""), id="disconnect from the broker"),
        pytest.param(packet(0x20, b"\x00\x00\x00"), id="a second connack"),
        pytest.param(packet(0x20, b"\x00\x00"), id="a second connack of the old version"),
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 20, id="HTTP"),
    ],
)
def test_rubbish_ends_the_connection_and_nothing_else(opened: Opened, rubbish: bytes) -> None:
    peer = opened.peer
    peer.send(peer.publish(b"a", b"before") + rubbish + peer.publish(b"a", b"after"))

    events = step_until(opened.session, has(Disconnected))

    assert payloads(events) == [b"before"]
    [lost] = of_kind(Disconnected, events)
    assert lost.was_connected
    opened.connect()  # and the next connection starts from a clean buffer
    peer.send(peer.publish(b"a", b"clean"))
    assert payloads(step_until(opened.session, has(Delivery))) == [b"clean"]


@pytest.mark.parametrize("early", [packet(0x30, b"\0\1a"), packet(0xD0, b""), packet(0x40, b"\0\1")])
def test_a_broker_that_does_not_answer_connect_first_is_left(
    peer: ScriptedBroker, sessions: list[Session], early: bytes
) -> None:
    session = Session(Broker("127.0.0.1", peer.port), "tested")
    sessions.append(session)
    for _ in range(peer.level - 3):  # with MQTT 5 first, and then the old version
        peer.read_connect(session)
        peer.send(early + peer.connack())
    [lost] = of_kind(Disconnected, step_until(session, has(Disconnected)))

    assert "did not answer CONNECT first" in lost.detail
    assert not lost.was_connected


def test_random_bytes_never_raise(peer: ScriptedBroker, sessions: list[Session]) -> None:
    source = Random(20240711)
    opened = Opened(peer, sessions)
    opened.session.subscribe("a")
    for _ in range(300):
        opened.session.publish("a", b"x")
        opened.session.step(0.0)
        kind = source.choice(
            [0x20, 0x30, 0x32, 0x40, 0x50, 0x62, 0x70, 0x90, 0xB0, 0xD0, source.randrange(256)]
        )
        body = source.randbytes(source.choice([0, 1, 2, 3, 4, 5, 30]))
        opened.peer.send(packet(kind, body) if source.random() < 0.9 else source.randbytes(20))
        opened.session.step(0.01)
        if opened.session.fileno() == -1:
            opened.connect()
