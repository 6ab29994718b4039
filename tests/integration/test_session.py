"""Session against real brokers: messages, subscriptions, waiting."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

import pytest
from support import brokers
from support.brokers import RunningBroker
from support.sessions import connected, has, of_kind, payloads, step_until

from atoll_link.session import (
    Broker,
    Connected,
    Delivery,
    Disconnected,
    Published,
    Session,
    Subscribed,
    wait_connected,
)
from atoll_sim.demo.ports import free_port

pytestmark = pytest.mark.mosquitto


def broker_at(running: RunningBroker, **settings: object) -> Broker:
    return Broker(host="127.0.0.1", port=running.port, **settings)  # type: ignore[arg-type]


# Messages


def test_messages_arrive_with_topic_payload_qos_and_times(any_broker: RunningBroker) -> None:
    broker = broker_at(any_broker)
    with connected(broker, "reader", "plant/+/vib") as reader, connected(broker, "writer") as writer:
        before_ms, before_ns = time.time() * 1e3, time.monotonic_ns()
        writer.publish("plant/pump-7/vib", b"one", qos=1)
        writer.publish("plant/pump-7/vib", b"", qos=0)
        step_until(writer, has(Published, 2))
        first, second = of_kind(Delivery, step_until(reader, has(Delivery, 2)))

    assert (first.topic, first.payload, first.qos) == ("plant/pump-7/vib", b"one", 1)
    assert second.payload == b""
    assert second.qos == 0 or any_broker.kind == "amqtt"  # amqtt delivers with the subscription's QoS
    assert first.mid > 0
    assert not first.is_retained
    assert not first.is_duplicate
    assert first.connection == 1
    assert before_ms - 1 <= first.arrival_ms <= time.time() * 1e3 + 1
    assert before_ns <= first.arrival_ns <= time.monotonic_ns()


def test_each_published_message_is_told_once_by_its_own_number(any_broker: RunningBroker) -> None:
    with connected(broker_at(any_broker), "writer") as writer:
        numbers = [writer.publish("a", b"x", qos=number % 2) for number in range(20)]
        events = step_until(writer, has(Published, 20))
        events += writer.step(0.1)

    assert sorted(event.mid for event in of_kind(Published, events)) == numbers
    assert len(set(numbers)) == 20


def test_a_retained_message_comes_to_a_later_subscriber_flagged(any_broker: RunningBroker) -> None:
    broker = broker_at(any_broker)
    with connected(broker, "writer") as writer:
        writer.publish("state", b"kept", qos=1, retain=True)
        step_until(writer, has(Published))

    with connected(broker, "reader") as reader:
        reader.subscribe("state")
        [delivery] = of_kind(Delivery, step_until(reader, has(Delivery)))

    assert delivery.payload == b"kept"
    assert delivery.is_retained


def test_a_megabyte_goes_both_ways(any_broker: RunningBroker) -> None:
    payload = os.urandom(1_000_000)

    with connected(broker_at(any_broker), "both", "big") as session:
        session.publish("big", payload, qos=1)
        events = step_until(session, lambda seen: has(Delivery)(seen) and has(Published)(seen), 30.0)

    assert payloads(events) == [payload]


@pytest.mark.parametrize("qos", [0, 1])
def test_ten_thousand_messages_in_a_row_arrive_in_order(mosquitto_broker: RunningBroker, qos: int) -> None:
    broker = broker_at(mosquitto_broker)
    expected = [b"%d" % number for number in range(10_000)]
    with (
        connected(broker, "reader", "burst", qos=qos) as reader,
        connected(broker, "writer", max_inflight=100) as writer,
    ):
        for payload in expected:
            assert writer.publish("burst", payload, qos=qos) is not None
        step_until(writer, has(Published, 10_000), 30.0)
        seen = step_until(reader, has(Delivery, 10_000), 30.0)

    assert payloads(seen) == expected


def test_a_step_reads_no_more_than_a_batch_however_much_there_is(mosquitto_broker: RunningBroker) -> None:
    broker = broker_at(mosquitto_broker)
    with connected(broker, "reader", "flood", qos=0) as reader, connected(broker, "writer") as writer:
        for _ in range(20_000):
            assert writer.publish("flood", b"x" * 300, qos=0) is not None
        step_until(writer, has(Published, 20_000), 30.0)
        batches = [0]
        deadline = time.monotonic() + 30
        while sum(batches) < 20_000 and time.monotonic() < deadline:
            batches.append(len(reader.step(0.5)))

    assert sum(batches) == 20_000
    assert max(batches) < 1200  # 256 KiB, and up to 64 KiB over


def test_whoever_publishes_in_every_step_still_hears(mosquitto_broker: RunningBroker) -> None:
    with connected(broker_at(mosquitto_broker), "echo", "echo", qos=0) as session:
        heard = 0
        for _ in range(200):
            session.publish("echo", b"x", qos=0)
            heard += len(of_kind(Delivery, session.step(0.0)))
        heard += len(of_kind(Delivery, step_until(session, has(Delivery, 200 - heard)))) if heard < 200 else 0

    assert heard == 200


# Subscriptions


def test_an_unsubscribed_topic_is_silent(any_broker: RunningBroker) -> None:
    with connected(broker_at(any_broker), "reader", "a", "b") as session:
        session.unsubscribe("a")
        session.publish("a", b"not this")
        session.publish("b", b"this")

        assert payloads(step_until(session, has(Delivery))) == [b"this"]


def test_what_was_unsubscribed_while_away_stays_so_in_a_persistent_session(
    mosquitto_broker: RunningBroker,
) -> None:
    broker = broker_at(mosquitto_broker)
    with connected(broker, "persistent", "a", "b", is_clean=False) as session:
        mosquitto_broker.process.send_signal(signal.SIGSTOP)  # type: ignore[union-attr]
        session._client.drop()
        session._fail("cut by the test")
        session.unsubscribe("a")
        mosquitto_broker.process.send_signal(signal.SIGCONT)  # type: ignore[union-attr]
        [back] = of_kind(Connected, wait_connected(session, 10.0))
        session.publish("a", b"not this")
        session.publish("b", b"this")
        seen = step_until(session, has(Delivery))

    assert back.session_present
    assert payloads(seen) == [b"this"]


def test_many_subscriptions_are_all_acknowledged(any_broker: RunningBroker) -> None:
    filters = [f"topic/{number}" for number in range(30)]

    with connected(broker_at(any_broker), "reader", *filters) as session:
        session.publish("topic/29", b"x")
        assert payloads(step_until(session, has(Delivery))) == [b"x"]


def test_a_subscription_that_an_access_rule_refuses_is_told(tmp_path: Path) -> None:
    plugin = Path("/usr/lib/x86_64-linux-gnu/mosquitto_dynamic_security.so")
    if not plugin.exists():
        pytest.skip("no dynamic security plugin for Mosquitto")
    rules = tmp_path / "rules.json"
    rules.write_text('{"defaultACLAccess": {"subscribe": false, "publishClientReceive": true}}')
    lines = [f"plugin {plugin}", f"plugin_opt_config_file {rules}"]

    with brokers.mosquitto(tmp_path / "broker", *lines) as running:
        session = Session(broker_at(running), "reader")
        session.subscribe("secret/#")
        [answer] = of_kind(Subscribed, step_until(session, has(Subscribed)))
        session.close()

    assert (answer.topic_filter, answer.refused, answer.detail) == ("secret/#", True, "Not authorized")


# Waiting


def test_a_step_without_events_returns_within_its_timeout(any_broker: RunningBroker) -> None:
    with connected(broker_at(any_broker), "reader") as session:
        started = time.monotonic()
        assert session.step(0.3) == []
        assert 0.25 < time.monotonic() - started < 15


def test_a_step_without_a_connection_returns_within_its_timeout() -> None:
    session = Session(Broker("127.0.0.1", free_port()), "reader")
    step_until(session, has(Disconnected))
    session._backoff.until = time.monotonic() + 60

    started = time.monotonic()
    assert session.step(0.3) == []
    assert 0.25 < time.monotonic() - started < 15
    session.close()


@pytest.mark.parametrize("is_away", [False, True])
def test_another_thread_wakes_a_waiting_step_at_once(
    mosquitto_broker: RunningBroker, *, is_away: bool
) -> None:
    session = Session(broker_at(mosquitto_broker), "reader")
    wait_connected(session, 10.0)
    session.step(0.1)
    if is_away:
        session._fail("cut by the test")
        session._backoff.until = time.monotonic() + 60
        session.step(0.0)
    waker = threading.Timer(0.2, session.wake)

    started = time.monotonic()
    waker.start()
    session.step(30.0)
    waited_s = time.monotonic() - started
    waker.join()
    session.close()

    assert 0.1 < waited_s < 15


def test_a_thousand_wakes_end_one_step_only(mosquitto_broker: RunningBroker) -> None:
    with connected(broker_at(mosquitto_broker), "reader") as session:
        for _ in range(100_000):
            session.wake()
        session.step(0.5)

        started = time.monotonic()
        session.step(0.3)
        assert time.monotonic() - started > 0.25
