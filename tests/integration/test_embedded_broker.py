"""What the demo needs of the broker it embeds, and amqtt alone does not give."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import brokers
from support.brokers import RunningBroker
from support.sessions import connected, has, of_kind, payloads, step_until

from atoll_link.packets import NO_PROPERTIES, Level, pack_publish
from atoll_link.session import Broker, Connected, Delivery, Published, Session
from atoll_sim.demo.embedded_broker import MOST_HELD

COUNT = 500
CONNECT_WITH_WILL = b"\x10\x18\x00\x04MQTT\x04\x06\x00\x00\x00\x03bye\x00\x01t\x00\x04will"


@pytest.fixture
def running(tmp_path: Path) -> Iterator[RunningBroker]:
    with brokers.amqtt(tmp_path / "broker") as running:
        yield running


def test_all_that_is_acknowledged_is_passed_on_though_its_sender_leaves(running: RunningBroker) -> None:
    broker = Broker("127.0.0.1", running.port)
    sent = [str(number).encode() for number in range(COUNT)]
    with connected(broker, "reader", "t") as reader:
        with connected(broker, "writer", max_inflight=100) as writer:
            for payload in sent:
                writer.publish("t", payload, qos=1)
            step_until(writer, has(Published, COUNT), timeout_s=30)

        assert payloads(step_until(reader, has(Delivery, COUNT), timeout_s=30)) == sent


def test_whoever_connects_gets_only_what_it_asks_for(running: RunningBroker) -> None:
    broker = Broker("127.0.0.1", running.port)
    session = Session(broker, "late")
    session.subscribe("t/asked")
    with connected(broker, "reader", "t/#"), connected(broker, "writer") as writer:
        for topic in ("t/other", "t/asked"):
            writer.publish(topic, b"kept", qos=1, retain=True)
        step_until(writer, has(Published, 2))

        # What comes unasked comes before the answer to the SUBSCRIBE, what is asked for after it.
        seen = step_until(session, has(Delivery))
        session.close()

    assert [event.topic for event in of_kind(Delivery, seen)] == ["t/asked"]


def test_what_comes_for_a_client_that_is_away_is_kept_for_it(running: RunningBroker) -> None:
    broker = Broker("127.0.0.1", running.port)
    with connected(broker, "reader", "t", is_clean=False):
        pass
    with connected(broker, "writer", max_inflight=100) as writer:
        for number in range(MOST_HELD + 10):
            writer.publish("t", b"%d" % number, qos=1)
        step_until(writer, has(Published, MOST_HELD + 10), timeout_s=30)
        # What is passed on is passed on in order: then it has been decided on the last one.
        with connected(broker, "other", "last") as other:
            writer.publish("last", b"", qos=1)
            step_until(writer, has(Published))
            step_until(other, has(Delivery))

    back = Session(broker, "reader", is_clean=False)
    seen = step_until(back, has(Delivery, MOST_HELD), timeout_s=30)
    back.close()

    assert [event.session_present for event in of_kind(Connected, seen)] == [True]
    assert not any(event.is_retained for event in of_kind(Delivery, seen))
    assert payloads(seen) == [b"%d" % number for number in range(MOST_HELD)]


def test_who_comes_back_before_the_old_connection_has_ended_hears_all(running: RunningBroker) -> None:
    broker = Broker("127.0.0.1", running.port)
    sent = [b"%d" % number for number in range(20)]
    with (
        connected(broker, "reader", "t", is_clean=False),  # it is not stepped, and so does not come back
        connected(broker, "reader", "t", is_clean=False) as reader,
        connected(broker, "writer") as writer,
    ):
        for payload in sent:
            writer.publish("t", payload, qos=1)
            step_until(writer, has(Published))

        assert payloads(step_until(reader, has(Delivery, len(sent)))) == sent


def test_the_will_comes_after_the_last_messages(running: RunningBroker) -> None:
    with connected(Broker("127.0.0.1", running.port), "reader", "t") as reader:
        with socket.create_connection(("127.0.0.1", running.port), timeout=10) as sender:
            sender.sendall(CONNECT_WITH_WILL)
            assert sender.recv(4) == b"\x20\x02\x00\x00"
            old = NO_PROPERTIES[Level.MQTT_311]
            sender.sendall(
                b"".join(pack_publish(b"\0\1t", b"%d" % mid, old, mid) for mid in range(1, COUNT + 1))
            )
            received = 0
            while received < 4 * COUNT:  # the acknowledgements
                received += len(sender.recv(4096))

        heard = payloads(step_until(reader, has(Delivery, COUNT + 1), timeout_s=30))
        assert heard == [*(b"%d" % mid for mid in range(1, COUNT + 1)), b"will"]


def test_a_client_that_speaks_mqtt_5_is_not_kept_waiting(
    running: RunningBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An answer that never comes would be waited for beyond the patience of ``connected``."""
    monkeypatch.setattr("atoll_link.attempts._LIKELY_CONNACK_S", 60.0)
    broker = Broker("127.0.0.1", running.port)
    with connected(broker, "reader", "t", is_clean=False, connack_timeout_s=60.0) as session:
        assert session.level is Level.MQTT_311


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_at_once_while_clients_are_connected(running: RunningBroker, number: signal.Signals) -> None:
    with (
        connected(Broker("127.0.0.1", running.port), "reader", "t"),
        connected(Broker("127.0.0.1", running.port), "writer") as writer,
    ):
        for _ in range(COUNT):
            writer.publish("t", bytes(100), qos=1)
        assert running.process is not None
        running.process.send_signal(number)

        assert running.process.wait(5) == -number
