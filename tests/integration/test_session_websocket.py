"""Session over WebSocket, plain and encrypted, against Mosquitto."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import brokers
from support.brokers import RunningBroker
from support.certificates import Authority
from support.sessions import connected, has, of_kind, payloads, step_until

from atoll_link.packets import Level
from atoll_link.session import Broker, Delivery, Disconnected, Published, Session, wait_connected
from atoll_sim.demo.ports import free_port

pytestmark = pytest.mark.mosquitto


@contextmanager
def websocket_mosquitto(folder: Path, *lines: str) -> Iterator[RunningBroker]:
    """Mosquitto 2.0.11 starts only with a plain listener, too."""
    plain = f"listener {free_port()} 127.0.0.1"
    with brokers.mosquitto(folder, "protocol websockets", *lines, plain) as running:
        yield running


@pytest.fixture(params=["ws", "wss"])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Broker]:
    lines: list[str] = []
    authority = Authority(tmp_path / "authority")
    if request.param == "wss":
        cert_file, key_file = authority.issue("broker")
        for file in (authority.file, cert_file, key_file):
            file.chmod(0o644)
        lines = [f"cafile {authority.file}", f"certfile {cert_file}", f"keyfile {key_file}"]
        tmp_path.chmod(0o755)
    with websocket_mosquitto(tmp_path / "broker", *lines) as running:
        is_encrypted = request.param == "wss"
        yield Broker(
            "127.0.0.1",
            running.port,
            tls=is_encrypted,
            ca_file=authority.file if is_encrypted else None,
            websocket_path="/mqtt",
        )


def test_messages_large_and_many_go_both_ways(broker: Broker) -> None:
    # Mosquitto 2.0.11 writes 4 KB every tenth of a second here.
    expected = [os.urandom(20_000), *(b"%d" % number for number in range(3000)), os.urandom(10_000)]
    with connected(broker, "both", "t", max_inflight=200) as session:
        assert session.level is Level.MQTT_5
        for payload in expected:
            assert session.publish("t", payload, qos=1) is not None
        all_told, all_here = has(Published, 3002), has(Delivery, 3002)
        events = step_until(session, lambda seen: all_told(seen) and all_here(seen), 60.0, step_s=5.0)

    assert payloads(events) == expected


def test_several_frames_that_have_arrived_are_read_in_one_step(broker: Broker) -> None:
    with connected(broker, "reader", "t", qos=0) as reader, connected(broker, "writer") as writer:
        for number in range(200):
            writer.publish("t", b"%d" % number, qos=1)
        step_until(writer, has(Published, 200))
        started = time.monotonic()
        seen = step_until(reader, has(Delivery, 200), step_s=30.0)

        assert time.monotonic() - started < 15
    assert payloads(seen) == [b"%d" % number for number in range(200)]


def test_a_broker_that_stops_is_found_again(tmp_path: Path) -> None:
    with websocket_mosquitto(tmp_path / "broker") as running:
        address = Broker("127.0.0.1", running.port, websocket_path="/mqtt")
        with connected(address, "reader", "t") as session:
            running.stop()
            [lost, *_] = of_kind(Disconnected, step_until(session, has(Disconnected)))
            assert lost.was_connected
            assert f"ws://127.0.0.1:{running.port}/mqtt" in lost.detail
            running.start()
            wait_connected(session, 30.0)
            session.publish("t", b"again")
            assert payloads(step_until(session, has(Delivery))) == [b"again"]


def test_a_listener_without_websocket_is_told(mosquitto_broker: RunningBroker) -> None:
    address = Broker("127.0.0.1", mosquitto_broker.port, websocket_path="/mqtt")
    session = Session(address, "reader", connect_timeout_s=1.0)
    [failure, *_] = of_kind(Disconnected, step_until(session, has(Disconnected)))
    session.close()

    assert "WebSocket handshake error" in failure.detail
    assert not failure.was_connected


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade:websocket\r\nSec-WebSocket-Accept:x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n",
        b"\xff\xfe\xfd\r\n\r\n",
    ],
)
def test_a_strange_answer_to_the_handshake_is_a_failed_attempt(answer: bytes) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def answer_one() -> None:
            peer, _ = server.accept()
            with peer:
                peer.settimeout(10)
                peer.recv(4096)
                peer.sendall(answer)

        answering = threading.Thread(target=answer_one)
        answering.start()
        session = Session(Broker("127.0.0.1", server.getsockname()[1], websocket_path="/mqtt"), "client")
        failures = of_kind(Disconnected, step_until(session, has(Disconnected), 20.0))
        answering.join(10)
        session.close()

    assert not failures[0].was_connected
