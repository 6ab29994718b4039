"""``atoll-sim run`` and ``replay`` as processes against real brokers."""

from __future__ import annotations

import gzip
import json
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from pathlib import Path
from typing import Self

import pytest
from support import brokers
from support.brokers import RunningBroker, free_port

from atoll_contract.errors import ConfigError, StorageError
from atoll_contract.messages import Command, Label, Reading, decode_readings
from atoll_contract.topics import CommandTopic, LabelTopic, ReadingTopic, parse
from atoll_link.csv_file import CsvFile, Line
from atoll_link.packets import PUBLISH, Level, PacketBuffer, PublishReader, pack_puback
from atoll_link.session import Broker, Delivery, Session, Subscribed, wait_connected
from atoll_sim.survey import MAX_NAMED

DEADLINE_S = 30.0
CONNECT = 0x10
CONNACK = b"\x20\x03\x00\x00\x00"
MAIN = "import sys; from atoll_sim.cli import main; sys.exit(main())"
ROOT = Path(__file__).parents[2]

WORLD = """
[world]
site = "plant-a"
seed = 7
trusted_writers = ["demo"]

[[device]]
prefix = "press"
count = 2
stream = "press"
rate_hz = 50

[device.signal.x]
shape = "uniform"
low = -1
high = 1

[device.truth]
model = "wear"
slope = { x = 2.0 }
intercept = 1.0
label_delay_s = 0.1

[[device.fault]]
kind = "step"
value = "x"
start_s = 0.2
duration_s = 0.1
size = 100.0
only = [2]
"""


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


@pytest.fixture
def world(tmp_path: Path) -> Path:
    path = tmp_path / "world.toml"
    path.write_text(WORLD)
    return path


def csv_of(path: Path, rows: int, step_ms: int = 20) -> Path:
    lines = ["when,t", *(f"{1_700_000_000_000 + step_ms * number},{number}" for number in range(rows))]
    path.write_text("\n".join(lines) + "\n")
    return path


REPLAY = (
    "--stream",
    "press",
    "--device",
    "press-1",
    "--time",
    "when",
    "--time-format",
    "ms",
    "--value",
    "t=t",
)


class TestRun:
    def test_the_readings_of_two_devices_arrive_whole_and_in_order_with_their_truth(
        self, any_broker: RunningBroker, world: Path
    ) -> None:
        with (
            listener(any_broker) as heard,
            sim("run", "--broker", any_broker.url, world, "--readings", "50") as run,
        ):
            heard.listen_until(lambda: len(heard.heard) == 100)
            summary = run.finish()

        assert run.process.returncode == 0
        for device in ("press-1", "press-2"):
            readings, labels = heard.readings(device), heard.labels(device)
            assert [reading.seq for reading in readings] == list(range(25))
            assert len({reading.boot for reading in readings}) == 1
            assert [label.time_ms for label in labels] == [reading.time_ms for reading in readings]
            assert {label.stream for label in labels} == {"press"}
            steps = [later.time_ms - sooner.time_ms for sooner, later in pairwise(readings)]
            assert steps == pytest.approx([20.0] * 24, abs=0.01)
            disturbed = [value(reading) > 50 for reading in readings]
            # press-2 is off by 100 from 0.2 s up to 0.3 s, and its labels do not know.
            assert disturbed == [device == "press-2" and 10 <= number < 15 for number in range(25)]
            for reading, label in zip(readings, labels, strict=True):
                true = value(reading) - (100.0 if value(reading) > 50 else 0.0)
                assert label.value == pytest.approx(2.0 * true + 1.0)
        expected = {"readings": 50, "labels": 50, "acknowledged": 100, "readings_disturbed": 5, "faults": 1}
        assert summary.items() >= expected.items()
        assert [line["device"] for line in run.named("fault.started")] == ["press-2"]

    def test_the_same_seed_gives_the_same_values_whatever_the_speed(
        self, mosquitto_broker: RunningBroker, world: Path
    ) -> None:
        series = []
        boots = set()
        seconds = []
        for speed in ("1", "20"):
            with (
                listener(mosquitto_broker) as heard,
                sim(
                    "run", "--broker", mosquitto_broker.url, world, "--readings", "40", "--speed", speed
                ) as run,
            ):
                heard.listen_until(lambda heard=heard: len(heard.heard) == 80)
                seconds.append(run.finish()["seconds"])
            series.append([[reading.values for reading in heard.readings(f"press-{n}")] for n in (1, 2)])
            boots |= {reading.boot for reading in heard.readings("press-1")}

        assert series[0] == series[1]
        assert len(boots) == 2
        # The last label of the world comes after 0.48 s.
        assert seconds[0] >= 0.48
        assert seconds[1] < seconds[0] / 2

    def test_a_command_changes_the_truth_and_one_of_a_stranger_is_refused(
        self, any_broker: RunningBroker, world: Path
    ) -> None:
        def command(writer: str, **arguments: float) -> tuple[str, bytes]:
            topic = str(CommandTopic("plant-a", writer, "press-1", "truth"))
            return topic, Command(expires_ms=time.time() * 1e3 + 60_000, arguments=arguments).encode()

        def follows(label: Label, slope: float, intercept: float) -> bool:
            values = {reading.time_ms: value(reading) for reading in heard.readings("press-1")}
            true = values[label.time_ms]
            return label.value == pytest.approx(slope * true + intercept)

        with listener(any_broker) as heard, sim("run", "--broker", any_broker.url, world) as run:
            heard.listen_until(lambda: len(heard.labels("press-1")) >= 5)
            heard.session.publish(*command("stranger", slope_x=9.0))
            heard.session.publish(*command("demo", slope_x=3.0, intercept=-1.0))
            heard.listen_until(lambda: follows(heard.labels("press-1")[-1], 3.0, -1.0))
            run.process.send_signal(signal.SIGTERM)
            summary = run.finish()

        assert run.process.returncode == 0
        laws = [(2.0, 1.0) if follows(label, 2.0, 1.0) else (3.0, -1.0) for label in heard.labels("press-1")]
        assert laws == sorted(laws)
        assert all(follows(label, *law) for label, law in zip(heard.labels("press-1"), laws, strict=True))
        assert summary["commands_obeyed"] == 1
        assert summary["commands_refused"] == {"untrusted_writer": 1}
        assert [line["reason"] for line in run.named("command.refused")] == ["untrusted_writer"]
        # The second device was not spoken to.
        others = {reading.time_ms: value(reading) for reading in heard.readings("press-2")}
        for label in heard.labels("press-2"):
            true = others[label.time_ms] - (100.0 if others[label.time_ms] > 50 else 0.0)
            assert label.value == pytest.approx(2.0 * true + 1.0)

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_it_ends_cleanly_when_told_and_drops_labels_that_are_not_due(
        self, mosquitto_broker: RunningBroker, world: Path, number: signal.Signals
    ) -> None:
        world.write_text(WORLD.replace("label_delay_s = 0.1", "label_delay_s = 3600"))

        with listener(mosquitto_broker) as heard, sim("run", "--broker", mosquitto_broker.url, world) as run:
            heard.listen_until(lambda: len(heard.heard) >= 10)
            run.process.send_signal(number)
            summary = run.finish()
            heard.listen_until(lambda: len(heard.heard) == summary["readings"])

        assert run.process.returncode == 0
        assert summary["labels"] == 0
        assert summary["labels_dropped"] == summary["acknowledged"] == summary["readings"]
        assert summary["unacknowledged"] == 0

    def test_it_ends_after_the_time_it_was_given(self, mosquitto_broker: RunningBroker, world: Path) -> None:
        with sim("run", "--broker", mosquitto_broker.url, world, "--for", "0.5") as run:
            summary = run.finish()

        # Two devices, 50 a second each; a slow machine may miss the last ones.
        assert 10 <= summary["readings"] <= 52
        assert run.process.returncode == 0

    def test_qos_0_readings_arrive_too(self, mosquitto_broker: RunningBroker, world: Path) -> None:
        world.write_text(WORLD.replace("rate_hz = 50", "rate_hz = 50\nqos = 0"))

        with (
            listener(mosquitto_broker) as heard,
            sim("run", "--broker", mosquitto_broker.url, world, "--readings", "50") as run,
        ):
            heard.listen_until(lambda: len(heard.heard) == 100)
            summary = run.finish()

        qos = {type(parse(delivery.topic)): delivery.qos for delivery in heard.heard}
        assert qos == {ReadingTopic: 0, LabelTopic: 1}
        assert summary["acknowledged"] == summary["labels"] == 50
        assert summary["lost"] == summary["unacknowledged"] == 0

    def test_without_a_broker_it_gives_up(self, world: Path) -> None:
        with sim(
            "run", "--broker", f"mqtt://127.0.0.1:{free_port()}", world, "--give-up-after", "0.5"
        ) as run:
            summary = run.finish()

        assert run.process.returncode == 1
        assert summary["readings"] == 0
        assert run.named("broker.disconnected")

    def test_the_example_world_is_right_and_a_wrong_one_ends_with_all_its_faults(self, world: Path) -> None:
        with sim("run", "--check", ROOT / "config" / "world.toml") as run:
            assert run.finish() == {"devices": 4, "readings_per_s": 31.0}
        world.write_text(WORLD.replace("low = -1", "low = 2").replace("count = 2", "cuont = 2"))

        wrong = subprocess.run(
            [sys.executable, "-c", MAIN, "run", "--check", world],
            check=False,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )

        assert wrong.returncode == 78
        assert f"{world}: device[0].cuont: unknown key" in wrong.stderr
        assert f"{world}: device[0].signal.x.uniform: low 2 must be below high 1" in wrong.stderr


class TestReplay:
    @pytest.mark.mosquitto
    def test_a_replay_arrives_whole_through_a_broker_restart(self, tmp_path: Path) -> None:
        rows = 1000
        file = csv_of(tmp_path / "press.csv", rows)
        with (
            brokers.mosquitto(
                tmp_path / "broker", "persistence true", f"persistence_location {tmp_path}/broker/"
            ) as broker,
            listener(broker, is_clean=False) as heard,
            sim("replay", "--broker", broker.url, file, *REPLAY, "--speed", "10") as replay,
        ):
            # At 500 readings a second, the restart falls into the middle.
            heard.listen_until(lambda: len(heard.heard) >= 100)
            assert len(heard.heard) < rows
            broker.stop()
            broker.start()
            heard.listen_until(lambda: len({d.payload for d in heard.heard}) == rows)
            summary = replay.finish()

        assert replay.process.returncode == 0
        assert {reading.seq for reading in heard.readings("press-1")} == set(range(rows))
        assert summary["readings"] == summary["acknowledged"] == rows
        assert summary["unacknowledged"] == 0
        assert [line["connection"] for line in replay.named("broker.connected")] == [1, 2]

    def test_rows_arrive_in_file_order_with_their_times_and_labels(
        self, any_broker: RunningBroker, tmp_path: Path
    ) -> None:
        path = tmp_path / "press.csv.gz"
        lines = ["time;machine;t;p;good"]
        lines += [f"2024-01-01 00:{n // 60:02}:{n % 60:02};Press {n % 2};{n},5;;{n % 3}" for n in range(200)]
        path.write_bytes(gzip.compress("\r\n".join(lines).encode("utf-8-sig")))

        with (
            listener(any_broker) as heard,
            sim(
                *("replay", "--broker", any_broker.url, path, "--stream", "press", "--separator", ";"),
                *("--decimal", ",", "--device-column", "machine", "--time", "time", "--value", "temp=t"),
                *("--value", "pressure=p", "--label", "good", "--model", "wear", "--window", "7"),
            ) as replay,
        ):
            heard.listen_until(lambda: len(heard.heard) == 400)
            summary = replay.finish()

        assert summary.items() >= {"rows": 200, "readings": 200, "labels": 200, "acknowledged": 400}.items()
        for machine in (0, 1):
            numbers = range(machine, 200, 2)
            readings = heard.readings(f"Press--20{machine}")
            assert [reading.values for reading in readings] == [{"temp": number + 0.5} for number in numbers]
            assert [reading.time_ms for reading in readings] == [
                1_704_067_200_000.0 + 1e3 * n for n in numbers
            ]
            assert [reading.seq for reading in readings] == list(range(100))
            labels = heard.labels(f"Press--20{machine}")
            assert [label.value for label in labels] == [n % 3 for n in numbers]
            assert [label.time_ms for label in labels] == [reading.time_ms for reading in readings]

    def test_bad_rows_are_named_counted_and_skipped_and_a_step_back_is_named(
        self, mosquitto_broker: RunningBroker, tmp_path: Path
    ) -> None:
        path = tmp_path / "press.csv"
        path.write_text(
            "when,t\n"
            "2024-03-10 01:00,1\n"  # row 2
            "2024-03-10 01:30,warm\n"
            "yesterday,3\n"
            "2024-03-10 02:00,\n"
            "\n"
            "2024-03-10 02:30\n"  # row 7
            "2024-03-10 02:50,4\n"
            "2024-03-10 02:00,5\n"  # row 9
            "2024-03-10 02:40,6\n"
            "2024-03-10 03:00,7\n"
        )

        with (
            listener(mosquitto_broker) as heard,
            sim(
                *("replay", "--broker", mosquitto_broker.url, path, "--stream", "press"),
                *("--device", "press-1", "--time", "when", "--value", "t=t"),
            ) as replay,
        ):
            heard.listen_until(lambda: len(heard.heard) == 5)
            summary = replay.finish()

        assert replay.process.returncode == 0
        assert [value(reading) for reading in heard.readings("press-1")] == [1.0, 4.0, 5.0, 6.0, 7.0]
        assert summary["rows"] == 9
        assert summary["skipped"] == {
            "malformed_payload": 1,
            "bad_time": 1,
            "missing_value": 1,
            "wrong_shape": 1,
        }
        skipped = [(line["row"], line["reason"]) for line in replay.named("row.skipped")]
        assert skipped == [
            (3, "malformed_payload"),
            (4, "bad_time"),
            (5, "missing_value"),
            (7, "wrong_shape"),
        ]
        assert summary["steps_back"] == 1
        (step,) = replay.named("time.stepped_back")
        assert step["row"] == 9
        assert "from 2024-03-10 02:50 to 02:00 (50 min): 2 readings" in str(step["detail"])

    def test_a_slice_of_the_rows_can_be_replayed(
        self, mosquitto_broker: RunningBroker, tmp_path: Path
    ) -> None:
        file = csv_of(tmp_path / "press.csv", 100)

        with (
            listener(mosquitto_broker) as heard,
            sim(
                "replay", "--broker", mosquitto_broker.url, file, *REPLAY, "--start", "12", "--rows", "5"
            ) as replay,
        ):
            heard.listen_until(lambda: len(heard.heard) == 5)
            replay.finish()

        # Row 2 is the first below the header and holds 0.
        assert [value(reading) for reading in heard.readings("press-1")] == [10.0, 11.0, 12.0, 13.0, 14.0]

    def test_a_replay_keeps_the_pace_of_the_file(
        self, mosquitto_broker: RunningBroker, tmp_path: Path
    ) -> None:
        file = csv_of(tmp_path / "press.csv", 51, step_ms=200)

        with sim("replay", "--broker", mosquitto_broker.url, file, *REPLAY, "--speed", "10") as replay:
            summary = replay.finish()

        # 10 s of the file at ten times the speed; it cannot be quicker.
        assert 1.0 <= summary["seconds"] < 5.0

    def test_an_interrupted_replay_says_how_far_it_came(
        self, mosquitto_broker: RunningBroker, tmp_path: Path
    ) -> None:
        file = csv_of(tmp_path / "press.csv", 1000, step_ms=1000)

        with (
            listener(mosquitto_broker) as heard,
            sim("replay", "--broker", mosquitto_broker.url, file, *REPLAY, "--speed", "50") as replay,
        ):
            heard.listen_until(lambda: len(heard.heard) >= 3)
            replay.process.send_signal(signal.SIGTERM)
            summary = replay.finish()

        assert replay.process.returncode == 1
        assert 3 <= summary["readings"] < 1000
        assert summary["acknowledged"] == summary["readings"]

    def test_a_broker_that_stays_away_ends_the_replay_with_what_is_not_acknowledged(
        self, mosquitto_broker: RunningBroker, tmp_path: Path
    ) -> None:
        file = csv_of(tmp_path / "press.csv", 1000)

        with (
            listener(mosquitto_broker) as heard,
            sim(
                *("replay", "--broker", mosquitto_broker.url, file, *REPLAY),
                *("--speed", "1", "--give-up-after", "1"),
            ) as replay,
        ):
            heard.listen_until(lambda: len(heard.heard) >= 10)
            mosquitto_broker.stop()
            summary = replay.finish()

        assert replay.process.returncode == 1
        assert summary["readings"] == summary["acknowledged"] + summary["unacknowledged"]
        assert 10 <= summary["readings"] < 1000

    def test_no_more_is_in_flight_than_the_window_and_silence_ends_the_replay(self, tmp_path: Path) -> None:
        file = csv_of(tmp_path / "press.csv", 1000)

        with (
            SilentBroker() as broker,
            sim(
                *("replay", "--broker", broker.url, file, *REPLAY),
                *("--window", "7", "--give-up-after", "0.5"),
            ) as replay,
        ):
            summary = replay.finish()

        assert replay.process.returncode == 1
        assert "no acknowledgement for 0.5 s, 7 messages in flight" in replay.errors
        assert summary["readings"] == summary["unacknowledged"] == len(broker.published) == 7

    def test_a_replay_that_is_told_to_stop_still_waits_for_acknowledgements(self, tmp_path: Path) -> None:
        file = csv_of(tmp_path / "press.csv", 3)

        with SilentBroker() as broker, sim("replay", "--broker", broker.url, file, *REPLAY) as replay:
            broker.wait_until_published(3)
            replay.process.send_signal(signal.SIGTERM)
            # Long enough for a replay that does not wait to be gone; one that does waits for 5 s.
            with suppress(subprocess.TimeoutExpired):
                replay.process.wait(0.5)
            broker.acknowledge()
            summary = replay.finish()

        assert replay.process.returncode == 0
        assert summary["readings"] == summary["acknowledged"] == 3

    def test_a_file_of_which_no_row_can_be_read_is_refused(self, tmp_path: Path) -> None:
        file = csv_of(tmp_path / "press.csv", MAX_NAMED + 1)
        words = [
            "replay",
            str(file),
            "--stream",
            "press",
            "--device",
            "press-1",
            "--time",
            "when",
            "--value",
            "t=t",
        ]

        wrong = subprocess.run(
            [sys.executable, "-c", MAIN, *words],
            check=False,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
        )

        assert wrong.returncode == 78
        assert (
            "none of the 21 chosen rows can be read; row 2: time '1700000000000' is not ISO 8601"
            in wrong.stderr
        )

    @pytest.mark.real_data
    def test_the_repeated_hour_of_a_real_machine_is_named_and_replayed(
        self, mosquitto_broker: RunningBroker, real_data: Path
    ) -> None:
        file = real_data / "data" / "nab" / "machine_temperature_system_failure.csv"

        with (
            listener(mosquitto_broker) as heard,
            sim(
                *("replay", "--broker", mosquitto_broker.url, file, "--stream", "machine", "--rows", "10400"),
                *("--device", "press-1", "--time", "timestamp", "--value", "temperature=value"),
            ) as replay,
        ):
            heard.listen_until(lambda: len(heard.heard) == 10_400)
            summary = replay.finish()

        assert (
            summary.items()
            >= {"readings": 10_400, "acknowledged": 10_400, "skipped": {}, "steps_back": 1}.items()
        )
        (step,) = replay.named("time.stepped_back")
        assert step["row"] == 10_151
        assert "from 2014-01-07 02:55 to 02:00 (55 min): 12 readings" in str(step["detail"])
        readings = heard.readings("press-1")
        assert [reading.seq for reading in readings] == list(range(10_400))
        assert readings[0].time_ms == 1_386_018_900_000.0
        assert readings[0].values == {"temperature": 73.96732207}


class TestCsvFile:
    def test_lines_keep_their_number_through_empty_and_quoted_ones(self, tmp_path: Path) -> None:
        path = tmp_path / "a.csv"
        path.write_bytes(b'\xef\xbb\xbfa,b\r\n1, 2\r\n\r\n"x\ny",3\r\n\xff,4\r\n')

        file = CsvFile(path)

        assert file.header() == ["a", "b"]
        assert list(file.lines()) == [
            Line(2, ["1", "2"]),
            Line(5, ["x\ny", "3"]),
            Line(6, ["\ufffd", "4"]),
        ]
        assert [line.number for line in file.lines(first=3, limit=1)] == [5]

    def test_a_line_that_is_no_csv_is_passed_over_and_told(self, tmp_path: Path) -> None:
        path = tmp_path / "a.csv"
        path.write_text(f"a\n{'x' * 200_000}\n2\n")

        assert list(CsvFile(path).lines()) == [Line(2, None), Line(3, ["2"])]

    def test_a_file_that_is_absent_or_empty_is_the_operators(self, tmp_path: Path) -> None:
        (tmp_path / "empty.csv").touch()

        for name in ("absent.csv", "empty.csv"):
            with pytest.raises(ConfigError, match=name):
                CsvFile(tmp_path / name).header()

    @pytest.mark.parametrize("keep", [0.5, 0.999])
    def test_a_gzip_file_that_is_cut_off_is_told(self, tmp_path: Path, keep: float) -> None:
        whole = gzip.compress("\n".join(["a", *map(str, range(100_000))]).encode())
        path = tmp_path / "a.csv.gz"
        path.write_bytes(whole[: int(len(whole) * keep)])

        with pytest.raises(StorageError, match=r"a\.csv\.gz"):
            list(CsvFile(path).lines())

    def test_a_file_that_only_ends_in_gz_is_told(self, tmp_path: Path) -> None:
        path = tmp_path / "a.csv.gz"
        path.write_text("a\n1\n")

        with pytest.raises(StorageError, match=r"a\.csv\.gz"):
            CsvFile(path).header()


def value(reading: Reading) -> float:
    """Return the only value of ``reading``."""
    assert isinstance(reading.values, dict)
    (only,) = reading.values.values()
    assert isinstance(only, float)
    return only
