"""Session against a broker that does what the test says: messages, subscriptions, the end."""

from __future__ import annotations

import socket
import time

import pytest
from support.opened import Opened
from support.scripted_broker import (
    DISCONNECT,
    PUBACK,
    PUBLISH,
    SUBSCRIBE,
    UNSUBSCRIBE,
    Packet,
    ScriptedBroker,
    scripted_broker,
)
from support.sessions import has, of_kind, payloads, step_until

from atoll_link.session import (
    Broker,
    Connected,
    Delivery,
    Disconnected,
    Event,
    Published,
    Session,
    Subscribed,
)

# Messages in


def test_a_packet_may_arrive_byte_by_byte(opened: Opened) -> None:
    for byte in opened.peer.publish(b"topic", b"payload" * 30, mid=300):
        opened.peer.send(bytes((byte,)))
        events = opened.session.step(0.5)

    assert payloads(events) == [b"payload" * 30]


def test_a_topic_that_is_not_utf8_arrives_empty_so_that_it_can_be_acknowledged(
    peer: ScriptedBroker, sessions: list[Session]
) -> None:
    opened = Opened(peer, sessions, acknowledges_by_hand=True)
    opened.peer.send(opened.peer.publish(b"\xff\xfe", b"x", mid=9))
    [delivery] = of_kind(Delivery, step_until(opened.session, has(Delivery)))
    opened.session.acknowledge(delivery)

    assert delivery.topic == ""
    assert opened.read(PUBACK).mid == 9


def test_a_packet_that_is_too_long_is_cut_and_can_be_acknowledged(
    peer: ScriptedBroker, sessions: list[Session]
) -> None:
    opened = Opened(peer, sessions, acknowledges_by_hand=True, max_packet_bytes=1000)
    big = peer.publish(b"big", b"x" * 5_000_000, mid=9)
    events = opened.send(big + peer.publish(b"small", b"next", mid=10))
    events += step_until(opened.session, lambda late: has(Delivery, 2)(events + late))
    for delivery in of_kind(Delivery, events):
        opened.session.acknowledge(delivery)

    assert payloads(events) == [b"x" * (1000 - 2 - 3 - 2 - (peer.level == 5)), b"next"]
    assert [opened.read(PUBACK).mid, opened.read(PUBACK).mid] == [9, 10]


def test_deliveries_are_acknowledged_in_the_order_of_the_owner(
    peer: ScriptedBroker, sessions: list[Session]
) -> None:
    opened = Opened(peer, sessions, acknowledges_by_hand=True)
    opened.peer.send(b"".join(opened.peer.publish(b"a", b"", mid=mid) for mid in (1, 2, 3)))
    deliveries = of_kind(Delivery, step_until(opened.session, has(Delivery, 3)))
    assert opened.peer.read_available() == []
    for delivery in deliveries:
        opened.session.acknowledge(delivery)
    opened.session.acknowledge(Delivery("a", b"", 0, 0, False, False, 1, 0.0, 0))

    assert [opened.read(PUBACK).mid for _ in range(3)] == [1, 2, 3]
    opened.session.step(0.0)
    assert opened.peer.read_available() == []


def test_deliveries_are_acknowledged_at_once_unless_by_hand(opened: Opened) -> None:
    opened.peer.send(opened.peer.publish(b"a", b"", mid=7))
    [delivery] = of_kind(Delivery, step_until(opened.session, has(Delivery)))
    opened.session.acknowledge(delivery)  # in vain, and without harm
    opened.session.step(0.0)

    assert opened.peer.read().mid == 7
    assert opened.peer.read_available() == []


def test_an_acknowledgement_never_crosses_into_the_next_connection(
    peer: ScriptedBroker, sessions: list[Session]
) -> None:
    opened = Opened(peer, sessions, acknowledges_by_hand=True)
    opened.peer.send(opened.peer.publish(b"a", b"old", mid=7))
    [old] = of_kind(Delivery, step_until(opened.session, has(Delivery)))
    opened.lose()
    opened.session.acknowledge(old)
    opened.connect()
    opened.peer.send(opened.peer.publish(b"a", b"new", mid=7))
    [new] = of_kind(Delivery, step_until(opened.session, has(Delivery)))

    opened.session.acknowledge(old)
    opened.session.step(0.0)
    assert opened.peer.read_available() == []
    opened.session.acknowledge(new)
    assert opened.read(PUBACK).mid == 7


def test_a_flood_does_not_starve_what_is_to_be_written(peer: ScriptedBroker, sessions: list[Session]) -> None:
    """Each step writes, however much there is to be read."""
    opened = Opened(peer, sessions, max_inflight=100)
    flood = peer.publish(b"a", b"x" * 100) * 1000
    heard = 0
    for number in range(30):
        opened.peer.send(flood)
        opened.session.publish("out", b"%d" % number, qos=1)
        heard += len(of_kind(Delivery, opened.session.step(0.0)))
        assert opened.peer.read().payload == b"%d" % number
    step_until(opened.session, has(Delivery, 30_000 - heard))


# Messages out


def test_no_more_than_the_window_is_under_way(peer: ScriptedBroker, sessions: list[Session]) -> None:
    opened = Opened(peer, sessions, max_inflight=3)
    for number in range(8):
        opened.session.publish("a", b"%d" % number)
    first = [opened.read(PUBLISH) for _ in range(3)]
    opened.session.step(0.0)
    assert opened.peer.read_available() == []
    peer.send(peer.puback(first[0].mid, first[1].mid))

    step_until(opened.session, has(Published, 2))
    assert [opened.read(PUBLISH).payload for _ in range(2)] == [b"3", b"4"]
    assert opened.peer.read_available() == []


def test_after_a_reconnect_the_window_comes_first_flagged_with_its_old_ids(
    peer: ScriptedBroker, sessions: list[Session]
) -> None:
    opened = Opened(peer, sessions, max_inflight=2, is_clean=False)
    for number in range(4):
        opened.session.publish("a", b"%d" % number)
    before = [opened.read(PUBLISH) for _ in range(2)]
    opened.lose()
    opened.session.publish("a", b"4")
    opened.connect(session_present=True)
    after = [opened.read(PUBLISH) for _ in range(2)]
    opened.session.step(0.0)

    assert [one.payload for one in after] == [b"0", b"1"]
    assert [one.mid for one in after] == [one.mid for one in before]
    assert all(one.dup for one in after)
    assert opened.peer.read_available() == []
    later = []
    for acknowledged in after:
        peer.send(peer.puback(acknowledged.mid))
        step_until(opened.session, has(Published))
        later.append(opened.read(PUBLISH))
    assert [(one.payload, one.dup) for one in later] == [(b"2", False), (b"3", False)]


def test_nothing_is_published_before_connack(peer: ScriptedBroker, sessions: list[Session]) -> None:
    session = Session(Broker("127.0.0.1", peer.port), "tested")
    sessions.append(session)
    session.publish("a", b"before the connect")
    peer.read_connect(session)
    session.publish("a", b"after the connect")
    assert session.publish("a", b"lost", qos=0) is None
    session.step(0.0)
    assert peer.read_available() == []
    peer.send(peer.connack())
    step_until(session, has(Connected))
    session.step(0.0)

    assert [peer.read().payload, peer.read().payload] == [b"before the connect", b"after the connect"]


def test_packet_ids_in_use_are_skipped_when_they_come_round_again(
    peer: ScriptedBroker, sessions: list[Session]
) -> None:
    opened = Opened(peer, sessions, max_inflight=100, max_kept=100)
    stuck = [opened.session.publish("a", b"stuck") for _ in range(3)]
    stuck_mids = [opened.read(PUBLISH).mid for _ in range(3)]
    told: list[int] = []
    seen_mids = []
    deadline = time.monotonic() + 60
    sent = 0
    while len(told) < 65_600 and time.monotonic() < deadline:
        while sent < 65_600 and opened.session.publish("a", b"x") is not None:
            sent += 1
        opened.session.step(0.0)
        mids = [one.mid for one in opened.peer.read_available()]
        seen_mids += mids
        peer.send(peer.puback(*mids))
        told += [event.mid for event in of_kind(Published, opened.session.step(0.2))]

    assert len(told) == 65_600
    assert not set(seen_mids) & set(stuck_mids)
    assert not set(told) & set(stuck)
    assert 0 not in seen_mids
    peer.send(peer.puback(*stuck_mids))
    assert [event.mid for event in step_until(opened.session, has(Published, 3))] == stuck


def test_an_acknowledgement_of_nothing_is_ignored(opened: Opened) -> None:
    opened.peer.send(opened.peer.puback(0x1234) + opened.peer.publish(b"a", b"next"))

    events = step_until(opened.session, has(Delivery))

    assert of_kind(Published, events) == []


def test_a_full_socket_bounds_what_is_kept_and_delivers_all_of_it_later(sessions: list[Session]) -> None:
    with scripted_broker(receive_buffer=8192) as peer:
        opened = Opened(peer, sessions, max_inflight=10, max_kept=50)
        taken = 0
        deadline = time.monotonic() + 20
        while opened.session.publish("a", taken.to_bytes(4, "big") * 10_000, qos=0) is not None:
            taken += 1
            started = time.monotonic()
            opened.session.step(0.0)
            assert time.monotonic() - started < 15
            assert time.monotonic() < deadline
        assert opened.session._client.outbox.size < 9 * 1024 * 1024
        kept = 0
        while opened.session.publish("a", b"kept", qos=1) is not None:
            kept += 1
        assert kept == 50

        # A blocked socket neither makes the step spin nor keeps it from waiting.
        started = time.monotonic()
        opened.session.step(0.3)
        assert 0.25 < time.monotonic() - started < 15

        arrived: list[Packet] = []
        deadline = time.monotonic() + 30
        told = []
        while len(arrived) < taken + 10 and time.monotonic() < deadline:
            arrived += peer.read_available()
            told += of_kind(Published, opened.session.step(0.01))

    expected = [number.to_bytes(4, "big") * 10_000 for number in range(taken)] + [b"kept"] * 10
    assert [one.payload for one in arrived] == expected


def test_qos_0_messages_are_told_when_the_network_took_them_and_not_before(
    sessions: list[Session],
) -> None:
    with scripted_broker(receive_buffer=8192) as peer:
        opened = Opened(peer, sessions)
        first = opened.session.publish("a", b"small", qos=0)
        events = opened.session.step(0.0)
        big = opened.session.publish("a", b"x" * 6_000_000, qos=0)
        last = opened.session.publish("a", b"behind it", qos=0)
        events += opened.session.step(0.0)
        assert [event.mid for event in of_kind(Published, events)] == [first]
        told: list[Event] = []
        deadline = time.monotonic() + 20
        while len(told) < 2 and time.monotonic() < deadline:
            peer.read_available()
            told += of_kind(Published, opened.session.step(0.01))

    assert told == [Published(big), Published(last)]  # type: ignore[arg-type]


def test_what_was_not_sent_with_qos_0_is_gone_with_its_connection(sessions: list[Session]) -> None:
    with scripted_broker(receive_buffer=8192) as peer:
        opened = Opened(peer, sessions)
        opened.session.publish("a", b"x" * 6_000_000, qos=0)
        events = opened.session.step(0.0)
        peer.hang_up()
        events += step_until(opened.session, has(Disconnected))
        events += opened.connect()
        fresh = opened.session.publish("a", b"fresh", qos=0)
        events += opened.session.step(0.0)

        assert peer.read().payload == b"fresh"
        assert [event.mid for event in of_kind(Published, events)] == [fresh]


@pytest.mark.parametrize(
    ("topic", "payload", "qos"),
    [
        ("", b"", 1),
        ("a/+", b"", 1),
        ("a/#", b"", 1),
        ("a\0", b"", 1),
        ("x" * 65_536, b"", 1),
        ("\ud800", b"", 1),
        ("a", b"", 2),
        ("a", b"", -1),
    ],
)
def test_what_no_broker_takes_is_refused_and_not_kept(
    opened: Opened, topic: str, payload: bytes, qos: int
) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each has its own text
        opened.session.publish(topic, payload, qos=qos)
    opened.session.publish("a", b"good")

    assert opened.read(PUBLISH).payload == b"good"


# Subscriptions


@pytest.mark.parametrize("topic_filter", ["", "a/#/b", "a+", "+a", "a#", "a/b+/c", "\0", "x" * 65_536])
def test_what_is_no_filter_is_refused_and_does_not_hurt_the_next_connect(
    opened: Opened, topic_filter: str
) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each has its own text
        opened.session.subscribe(topic_filter)
    opened.session.subscribe("a/+/#")

    assert b"a/+/#" in opened.read(SUBSCRIBE).body


def test_a_refused_subscription_is_told(opened: Opened) -> None:
    opened.session.subscribe("secret")
    opened.session.subscribe("open")
    for asked, answer in [(opened.read(SUBSCRIBE), 0x80), (opened.read(SUBSCRIBE), 1)]:
        opened.peer.send(opened.peer.suback(asked, answer))

    assert step_until(opened.session, has(Subscribed, 2)) == [
        Subscribed("secret", refused=True, detail="Unspecified error"),
        Subscribed("open", refused=False),
    ]


def test_subscriptions_leave_eight_at_a_time_at_each_connect(
    peer: ScriptedBroker, sessions: list[Session]
) -> None:
    session = Session(Broker("127.0.0.1", peer.port), "tested")
    sessions.append(session)
    for number in range(20):
        session.subscribe(f"topic/{number}", qos=number % 2)
    for _ in range(2):
        session._backoff.until = 0.0
        peer.accept_session(session)
        step_until(session, has(Connected))
        session.step(0.0)
        packets = [peer.read() for _ in range(3)]
        assert [one.kind for one in packets] == [SUBSCRIBE] * 3
        assert [one.body.count(b"topic/") for one in packets] == [8, 8, 4]
        for one in packets:
            peer.send(peer.suback(one, *[1] * one.body.count(b"topic/")))
        told = of_kind(Subscribed, step_until(session, has(Subscribed, 20)))
        assert [event.topic_filter for event in told] == [f"topic/{number}" for number in range(20)]
        peer.hang_up()
        step_until(session, has(Disconnected))


def test_an_unsubscription_is_repeated_until_the_broker_has_answered_it(
    peer: ScriptedBroker, sessions: list[Session]
) -> None:
    opened = Opened(peer, sessions, is_clean=False)
    opened.session.subscribe("a")
    opened.read(SUBSCRIBE)
    opened.session.unsubscribe("a")
    opened.read(UNSUBSCRIBE)
    opened.lose()

    opened.connect(session_present=True)
    asked = opened.read(UNSUBSCRIBE)
    peer.send(peer.unsuback(asked) + peer.publish(b"marker", b""))
    step_until(opened.session, has(Delivery))
    opened.lose()

    opened.connect(session_present=True)
    opened.session.step(0.0)
    assert opened.peer.read_available() == []


# The end


def test_close_writes_what_is_queued_and_says_good_bye(opened: Opened) -> None:
    opened.session.publish("a", b"last", qos=0)
    opened.session.publish("a", b"words", qos=1)
    opened.peer.send(opened.peer.puback(1))
    opened.session.close(timeout_s=0.2)

    assert [opened.peer.read().kind for _ in range(3)] == [PUBLISH, PUBLISH, DISCONNECT]
    opened.peer.wait_for_hang_up()


def test_close_does_not_reset_the_connection_though_bytes_are_unread(opened: Opened) -> None:
    """A reset can make the other side lose what was sent before it: the good-bye, for one."""
    opened.peer.send(opened.peer.publish(b"a", b"x" * 50_000))
    opened.session.close(timeout_s=0.2)

    assert opened.peer.read().kind == DISCONNECT
    opened.peer.wait_for_hang_up(may_reset=False)


def test_small_messages_do_not_wait_for_company(opened: Opened) -> None:
    sock = opened.session._client.socket()

    assert isinstance(sock, socket.socket)
    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) == 1


def test_close_acknowledges_nothing_that_its_owner_has_not_seen(opened: Opened) -> None:
    opened.peer.send(opened.peer.publish(b"a", b"unseen", mid=7))
    opened.session.close(timeout_s=0.2)

    assert opened.peer.read().kind == DISCONNECT
    opened.peer.wait_for_hang_up()


def test_close_keeps_its_deadline_with_a_broker_that_does_not_read(sessions: list[Session]) -> None:
    with scripted_broker(receive_buffer=8192) as peer:
        opened = Opened(peer, sessions)
        opened.session.publish("a", b"x" * 6_000_000, qos=0)
        started = time.monotonic()
        opened.session.close(timeout_s=0.5)

        assert 0.4 < time.monotonic() - started < 15
        assert opened.session.fileno() == -1
