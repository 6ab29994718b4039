"""Session against a broker that does what none should: floods, reads nothing, shares packet ids."""

from __future__ import annotations

import time

import pytest
from support.opened import Opened
from support.scripted_broker import (
    DISCONNECT,
    PUBLISH,
    SUBSCRIBE,
    UNSUBSCRIBE,
    ScriptedBroker,
    scripted_broker,
)
from support.sessions import has, of_kind, step_until

from atoll_link.inflow import MOST_BYTES, Inflow
from atoll_link.outflow import MOST_IDS
from atoll_link.session import Broker, Delivery, Disconnected, Session


@pytest.mark.parametrize("waits", ["for the network", "for an acknowledgement"])
def test_a_broker_that_talks_and_reads_nothing_is_given_up(sessions: list[Session], waits: str) -> None:
    with scripted_broker(receive_buffer=8192) as peer:
        session = Session(Broker("127.0.0.1", peer.port, keepalive_s=1), "tested")
        sessions.append(session)
        peer.accept_session(session)
        step_until(session, lambda _: session.is_connected)
        session.publish("a", b"x" * 6_000_000, qos=0 if waits == "for the network" else 1)
        events = []
        deadline = time.monotonic() + 10
        while not of_kind(Disconnected, events) and time.monotonic() < deadline:
            peer.send(peer.publish(b"a", b"still here"))
            events += session.step(0.1)

    [lost] = of_kind(Disconnected, events)
    assert "has read nothing for 1 s" in lost.detail
    assert of_kind(Delivery, events)


def test_a_broker_that_reads_slowly_is_kept(sessions: list[Session]) -> None:
    with scripted_broker(receive_buffer=65_536) as peer:
        session = Session(Broker("127.0.0.1", peer.port, keepalive_s=1), "tested")
        sessions.append(session)
        peer.accept_session(session)
        step_until(session, lambda _: session.is_connected)
        session.publish("a", b"x" * 6_000_000, qos=0)
        started = time.monotonic()
        events = []
        while time.monotonic() - started < 2.5:
            peer.send(peer.publish(b"a", b"still here"))
            events += session.step(0.05)
            peer.read_a_little()

    assert session.is_connected
    assert not of_kind(Disconnected, events)


def test_more_deliveries_than_may_wait_end_the_connection(
    peer: ScriptedBroker, sessions: list[Session]
) -> None:
    opened = Opened(peer, sessions, acknowledges_by_hand=True, receive_maximum=10)
    for mid in range(1, 101):  # each acknowledged before the next one
        peer.send(peer.publish(b"a", b"", mid=mid))
        [delivery] = of_kind(Delivery, step_until(opened.session, has(Delivery)))
        opened.session.acknowledge(delivery)
    most = 65_535  # Mosquitto does not heed the receive maximum after a reconnect
    flood = b"".join(peer.publish(b"a", b"", mid=mid % 65_535 + 1) for mid in range(most))

    events = opened.send(flood)
    events += step_until(opened.session, has(Delivery, most - len(of_kind(Delivery, events))))
    assert opened.session.is_connected
    peer.send(peer.publish(b"a", b"", mid=77))
    [lost] = of_kind(Disconnected, step_until(opened.session, has(Disconnected)))

    assert f"more than {most} unacknowledged messages" in lost.detail


def test_deliveries_that_wait_are_bounded_in_bytes() -> None:
    inflow = Inflow(most=1000)
    inflow.come(MOST_BYTES)
    inflow.acknowledge(MOST_BYTES)
    inflow.come(MOST_BYTES)

    with pytest.raises(ValueError, match="bytes of unacknowledged messages"):
        inflow.come(1)


def test_requests_and_messages_never_share_a_packet_id(peer: ScriptedBroker, sessions: list[Session]) -> None:
    opened = Opened(peer, sessions)
    for number in range(20):
        opened.session.publish("a", b"")
        opened.session.subscribe(f"b/{number}")
        opened.session.unsubscribe(f"b/{number}")
    opened.session.step(0.0)
    seen = [peer.read() for _ in range(60)]

    ids = {kind: {one.mid for one in seen if one.kind == kind} for kind in (PUBLISH, SUBSCRIBE, UNSUBSCRIBE)}
    assert max(ids[PUBLISH]) <= MOST_IDS < min(ids[SUBSCRIBE] | ids[UNSUBSCRIBE])
    assert len(ids[SUBSCRIBE] | ids[UNSUBSCRIBE]) == 40


def test_a_session_that_leaves_messages_behind_does_not_say_good_bye(opened: Opened) -> None:
    opened.session.publish("a", b"x", qos=1)
    opened.session.close(timeout_s=0.2)

    assert opened.peer.read().kind == PUBLISH
    assert DISCONNECT not in [one.kind for one in opened.peer.read_until_the_end()]


def test_what_arrives_while_a_session_closes_stays_with_the_broker(opened: Opened) -> None:
    opened.session.publish("a", b"x", qos=1)
    opened.peer.send(opened.peer.publish(b"a", b"unheard", mid=9) + opened.peer.puback(1))
    opened.session.close(timeout_s=0.2)

    assert [one.kind for one in opened.peer.read_until_the_end()] == [PUBLISH, DISCONNECT]
