"""``atoll-trainer record`` as a process, against real brokers."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
from support import brokers
from support.sessions import connected, has, step_until

pytest.importorskip("pyarrow")

from atoll_contract.messages import Label, Reading, encode_reading
from atoll_contract.topics import LabelTopic, PredictionTopic, ReadingTopic
from atoll_link import recording
from atoll_link.recording import Kind
from atoll_link.session import Broker, Published
from atoll_sim.demo.ports import free_port

SETTINGS = """
[trainer]
site = "plant"
trusted_writers = ["gauge"]
[broker]
host = "127.0.0.1"
port = {port}
[[stream]]
name = "press"
values.temperature.unit = "°C"
"""
TRAINER = [sys.executable, "-c", "from atoll_trainer.cli import main; raise SystemExit(main())"]
READING = str(ReadingTopic("plant", "press-1", "press"))


def reading(number):
    return encode_reading(Reading({"temperature": float(number)}, time_ms=1e12 + number))


@contextmanager
def recorder(broker, folder, *options):
    """A recorder whose subscriptions are confirmed; stopped in the end."""
    settings = folder / "trainer.toml"
    settings.write_text(SETTINGS.format(port=broker.port))
    process = subprocess.Popen(
        [*TRAINER, "record", "--settings", str(settings), "--home", str(folder / "home"), "--json", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    log = Log(process)
    try:
        log.wait("recording.subscribed")
        yield Running(process, log)
    finally:
        if process.poll() is None:
            process.kill()
        process.wait(10)
        log.thread.join(10)
        process.stdout.close()
        process.stderr.close()


class Log:
    """Lines of a process's stderr, read by a thread."""

    def __init__(self, process):
        self.lines = []
        self._process = process
        self._changed = threading.Condition()
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self):
        for line in self._process.stderr:
            with self._changed:
                self.lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def wait(self, event, timeout_s=20.0):
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not any(event in line for line in self.lines):
                assert time.monotonic() < deadline, "".join(self.lines)
                assert self._process.poll() is None or self.thread.is_alive(), "".join(self.lines)
                self._changed.wait(0.2)


class Running:
    def __init__(self, process, log):
        self.process = process
        self.log = log

    def end(self, sig=None):
        """Return the summary once the process has ended by itself, or by ``sig``."""
        if sig is not None:
            self.process.send_signal(sig)
        out = self.process.stdout.read()
        assert self.process.wait(20) == 0, "".join(self.log.lines)
        return json.loads(out)


def publish(broker, *messages, qos=1, retain=False):
    """Publish (topic, payload) pairs; return when the broker has them."""
    with connected(Broker(host="127.0.0.1", port=broker.port), "publisher", max_inflight=100) as session:
        for topic, payload in messages:
            session.publish(topic, payload, qos=qos, retain=retain)
        step_until(session, has(Published, len(messages)), timeout_s=30)


def numbers(folder):
    rows = recording.without_redeliveries(
        recording.read(folder / "home" / "recordings", Kind.READING, "press")
    )
    return [int(json.loads(row.payload)["values"]["temperature"]) for row in rows]


def test_readings_labels_and_predictions_are_recorded_as_they_came(any_broker, tmp_path):
    label = Label(value=3.0, time_ms=1e12)
    prediction = b'{"time_ms":1e12,"value":3,"release":1,"latency_ms":0.4}'

    with recorder(any_broker, tmp_path, "--readings", "50") as running:
        publish(
            any_broker,
            (str(LabelTopic("plant", "gauge", "press-1", "wear")), label.encode()),
            (str(PredictionTopic("plant", "edge-1", "press-1", "wear")), prediction),
            *((READING, reading(number)) for number in range(50)),
        )
        summary = running.end()

    assert (summary["readings"], summary["labels"], summary["predictions"]) == (50, 1, 1)
    assert summary["refused"] == {}
    folder = tmp_path / "home" / "recordings"
    rows = list(recording.read(folder, Kind.READING, "press"))
    assert [row.payload for row in rows] == [reading(number) for number in range(50)]
    assert {(row.device, row.topic, row.qos) for row in rows} == {("press-1", READING, 1)}
    assert [row.time_ms for row in rows] == [1e12 + number for number in range(50)]
    (found,) = recording.read(folder, Kind.LABEL, "wear")
    assert (found.payload, found.device, found.time_ms) == (label.encode(), "press-1", 1e12)
    (found,) = recording.read(folder, Kind.PREDICTION, "wear")
    assert found.payload == prediction


def test_what_cannot_be_used_is_counted_by_reason_and_ends_nothing(mosquitto_broker, tmp_path):
    evil = str(LabelTopic("plant", "evil", "press-1", "wear"))
    publish(mosquitto_broker, (READING, reading(99)), retain=True)

    with recorder(mosquitto_broker, tmp_path, "--readings", "1") as running:
        publish(
            mosquitto_broker,
            (READING, b"\xff nonsense"),
            (READING, b"{}"),
            (evil, Label(value=1.0, time_ms=1e12).encode()),
            (str(LabelTopic("plant", "gauge", "press-1", "wear")), b'{"value": 1}'),
            (READING, reading(7)),
        )
        summary = running.end()

    assert summary["refused"] == {"malformed_payload": 3, "retained": 1, "untrusted_writer": 1}
    assert numbers(tmp_path) == [7]
    assert recording.names(tmp_path / "home" / "recordings", Kind.LABEL) == []


def test_a_device_may_label_itself(mosquitto_broker, tmp_path):
    own = str(LabelTopic("plant", "press-1", "press-1", "wear"))

    with recorder(mosquitto_broker, tmp_path, "--readings", "1") as running:
        publish(mosquitto_broker, (own, Label(value=1.0, time_ms=1e12).encode()), (READING, reading(1)))

        assert running.end()["labels"] == 1


@pytest.mark.parametrize("inflight", [1, 20])
def test_a_broker_that_waits_for_few_acknowledgements_is_not_held_up(tmp_path, inflight):
    count = 40 if inflight == 1 else 2000
    with (
        brokers.mosquitto(tmp_path / "broker", f"max_inflight_messages {inflight}") as broker,
        recorder(broker, tmp_path, "--readings", str(count)) as running,
    ):
        started = time.monotonic()
        publish(broker, *((READING, reading(number)) for number in range(count)))
        running.end()

        # Flushed by the second, one message each, this would take 40 s.
        assert time.monotonic() - started < 35
    assert numbers(tmp_path) == list(range(count))


def test_sigterm_ends_it_cleanly_and_nothing_sent_meanwhile_is_lost(mosquitto_broker, tmp_path):
    with recorder(mosquitto_broker, tmp_path) as running:
        publish(mosquitto_broker, *((READING, reading(number)) for number in range(5)))
        wait_until(lambda: len(numbers(tmp_path)) == 5)
        assert running.end(signal.SIGTERM)["readings"] == 5
    publish(mosquitto_broker, *((READING, reading(number)) for number in range(5, 30)))

    with recorder(mosquitto_broker, tmp_path) as running:
        wait_until(lambda: len(numbers(tmp_path)) == 30)
        assert running.end(signal.SIGTERM)["readings"] == 25

    assert numbers(tmp_path) == list(range(30))
    assert list((tmp_path / "home" / "recordings").glob("journal-*")) == []


def test_after_a_recording_with_an_end_the_broker_keeps_nothing_for_it(mosquitto_broker, tmp_path):
    with recorder(mosquitto_broker, tmp_path, "--readings", "1") as running:
        publish(mosquitto_broker, (READING, reading(0)))
        running.end()
    publish(mosquitto_broker, *((READING, reading(number)) for number in range(1, 10)))

    with recorder(mosquitto_broker, tmp_path, "--readings", "1") as running:
        publish(mosquitto_broker, (READING, reading(99)))
        running.end()

    assert numbers(tmp_path) == [0, 99]


def test_a_kill_loses_no_acknowledged_reading_and_doubles_none(mosquitto_broker, tmp_path):
    killed = threading.Event()
    sent = []

    def publish_until_after_the_kill():
        while True:
            is_last = killed.is_set()
            batch = range(len(sent), len(sent) + 100)
            publish(mosquitto_broker, *((READING, reading(number)) for number in batch))
            sent.extend(batch)
            if is_last:
                return

    publisher = threading.Thread(target=publish_until_after_the_kill)

    with recorder(mosquitto_broker, tmp_path) as running:
        publisher.start()
        wait_until(lambda: len(numbers(tmp_path)) > 300)
        running.process.kill()
        killed.set()
    publisher.join(30)
    before = len(numbers(tmp_path))
    with recorder(mosquitto_broker, tmp_path) as running:
        wait_until(lambda: len(numbers(tmp_path)) >= len(sent))
        running.end(signal.SIGINT)

    assert 300 < before < len(sent)
    assert sorted(numbers(tmp_path)) == sent


def test_without_a_broker_it_says_so_and_fails(tmp_path):
    settings = tmp_path / "trainer.toml"
    settings.write_text(SETTINGS.format(port=free_port()))

    done = subprocess.run(
        [
            *TRAINER,
            *("record", "--settings", str(settings), "--home", str(tmp_path / "home"), "--for", "1"),
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 1
    assert "Connection refused [broker_unavailable]" in done.stderr


def wait_until(fact, timeout_s=30.0):
    deadline = time.monotonic() + timeout_s
    while not fact():
        assert time.monotonic() < deadline, "not in time"
        brokers.select_pause(0.05)
