"""One wait on several sessions."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from support.opened import Opened
from support.scripted_broker import PINGREQ, PUBLISH, ScriptedBroker, scripted_broker
from support.sessions import has, of_kind, payloads, step_until

from atoll_link.dialling import Dialling
from atoll_link.session import Broker, Connected, Delivery, Disconnected, Published, Refused, Session
from atoll_link.waiting import Waiter


@pytest.fixture
def both(sessions: list[Session]) -> Iterator[tuple[Opened, Opened]]:
    with scripted_broker() as first, scripted_broker() as second:
        yield Opened(first, sessions), Opened(second, sessions)


@pytest.fixture
def waiter(both: tuple[Opened, Opened]) -> Iterator[Waiter[Session]]:
    waiting = Waiter([opened.session for opened in both])
    yield waiting
    waiting.close()


def test_the_session_that_has_something_is_returned_at_once_and_alone(
    both: tuple[Opened, Opened], waiter: Waiter[Session]
) -> None:
    _, second = both
    second.peer.send(second.peer.publish(b"a", b"x"))
    started = time.monotonic()

    assert waiter.wait(30.0) == [second.session]
    assert payloads(second.session.step(0.0)) == [b"x"]
    assert time.monotonic() - started < 15


def test_a_wait_for_nothing_takes_its_time(waiter: Waiter[Session]) -> None:
    started = time.monotonic()

    assert waiter.wait(0.3) == []
    assert 0.25 < time.monotonic() - started < 15


def test_another_thread_ends_the_wait(waiter: Waiter[Session]) -> None:
    for _ in range(2):
        waker = threading.Timer(0.2, waiter.wake)
        started = time.monotonic()
        waker.start()
        assert waiter.wait(30.0) == []
        assert 0.1 < time.monotonic() - started < 15
        waker.join()


def test_a_session_that_could_not_write_is_returned_when_it_can(
    sessions: list[Session],
) -> None:
    with scripted_broker(receive_buffer=8192) as peer:
        opened = Opened(peer, sessions)
        waiter = Waiter([opened.session])
        opened.session.publish("a", b"x" * 6_000_000, qos=0)
        opened.session.flush()
        assert opened.session.wants_write
        assert waiter.wait(0.2) == []
        deadline = time.monotonic() + 20
        events = []
        while not of_kind(Published, events) and time.monotonic() < deadline:
            peer.read_available()
            for session in waiter.wait(0.1):
                events += session.step(0.0)
        waiter.close()

    assert not opened.session.wants_write
    assert len(of_kind(Published, events)) == 1


def test_a_session_is_returned_to_connect_to_ping_and_to_give_up(
    peer: ScriptedBroker, sessions: list[Session]
) -> None:
    session = Session(Broker("127.0.0.1", peer.port, keepalive_s=1), "tested")
    sessions.append(session)
    waiter = Waiter([session])
    assert waiter.wait(30.0) == [session]
    started = time.monotonic()
    peer.accept_session(session)
    assert waiter.wait(30.0) == [session]
    assert of_kind(Connected, session.step(0.0))
    events = []
    while not events:
        assert waiter.wait(30.0) == [session]
        events += session.step(0.0)
    waiter.close()

    assert 1.2 < time.monotonic() - started < 15
    [lost] = events
    assert isinstance(lost, Disconnected)
    assert "ping" in lost.detail
    assert [one.kind for one in peer.read_available()] == [PINGREQ]


def test_events_that_nobody_has_taken_end_the_wait(sessions: list[Session]) -> None:
    with scripted_broker() as peer:
        opened = Opened(peer, sessions, properties=b"\x25\0")  # retain is not available
        waiter = Waiter([opened.session])
        number = opened.session.publish("a", b"x", retain=True)

        assert waiter.wait(5.0) == [opened.session]
        [refused] = of_kind(Refused, opened.session.step(0.0))
        assert refused.mid == number
        waiter.close()


def test_that_a_message_was_written_hurries_nobody_and_is_told_first(
    both: tuple[Opened, Opened], waiter: Waiter[Session]
) -> None:
    first, _ = both
    number = first.session.publish("a", b"x", qos=0)
    first.session.flush()
    assert waiter.wait(0.2) == []
    first.peer.send(first.peer.publish(b"a", b"x"))
    assert waiter.wait(5.0) == [first.session]

    published, delivery = first.session.step(0.0)
    assert published == Published(number)  # type: ignore[arg-type]
    assert isinstance(delivery, Delivery)


def test_what_was_published_leaves_with_flush_and_no_step(both: tuple[Opened, Opened]) -> None:
    first, _ = both
    first.session.publish("a", b"x")
    first.session.flush()

    assert first.peer.read().kind == PUBLISH


def test_a_new_connection_is_waited_for_in_place_of_the_old_one(
    both: tuple[Opened, Opened], waiter: Waiter[Session]
) -> None:
    first, second = both
    waiter.wait(0.0)
    for opened in both:
        opened.lose()
    second.connect()  # the descriptors may have changed places
    first.connect()
    waiter.wait(0.0)
    first.peer.send(first.peer.publish(b"a", b"x"))

    assert waiter.wait(5.0) == [first.session]
    assert len(step_until(first.session, has(Delivery))) == 1


def test_a_session_that_was_removed_is_not_waited_for(
    both: tuple[Opened, Opened], waiter: Waiter[Session]
) -> None:
    first, second = both
    waiter.wait(0.0)
    waiter.remove(first.session)
    for opened in both:
        opened.peer.send(opened.peer.publish(b"a", b"x"))

    assert waiter.wait(30.0) == [second.session]
    second.session.step(0.0)
    assert waiter.wait(0.2) == []


class SlowNames:
    """Lets no name be found until a test says so, which then is none."""

    def __init__(self) -> None:
        self.asked = threading.Semaphore(0)
        self.answer = threading.Event()

    def __call__(self, *_: object, **__: object) -> list[object]:
        self.asked.release()
        assert self.answer.wait(20)
        raise socket.gaierror(socket.EAI_AGAIN, "no name server")


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[SlowNames]:
    slow = SlowNames()
    monkeypatch.setattr("socket.getaddrinfo", slow)
    yield slow
    slow.answer.set()


def test_a_name_that_takes_long_to_find_holds_up_no_other_session(
    both: tuple[Opened, Opened], waiter: Waiter[Session], names: SlowNames, sessions: list[Session]
) -> None:
    first, _ = both
    lost = Session(Broker("far.example", 1883), "lost")
    sessions.append(lost)
    waiter.add(lost)
    started = time.monotonic()

    assert waiter.wait(5.0) == [lost]
    assert lost.step(0.0) == []
    assert names.asked.acquire(timeout=5)
    first.peer.send(first.peer.publish(b"a", b"x"))
    assert waiter.wait(5.0) == [first.session]
    assert payloads(first.session.step(0.0)) == [b"x"]
    assert time.monotonic() - started < 10  # the name is looked up for 20 s

    names.answer.set()
    assert waiter.wait(5.0) == [lost]
    [failed] = lost.step(0.0)
    assert isinstance(failed, Disconnected)
    assert "no name server" in failed.detail


def test_an_attempt_to_connect_that_takes_too_long_is_given_up(
    names: SlowNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("atoll_link.dialling._LONGEST_S", 0.2)
    session = Session(Broker("far.example", 1883), "lost")

    [failed] = of_kind(Disconnected, step_until(session, has(Disconnected)))

    assert not names.answer.is_set()
    assert "no connection within" in failed.detail
    session.close()


def test_a_socket_that_opens_after_its_attempt_was_given_up_is_closed() -> None:
    ours, theirs = socket.socketpair()
    go_on = threading.Event()

    def dial() -> socket.socket:
        assert go_on.wait(20)
        return ours

    dialling = Dialling(dial)
    assert dialling.take() is None
    dialling.give_up()
    go_on.set()

    theirs.settimeout(20)
    assert theirs.recv(1) == b""
    theirs.close()
