"""Session against real brokers: the last will, losing and finding the broker, at least once."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import pytest
from support import brokers
from support.brokers import RunningBroker
from support.scripted_broker import PINGRESP
from support.sessions import connected, has, of_kind, payloads, step_until

from atoll_contract.errors import BrokerUnavailableError
from atoll_link.attempts import Backoff
from atoll_link.paho_client import PahoClient
from atoll_link.session import (
    Broker,
    Connected,
    Delivery,
    Disconnected,
    Published,
    Session,
    Subscribed,
    Will,
    wait_connected,
)
from atoll_sim.demo.ports import free_port

pytestmark = pytest.mark.mosquitto


def broker_at(running: RunningBroker, **settings: object) -> Broker:
    return Broker(host="127.0.0.1", port=running.port, **settings)  # type: ignore[arg-type]


# The last will

WILL_SCRIPT = """
import sys
from atoll_link.session import Broker, Session, Will, wait_connected
session = Session(Broker("127.0.0.1", int(sys.argv[1])), "mortal", will=lambda: Will("will", b"gone"))
wait_connected(session, 10)
print("connected", flush=True)
while True:
    session.step(1)
"""


def test_the_will_is_published_when_the_process_is_killed(any_broker: RunningBroker) -> None:
    with connected(broker_at(any_broker), "heir", "will") as heir:
        command = [sys.executable, "-c", WILL_SCRIPT, str(any_broker.port)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as mortal:
            assert mortal.stdout is not None
            assert mortal.stdout.readline() == b"connected\n"
            mortal.kill()
        assert payloads(step_until(heir, has(Delivery))) == [b"gone"]

    with connected(broker_at(any_broker), "later") as later:
        later.subscribe("will")
        # amqtt may still be passing on the will itself, too.
        step_until(later, lambda seen: any(one.is_retained for one in of_kind(Delivery, seen)))


def test_close_tells_the_broker_so_that_the_will_stays_unpublished(any_broker: RunningBroker) -> None:
    broker = broker_at(any_broker)
    with connected(broker, "heir", "will", "marker") as heir:
        with connected(broker, "mortal", will=lambda: Will("will", b"gone")) as mortal:
            mortal.publish("marker", b"last words")
        assert payloads(step_until(heir, has(Delivery))) == [b"last words"]
        # The broker has seen the connection end before it sees this.
        with connected(broker, "other") as other:
            other.publish("marker", b"after")
            step_until(other, has(Published))
        assert payloads(step_until(heir, has(Delivery))) == [b"after"]


def test_close_is_clean_even_with_unread_messages_at_hand(mosquitto_broker: RunningBroker) -> None:
    """Closing a socket with unread bytes resets the connection and can swallow DISCONNECT."""
    broker = broker_at(mosquitto_broker)
    with connected(broker, "heir", "will", "marker") as heir, connected(broker, "writer") as writer:
        mortal = Session(broker, "mortal", will=lambda: Will("will", b"gone"))
        mortal.subscribe("flood", qos=0)
        step_until(mortal, has(Subscribed))
        for _ in range(200):
            writer.publish("flood", b"x" * 10_000, qos=0)
        step_until(writer, has(Published, 200))
        started = time.monotonic()
        mortal.close(timeout_s=30.0)
        assert time.monotonic() - started < 15
        writer.publish("marker", b"after")
        step_until(writer, has(Published))
        assert payloads(step_until(heir, has(Delivery))) == [b"after"]


def test_what_is_under_way_at_close_arrives(any_broker: RunningBroker) -> None:
    broker = broker_at(any_broker)
    expected = [b"%d" % number for number in range(20)]  # so many may be under way
    with connected(broker, "reader", "last") as reader:
        with connected(broker, "writer") as writer:
            for payload in expected:
                writer.publish("last", payload)
        assert payloads(step_until(reader, has(Delivery, 20))) == expected


def test_what_is_not_acknowledged_at_close_comes_to_the_next(mosquitto_broker: RunningBroker) -> None:
    broker = broker_at(mosquitto_broker)
    options = {"is_clean": False, "acknowledges_by_hand": True}
    with connected(broker, "writer") as writer:
        with connected(broker, "lane", "r", **options) as lane:
            for number in range(5):
                writer.publish("r", b"%d" % number)
            step_until(writer, has(Published, 5))
            for delivery in of_kind(Delivery, step_until(lane, has(Delivery, 5)))[:2]:
                lane.acknowledge(delivery)
        lane = Session(broker, "lane", **options)  # type: ignore[arg-type]
        again = of_kind(Delivery, step_until(lane, has(Delivery, 3)))
        lane.close()

    assert [delivery.payload for delivery in again] == [b"2", b"3", b"4"]
    assert all(delivery.is_duplicate for delivery in again)


def test_closing_twice_and_waking_a_closed_session_do_no_harm(any_broker: RunningBroker) -> None:
    session = Session(broker_at(any_broker), "reader")
    wait_connected(session, 10.0)

    session.close()
    session.close()
    session.wake()

    assert session.step(0.0) == []
    assert session.fileno() == -1
    assert not session.is_connected


# Losing and finding the broker


def test_a_broker_that_stops_is_told_and_found_again_with_all_subscriptions(
    any_broker: RunningBroker,
) -> None:
    with connected(broker_at(any_broker), "reader", "a", "b") as session:
        any_broker.stop()
        [lost] = of_kind(Disconnected, step_until(session, has(Disconnected)))
        assert lost.was_connected
        assert str(any_broker.port) in lost.detail
        assert not session.is_connected

        any_broker.start()
        seen = step_until(session, has(Subscribed, 2), 30.0)
        session.publish("b", b"again")

        assert [event.connection for event in of_kind(Connected, seen)] == [2]
        assert payloads(step_until(session, has(Delivery))) == [b"again"]


def test_failed_attempts_are_told_and_become_rarer(mosquitto_broker: RunningBroker) -> None:
    mosquitto_broker.stop()
    session = Session(broker_at(mosquitto_broker), "reader")
    deadline = time.monotonic() + 2.0
    events = []
    while time.monotonic() < deadline:
        events += session.step(0.1)
    session.close()

    # Ceilings of 0.5, 1, 2, 4 s, each drawn from zero on: the chance of 12 in 2 s is below 1e-6.
    failures = of_kind(Disconnected, events)
    assert 1 <= len(failures) <= 12
    assert all("refused" in failure.detail for failure in failures)
    assert not any(failure.was_connected for failure in failures)
    assert session._backoff.attempts == len(failures)


def test_a_refused_login_is_told_and_a_mended_password_is_picked_up(tmp_path: Path) -> None:
    passwords = tmp_path / "passwords"
    tool = ["mosquitto_passwd", "-c", "-b", str(passwords), "pump-7", "s3cret"]
    brokers.require_mosquitto()
    subprocess.run(tool, check=True, capture_output=True)
    passwords.chmod(0o644)
    secret = tmp_path / "password"
    secret.write_text("wrong\n")

    with brokers.mosquitto(
        tmp_path / "broker", "allow_anonymous false", f"password_file {passwords}"
    ) as running:
        broker = broker_at(running, username="pump-7", password_file=secret)
        session = Session(broker, "pump-7-lane")
        deadline = time.monotonic() + 2.0
        events = []
        while time.monotonic() < deadline:
            events += session.step(0.1)
        secret.write_text("s3cret\n")
        wait_connected(session, 20.0)
        session.close()

    failures = of_kind(Disconnected, events)
    assert 1 <= len(failures) <= 12
    assert all("refused the connection: Not authorized" in failure.detail for failure in failures)
    assert not any("wrong" in failure.detail for failure in failures)
    assert of_kind(Connected, events) == []


def test_a_missing_password_file_is_told_and_tried_again(
    mosquitto_broker: RunningBroker, tmp_path: Path
) -> None:
    secret = tmp_path / "password"
    session = Session(broker_at(mosquitto_broker, username="me", password_file=secret), "reader")

    [failure] = of_kind(Disconnected, step_until(session, has(Disconnected)))
    assert str(secret) in failure.detail
    secret.write_text("any")
    wait_connected(session, 10.0)
    session.close()


class Latest(Random):
    """Draws the latest moment."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_no_connection_within_the_deadline_tells_why() -> None:
    session = Session(Broker("127.0.0.1", free_port()), "reader")
    session._backoff = Backoff(attempts=9, source=Latest())  # the next attempt is 30 s away

    started = time.monotonic()
    with pytest.raises(BrokerUnavailableError, match="refused"):
        wait_connected(session, 0.5)
    session.close()

    assert time.monotonic() - started < 15


def test_a_frozen_broker_is_noticed_after_one_and_a_half_keepalives(mosquitto_broker: RunningBroker) -> None:
    started = time.monotonic()
    with connected(broker_at(mosquitto_broker, keepalive_s=2), "reader") as session:
        process = mosquitto_broker.process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        try:
            [lost] = of_kind(Disconnected, step_until(session, has(Disconnected), 30.0, step_s=30.0))
        finally:
            process.send_signal(signal.SIGCONT)

        # 2 s of silence, then 1 s for the answer to the ping; the step wakes for both.
        assert 2.5 < time.monotonic() - started < 15
        assert lost.was_connected
        assert "ping" in lost.detail


def test_an_idle_connection_outlives_its_keepalive(
    any_broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered: list[int] = []
    handle = PahoClient.handle

    def note_and_handle(client: PahoClient, first: int, body: bytes) -> None:
        if first == PINGRESP:
            answered.append(session.connection)
        handle(client, first, body)

    monkeypatch.setattr(PahoClient, "handle", note_and_handle)
    with connected(broker_at(any_broker, keepalive_s=2), "idle", "a") as session:
        # One that had no answer to its first ping, or did not heed it, would not stand at the second. If the
        # machine stands still one may be lost, too: then it is the next one's turn.
        step_until(session, lambda _seen: answered.count(session.connection) == 2, 30.0, step_s=10.0)
        session.publish("a", b"alive")
        step_until(session, has(Delivery))


# At least once


def test_unacknowledged_messages_come_again_flagged_after_a_reconnect(
    mosquitto_broker: RunningBroker,
) -> None:
    broker = broker_at(mosquitto_broker)
    options = {"is_clean": False, "acknowledges_by_hand": True}
    with connected(broker, "lane", "r", **options) as lane, connected(broker, "writer") as writer:
        for number in range(5):
            writer.publish("r", b"%d" % number)
        step_until(writer, has(Published, 5))
        first = of_kind(Delivery, step_until(lane, has(Delivery, 5)))
        for delivery in first[:2]:
            lane.acknowledge(delivery)
        lane.step(0.0)
        # The answer to a message of our own shows that the acknowledgements before it have arrived.
        lane.publish("other", b"")
        step_until(lane, has(Published))

        lane._client.drop()
        lane._fail("cut by the test")
        again = step_until(lane, has(Delivery, 3))
        again += lane.step(0.2)

    assert [event.session_present for event in of_kind(Connected, again)] == [True]
    deliveries = of_kind(Delivery, again)
    assert [delivery.payload for delivery in deliveries] == [b"2", b"3", b"4"]
    assert all(delivery.is_duplicate and delivery.connection == 2 for delivery in deliveries)


def test_acknowledged_messages_do_not_come_again(mosquitto_broker: RunningBroker) -> None:
    broker = broker_at(mosquitto_broker)
    options = {"is_clean": False, "acknowledges_by_hand": True}
    with connected(broker, "writer") as writer:
        with connected(broker, "lane", "r", **options) as lane:
            writer.publish("r", b"first")
            step_until(writer, has(Published))
            [delivery] = of_kind(Delivery, step_until(lane, has(Delivery)))
            lane.acknowledge(delivery)  # close() still writes it
        with connected(broker, "lane", **options) as lane:
            writer.publish("r", b"second")
            step_until(writer, has(Published))
            assert payloads(step_until(lane, has(Delivery))) == [b"second"]


def test_what_is_published_while_away_leaves_after_the_connect_once_and_in_order(
    any_broker: RunningBroker,
) -> None:
    broker = broker_at(any_broker)
    with connected(broker, "reader", "kept", "marker") as reader:
        writer = Session(broker, "writer", max_inflight=3)
        numbers = [writer.publish("kept", b"%d" % number) for number in range(10)]
        assert writer.publish("kept", b"lost", qos=0) is None
        told = of_kind(Published, step_until(writer, has(Published, 10)))
        writer.publish("marker", b"end")
        step_until(writer, has(Published))
        seen = step_until(reader, lambda events: b"end" in payloads(events))
        writer.close()

    assert payloads(seen) == [b"%d" % number for number in range(10)] + [b"end"]
    assert [event.mid for event in told] == numbers


def test_of_two_retained_states_the_newer_one_stays(any_broker: RunningBroker) -> None:
    """Also when the newer one is published between TCP and CONNACK."""
    broker = broker_at(any_broker)
    writer = Session(broker, "writer")
    writer.publish("state", b"old", retain=True)
    writer.step(0.0)
    assert writer.fileno() >= 0
    assert not writer.is_connected
    writer.publish("state", b"new", retain=True)
    step_until(writer, has(Published, 2))
    writer.close()

    with connected(broker, "reader") as reader:
        reader.subscribe("state")
        assert payloads(step_until(reader, has(Delivery))) == [b"new"]
