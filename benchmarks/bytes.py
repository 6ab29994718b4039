"""How many bytes leave a site: readings forwarded, every prediction, and predictions by exception.

Real data is played through the agent's own lane, at its own times. The model is the mean of the last
twelve readings, run by the inference runtime. Counted are whole MQTT 3.1.1 packets at QoS 1 in both
directions (PUBLISH and PUBACK) without TCP/IP. `make bench-bytes`; ATOLL_DATA names the folder of data.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from support.bundles import make_bundle

from atoll_agent.rehearsal import Outcome, Rehearsal, Tape
from atoll_agent.settings import AgentSettings
from atoll_contract.ids import escape
from atoll_contract.messages import Reading, decode_prediction, encode_prediction, encode_reading
from atoll_contract.topics import ReadingTopic
from atoll_infer import golden
from atoll_infer.runtime import choose_runtime
from atoll_link import logs
from atoll_link.recording import Kind, Row

SITE, STREAM, MODEL = "site", "s", "mean"
LATENCY_MS = 0.412
"""As wide as such a number is; the lane's own would be that of a clock of the past."""

Point = tuple[str, float, float]
"""Device, time in milliseconds, value."""


@dataclass(frozen=True)
class Case:
    """One set of data; its bands are in the unit of the value."""

    name: str
    points: list[Point]
    unit: str
    bands: tuple[float, float]
    every_s: float


class Meter(Tape):
    """Counts the bytes of what leaves, and how far it is from what was told before."""

    size_bytes = 0

    def publish(self, topic: str, payload: bytes, *, qos: int) -> int | None:
        prediction = msgspec.structs.replace(decode_prediction(payload), latency_ms=LATENCY_MS)
        Meter.size_bytes += packets_bytes(topic, encode_prediction(prediction))
        return super().publish(topic, payload, qos=qos)


def packets_bytes(topic: str, payload: bytes) -> int:
    """Return the size of a PUBLISH at QoS 1 and its PUBACK."""
    rest = 2 + len(topic.encode()) + 2 + len(payload)
    length_bytes = 1 if rest < 128 else 2 if rest < 16_384 else 3
    return 1 + length_bytes + rest + 4


def time_ms(text: str, form: str) -> float:
    return datetime.strptime(text, form).replace(tzinfo=UTC).timestamp() * 1e3


def nab(path: Path, device: str) -> list[Point]:
    with path.open(newline="") as file:
        return [
            (device, time_ms(row["timestamp"], "%Y-%m-%d %H:%M:%S"), float(row["value"]))
            for row in csv.DictReader(file)
        ]


def pems(folder: Path) -> list[Point]:
    points: list[Point] = []
    for name in ("pems_5min_train.csv", "pems_5min_test.csv"):
        with (folder / name).open(newline="") as file:
            points += [
                (
                    "lane-1",
                    time_ms(row["5 Minutes"], "%d/%m/%Y %H:%M"),
                    float(row["Lane 1 Flow (Veh/5 Minutes)"]),
                )
                for row in csv.DictReader(file)
            ]
    return points


def parking(path: Path) -> list[Point]:
    with gzip.open(path, "rt", newline="") as file:
        points = [
            (
                escape(row["SystemCodeNumber"]),
                time_ms(row["LastUpdated"], "%Y-%m-%d %H:%M:%S"),
                100 * float(row["Occupancy"]) / float(row["Capacity"]),
            )
            for row in csv.DictReader(file)
        ]
    return sorted(points, key=lambda point: point[1])


def cases(data: Path) -> Iterator[Case]:
    yield Case("traffic: speed", nab(data / "nab/speed_6005.csv", "loop-6005"), "mph", (1.0, 3.0), 3600)
    yield Case("traffic: occupancy", nab(data / "nab/occupancy_6005.csv", "loop-6005"), "%", (0.5, 2.0), 3600)
    yield Case("traffic: flow", pems(data / "extra/pems_flow"), "cars/5 min", (2.0, 10.0), 3600)
    path = data / "birmingham_parking/birmingham_parking.csv.gz"
    yield Case("parking: 30 car parks", parking(path), "% full", (1.0, 5.0), 4 * 3600)
    path = data / "nab/machine_temperature_system_failure.csv"
    yield Case("machine: temperature", nab(path, "machine-1"), "degrees", (0.5, 2.0), 3600)


def play(case: Case, report: str, folder: Path) -> tuple[int, Outcome]:
    """Return the bytes of the predictions of ``case``, published as ``report`` says, and the outcome."""
    path = folder / "agent.toml"
    path.write_text(
        f'[agent]\nid = "pi"\nsite = "{SITE}"\nstate_dir = "state"\n[[stream]]\nname = "{STREAM}"\n'
        f'values = {{ x = {{}} }}\n[[model]]\nname = "{MODEL}"\nstream = "{STREAM}"\n{report}\n'
    )
    bundle = make_bundle(MODEL, file="mean12_float", length=12)
    predictor = golden.self_test(bundle, choose_runtime().runtime)
    Meter.size_bytes = 0
    rehearsal = Rehearsal(AgentSettings.read(path), {MODEL: predictor}, tape=Meter)
    for device, moment_ms, value in case.points:
        topic, payload = raw(device, moment_ms, value)
        rehearsal.play(Row(moment_ms, moment_ms, Kind.READING, STREAM, device, topic, payload, 1))
    return Meter.size_bytes, rehearsal.finish()


def raw(device: str, moment_ms: float, value: float) -> tuple[str, bytes]:
    """Return topic and payload of a reading."""
    reading = Reading({"x": value}, time_ms=moment_ms)
    return str(ReadingTopic(SITE, device, STREAM)), encode_reading(reading)


def measure(case: Case, folder: Path) -> dict[str, object]:
    raw_bytes = sum(packets_bytes(*raw(*point)) for point in case.points)
    every_bytes, every = play(case, "", folder)
    found: dict[str, object] = {
        "case": case.name,
        "readings": len(case.points),
        "raw_bytes": raw_bytes,
        "predictions": every.counts["predictions"],
        "every_bytes": every_bytes,
    }
    for size, band in zip(("narrow", "wide"), case.bands, strict=True):
        report = f"report = {{ dead_band = {band}, at_least_every_s = {case.every_s} }}"
        exception_bytes, outcome = play(case, report, folder)
        found |= {
            f"{size}_band": f"{band:g} {case.unit}",
            f"{size}_predictions": outcome.counts["predictions"],
            f"{size}_bytes": exception_bytes,
        }
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--data", type=Path, help="folder with nab/, birmingham_parking/, extra/")
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    arguments = parser.parse_args()
    data = arguments.data or (Path(os.environ["ATOLL_DATA"]) / "data" if "ATOLL_DATA" in os.environ else None)
    if data is None or not (data / "nab").is_dir():
        print("set ATOLL_DATA to the folder that holds data/, or give --data", file=sys.stderr)
        return 2
    logs.configure("warning")
    with tempfile.TemporaryDirectory() as folder:
        rows = [measure(case, Path(folder)) for case in cases(data)]
    if arguments.json:
        print(json.dumps(rows))
        return 0
    bands = 2 * "dead band | by exception | "
    print(f"| data | readings | bytes, forwarded raw | every prediction | {bands}".rstrip())
    print("|---|---|---|---|---|---|---|---|")
    for row in rows:
        cells = [row["case"], row["readings"], row["raw_bytes"], row["every_bytes"]]
        for size in ("narrow", "wide"):
            share = 100 * int(str(row[f"{size}_bytes"])) / int(str(row["raw_bytes"]))
            cells += [row[f"{size}_band"], f"{row[f'{size}_bytes']} ({share:.0f} % of raw)"]
        print("| " + " | ".join(map(str, cells)) + " |")
    return 0


if __name__ == "__main__":
    sys.exit(main())
