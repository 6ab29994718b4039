"""What `atoll-trainer record` takes in without loss, and what it needs for that: `make bench-recorder`.

The load generator in C publishes at QoS 1 to Mosquitto, at a fixed rate with Poisson arrivals. Afterwards the
recording is read and every reading looked for, by device and `seq`. Memory is looked at each second.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
import urllib.request
from collections import Counter
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
from brokers import mosquitto
from native import build
from processes import BenchmarkError, Group, Process, machine_cpu_s

from atoll_link.recording import Kind, read
from atoll_sim.demo.ports import free_port

MAIN = "import sys; from atoll_trainer.cli import main; sys.exit(main())"
STREAM = "x"
SETTINGS = """
[trainer]
id = "trainer"
site = "bench"
[broker]
port = {port}
[metrics]
port = {metrics_port}
[[stream]]
name = "{stream}"
values = {{ {values} }}
"""
MOST_BEHIND_S = 60.0
"""What is not recorded so long after the last reading was sent is lost."""
GENERATOR_WAITS_S = 3.0
RECORDED = 'atoll_trainer_recorded_total{kind="reading"} '


class Sent(msgspec.Struct):
    """What of a reading tells which one it is."""

    seq: int


def measure(arguments: argparse.Namespace, folder: Path, inflight: int) -> dict[str, Any]:
    """Return the figures of one run.

    Raises:
        BenchmarkError: The run cannot be counted.
    """
    home = folder / "home"
    log = folder / "record.log"
    with ExitStack() as stack:
        broker = stack.enter_context(mosquitto(folder, inflight=inflight))
        settings = folder / "trainer.toml"
        values = ", ".join(f"x{number} = {{}}" for number in range(arguments.values))
        metrics_port = free_port()
        ports = {"port": broker.port, "metrics_port": metrics_port}
        settings.write_text(SETTINGS.format(**ports, stream=STREAM, values=values))
        command = [sys.executable, "-c", MAIN, "record", "--settings", str(settings), "--home", str(home)]
        recorder = stack.enter_context(Process(command, log))
        _wait_for(log, "recording.subscribed", recorder)
        group, brokers = Group([recorder]), Group([broker.process])
        group.settle(1.0)
        options = {
            "--port": broker.port,
            "--qos": 1,
            "--rate": arguments.rate,
            "--seconds": arguments.seconds,
            "--warmup": 0,
            "--devices": arguments.devices,
            "--values": arguments.values,
            "--stream": STREAM,
        }
        load = [str(build(Path(__file__).parent / "build" / "native", ["loadgen"])["loadgen"])]
        load += [word for name, value in options.items() for word in (name, str(value))]
        memory = [group.memory_mb()["rss_mb"]]
        began_s, cpu_s, broker_cpu_s, machine_s = time.monotonic(), group.cpu_s(), brokers.cpu_s(), _busy_s()
        loadgen = stack.enter_context(Process(load, folder / "load.log", is_piped=True))
        if loadgen.line(20.0) != "begin":
            raise BenchmarkError("the load generator did not begin")
        while time.monotonic() - began_s < arguments.seconds:
            time.sleep(1.0)
            memory.append(group.memory_mb()["rss_mb"])
        _expect(loadgen, "end")
        ended_s = time.monotonic()
        sent, behind_s = _followed(loadgen, metrics_port, ended_s)
        memory.append(group.memory_mb()["rss_mb"])
        used_s, broker_used_s = group.cpu_s() - cpu_s, brokers.cpu_s() - broker_cpu_s
        others_s = _busy_s() - machine_s - used_s - broker_used_s - sent["generator_cpu_s"]
        span_s = time.monotonic() - began_s
    return {
        "inflight": inflight,
        "sent": sent["sent"],
        "sent_per_s": round(sent["sent"] / arguments.seconds),
        **_stored(home / "recordings", sent["sent"], arguments.devices),
        "behind_s": behind_s,
        "cpu_us_per_reading": round(1e6 * used_s / sent["sent"], 1),
        "cpu_share": round(used_s / span_s, 2),
        "broker_cpu_share": round(broker_used_s / span_s, 2),
        "others_cpu_share": round(others_s / span_s, 2),
        "memory_mb": {
            "start": memory[0],
            "most_of_first_half": max(memory[: len(memory) // 2]),
            "most_of_second_half": max(memory[len(memory) // 2 :]),
            "end": memory[-1],
        },
    }


def _stored(recordings: Path, sent: int, devices: int) -> dict[str, Any]:
    """Return how many of the readings are in the recording, and its size."""
    found: Counter[tuple[str, int]] = Counter()
    payload_bytes = 0
    for row in read(recordings, Kind.READING, STREAM):
        found[row.device, msgspec.json.decode(row.payload, type=Sent).seq] += 1
        payload_bytes += len(row.payload)
    wanted = {(f"d{number % devices}", number // devices) for number in range(sent)}
    size_bytes = sum(path.stat().st_size for path in recordings.rglob("*.parquet"))
    return {
        "recorded": len(found),
        "lost": len(wanted - found.keys()),
        "twice": found.total() - len(found),
        "payload_bytes_per_reading": round(payload_bytes / max(found.total(), 1), 1),
        "disk_bytes_per_reading": round(size_bytes / max(found.total(), 1), 1),
    }


def _followed(loadgen: Process, metrics_port: int, ended_s: float) -> tuple[dict[str, Any], float | None]:
    """Return what the generator tells, and how long after the last reading was sent all were recorded.

    None: some never were. The generator waits for answers, which nobody gives, before it tells.
    """
    seen: list[tuple[float, float]] = []

    def look() -> None:
        seen.append((_recorded(metrics_port), round(time.monotonic() - ended_s, 1)))
        time.sleep(0.1)

    while time.monotonic() - ended_s < GENERATOR_WAITS_S:
        look()
    told: dict[str, Any] = json.loads(_expect(loadgen, "{"))
    while (not seen or seen[-1][0] < told["sent"]) and time.monotonic() - ended_s < MOST_BEHIND_S:
        look()
    return told, next((behind_s for count, behind_s in seen if count >= told["sent"]), None)


def _recorded(metrics_port: int) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{metrics_port}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(RECORDED))


def _wait_for(log: Path, event: str, process: Process) -> None:
    deadline_s = time.monotonic() + 60.0
    while event not in (log.read_text() if log.exists() else ""):
        process.require_running()
        if time.monotonic() > deadline_s:
            raise BenchmarkError(f"no {event} within a minute")
        time.sleep(0.05)


def _expect(loadgen: Process, start: str) -> str:
    while not (line := loadgen.line(60.0)).startswith(start):
        continue
    return line


def _busy_s() -> float:
    return machine_cpu_s()["busy"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=float, default=5000.0, help="readings per second")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--devices", type=int, default=100)
    parser.add_argument("--values", type=int, default=2, help="of a reading")
    parser.add_argument(
        "--inflight", default="20,0", help="max_inflight_messages of Mosquitto, a run each; 0 is no limit"
    )
    arguments = parser.parse_args()
    for inflight in arguments.inflight.split(","):
        with tempfile.TemporaryDirectory(prefix="atoll-recorder-") as name:
            print(json.dumps(measure(arguments, Path(name), int(inflight))), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
