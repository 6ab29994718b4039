"""The simulator as a process, somebody who listens, and a broker that says little."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from support import brokers
from support.brokers import RunningBroker

from atoll_contract.messages import Label, Reading, decode_readings
from atoll_contract.topics import LabelTopic, ReadingTopic, parse
from atoll_link.packets import PUBLISH, Level, PacketBuffer, PublishReader, pack_puback
from atoll_link.session import Broker, Delivery, Session, Subscribed, wait_connected

DEADLINE_S = 30.0
CONNECT = 0x10
CONNACK = b"\x20\x03\x00\x00\x00"
MAIN = "import sys; from atoll_sim.cli import main; sys.exit(main())"
ROOT = Path(__file__).parents[2]


class Listener:
    """A subscriber that keeps what it hears."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.heard: list[Delivery] = []

    def listen_until(self, is_true: Callable[[], bool]) -> None:
        """Listen until ``is_true``; fail after a while."""
        deadline = time.monotonic() + DEADLINE_S
        while not is_true():
            assert time.monotonic() < deadline, f"heard {len(self.heard)} messages in {DEADLINE_S} s"
            self.heard += [event for event in self.session.step(0.2) if isinstance(event, Delivery)]

    def readings(self, device: str) -> list[Reading]:
        """Return the readings of ``device`` in order of arrival."""
        topics = [(parse(delivery.topic), delivery.payload) for delivery in self.heard]
        return [
            decode_readings(payload)[0]
            for topic, payload in topics
            if isinstance(topic, ReadingTopic) and topic.device == device
        ]

    def labels(self, device: str) -> list[Label]:
        """Return the labels of ``device`` in order of arrival."""
        topics = [(parse(delivery.topic), delivery.payload) for delivery in self.heard]
        return [
            Label.decode(payload)
            for topic, payload in topics
            if isinstance(topic, LabelTopic) and topic.device == device
        ]


@contextmanager
def listener(broker: RunningBroker, *, is_clean: bool = True) -> Iterator[Listener]:
    session = Session(Broker("127.0.0.1", broker.port), "listener", is_clean=is_clean)
    try:
        topic_filters = [ReadingTopic.any_of(site="plant-a"), LabelTopic.any_of(site="plant-a")]
        for topic_filter in topic_filters:
            session.subscribe(topic_filter)
        wait_connected(session, DEADLINE_S)
        granted: list[Subscribed] = []
        deadline = time.monotonic() + DEADLINE_S
        while len(granted) < len(topic_filters):
            assert time.monotonic() < deadline
            granted += [event for event in session.step(0.2) if isinstance(event, Subscribed)]
        yield Listener(session)
    finally:
        session.close()


class SilentBroker:
    """Accepts one client and acknowledges nothing until it is told to."""

    def __init__(self) -> None:
        self.published: list[Delivery] = []
        self._server = socket.create_server(("127.0.0.1", 0))
        self._server.settimeout(DEADLINE_S)
        self._client: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve)

    @property
    def url(self) -> str:
        """Address for --broker."""
        return f"mqtt://127.0.0.1:{self._server.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join(DEADLINE_S)
        self._server.close()

    def wait_until_published(self, count: int) -> None:
        """Return once ``count`` messages have arrived."""
        deadline = time.monotonic() + DEADLINE_S
        while len(self.published) < count:
            assert time.monotonic() < deadline
            brokers.select_pause()

    def acknowledge(self) -> None:
        """Acknowledge what has arrived."""
        assert self._client is not None
        self._client.sendall(b"".join(pack_puback(publish.mid) for publish in self.published))

    def _serve(self) -> None:
        self._client, _ = self._server.accept()
        packets = PacketBuffer(1_000_000)
        reader = PublishReader(1, Level.MQTT_5, 1_000_000)
        with self._client as client:
            client.settimeout(DEADLINE_S)
            while received := client.recv(65_536):
                for first, body in packets.feed(received):
                    if first & 0xF0 == PUBLISH:
                        self.published.append(reader.read(first, body))
                    elif first == CONNECT:
                        client.sendall(CONNACK)


class Sim:
    """A running ``atoll-sim``."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.events: list[dict[str, object]] = []
        self.errors = ""

    def finish(self) -> dict[str, object]:
        """Wait for its end and return its summary."""
        out, self.errors = self.process.communicate(timeout=DEADLINE_S)
        self.events = [json.loads(line) for line in self.errors.splitlines() if line.startswith("{")]
        assert out, self.errors
        summary = json.loads(out)
        assert isinstance(summary, dict)
        return summary

    def named(self, event: str) -> list[dict[str, object]]:
        """Return the log lines of ``event``."""
        return [line for line in self.events if line["event"] == event]


@contextmanager
def sim(*words: str | Path) -> Iterator[Sim]:
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, *map(str, words), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield Sim(process)
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def value(reading: Reading) -> float:
    """Return the only value of ``reading``."""
    assert isinstance(reading.values, dict)
    (only,) = reading.values.values()
    assert isinstance(only, float)
    return only
