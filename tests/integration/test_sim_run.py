"""``atoll-sim run`` as a process against real brokers."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
from support.brokers import RunningBroker
from support.sims import (
    DEADLINE_S,
    MAIN,
    ROOT,
    listener,
    sim,
    value,
)

from atoll_contract.messages import Command, Label
from atoll_contract.topics import CommandTopic, LabelTopic, ReadingTopic, parse
from atoll_sim.demo.ports import free_port

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


@pytest.fixture
def world(tmp_path: Path) -> Path:
    path = tmp_path / "world.toml"
    path.write_text(WORLD)
    return path


def test_the_readings_of_two_devices_arrive_whole_and_in_order_with_their_truth(
    any_broker: RunningBroker, world: Path
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
    mosquitto_broker: RunningBroker, world: Path
) -> None:
    series = []
    boots = set()
    seconds = []
    for speed, readings in ((1, 40), (100, 1000)):
        with (
            listener(mosquitto_broker) as heard,
            sim(
                *("run", "--broker", mosquitto_broker.url, world),
                *("--readings", str(readings), "--speed", str(speed)),
            ) as run,
        ):
            heard.listen_until(lambda heard=heard, readings=readings: len(heard.heard) == 2 * readings)
            seconds.append(run.finish()["seconds"])
        series.append([[reading.values for reading in heard.readings(f"press-{n}")] for n in (1, 2)])
        boots |= {reading.boot for reading in heard.readings("press-1")}

    assert series[0] == [values[:20] for values in series[1]]
    assert len(boots) == 2
    # The last label of the world comes after 0.48 s, and with more readings after 10 s.
    assert seconds[0] >= 0.48
    assert seconds[1] < 5


def test_a_command_changes_the_truth_and_one_of_a_stranger_is_refused(
    any_broker: RunningBroker, world: Path
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
    mosquitto_broker: RunningBroker, world: Path, number: signal.Signals
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


def test_it_ends_after_the_time_it_was_given(mosquitto_broker: RunningBroker, world: Path) -> None:
    with sim("run", "--broker", mosquitto_broker.url, world, "--for", "2") as run:
        summary = run.finish()

    # Two devices, 50 a second each; a slow machine may miss the last ones.
    assert 40 <= summary["readings"] <= 202
    assert summary["seconds"] >= 2
    assert run.process.returncode == 0


def test_qos_0_readings_arrive_too(mosquitto_broker: RunningBroker, world: Path) -> None:
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


def test_without_a_broker_it_gives_up(world: Path) -> None:
    with sim("run", "--broker", f"mqtt://127.0.0.1:{free_port()}", world, "--give-up-after", "0.5") as run:
        summary = run.finish()

    assert run.process.returncode == 1
    assert summary["readings"] == 0
    assert run.named("broker.disconnected")


def test_the_example_world_is_right_and_a_wrong_one_ends_with_all_its_faults(world: Path) -> None:
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
    assert f"{world}:9: device[0].cuont: unknown key" in wrong.stderr
    assert f"{world}:13: device[0].signal.x.uniform: low 2 must be below high 1" in wrong.stderr
