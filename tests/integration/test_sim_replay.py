"""``atoll-sim replay`` as a process against real brokers."""

from __future__ import annotations

import gzip
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest
from support import brokers
from support.brokers import RunningBroker
from support.sims import (
    DEADLINE_S,
    MAIN,
    SilentBroker,
    listener,
    sim,
    value,
)

from atoll_sim.survey import MAX_NAMED

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


def csv_of(path: Path, rows: int, step_ms: int = 20) -> Path:
    lines = ["when,t", *(f"{1_700_000_000_000 + step_ms * number},{number}" for number in range(rows))]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.mark.mosquitto
def test_a_replay_arrives_whole_through_a_broker_restart(tmp_path: Path) -> None:
    rows = 1500
    file = csv_of(tmp_path / "press.csv", rows)
    with (
        brokers.mosquitto(
            tmp_path / "broker", "persistence true", f"persistence_location {tmp_path}/broker/"
        ) as broker,
        listener(broker, is_clean=False) as heard,
        sim("replay", "--broker", broker.url, file, *REPLAY, "--speed", "10") as replay,
    ):
        # At 500 readings a second, the restart falls into the middle: what is left takes almost 3 s.
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
    any_broker: RunningBroker, tmp_path: Path
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
        assert [reading.time_ms for reading in readings] == [1_704_067_200_000.0 + 1e3 * n for n in numbers]
        assert [reading.seq for reading in readings] == list(range(100))
        labels = heard.labels(f"Press--20{machine}")
        assert [label.value for label in labels] == [n % 3 for n in numbers]
        assert [label.time_ms for label in labels] == [reading.time_ms for reading in readings]


def test_bad_rows_are_named_counted_and_skipped_and_a_step_back_is_named(
    mosquitto_broker: RunningBroker, tmp_path: Path
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


def test_a_slice_of_the_rows_can_be_replayed(mosquitto_broker: RunningBroker, tmp_path: Path) -> None:
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


def test_a_replay_keeps_the_pace_of_the_file(mosquitto_broker: RunningBroker, tmp_path: Path) -> None:
    file = csv_of(tmp_path / "press.csv", 51, step_ms=200)

    with sim("replay", "--broker", mosquitto_broker.url, file, *REPLAY, "--speed", "10") as replay:
        summary = replay.finish()

    # 10 s of the file at ten times the speed; it cannot be quicker.
    assert 1.0 <= summary["seconds"] < 5.0


def test_an_interrupted_replay_says_how_far_it_came(mosquitto_broker: RunningBroker, tmp_path: Path) -> None:
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
    mosquitto_broker: RunningBroker, tmp_path: Path
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


def test_no_more_is_in_flight_than_the_window_and_silence_ends_the_replay(tmp_path: Path) -> None:
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


def test_a_replay_that_is_told_to_stop_still_waits_for_acknowledgements(tmp_path: Path) -> None:
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


def test_a_file_of_which_no_row_can_be_read_is_refused(tmp_path: Path) -> None:
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
        "none of the 21 chosen rows can be read; row 2: time '1700000000000' is not ISO 8601" in wrong.stderr
    )


@pytest.mark.real_data
def test_the_repeated_hour_of_a_real_machine_is_named_and_replayed(
    mosquitto_broker: RunningBroker, real_data: Path
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
