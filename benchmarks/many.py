"""One model for each of thirty car parks: with one worker, with two, and on a cluster of its own.

``make bench-many`` trains the scenario ``birmingham_parking`` of ATOLL_DATA by ``train --each-device`` with
1 and 2 worker processes and with a separate ``dask scheduler`` and two ``dask worker`` processes, and
compares ``groups.json`` of the three, which holds the digest of every int8 model. Each car park has a small
budget, of 3 short fits: the scenario's own 16 are for one model of all. ``--parks N`` takes the first N car
parks and the two that are nearly empty; ``--task FILE`` another task.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from atoll_sim.demo.ports import free_port

ROOT = Path(__file__).parents[1]
NEARLY_EMPTY = ("BHMBRTARC01", "NIA North")
BUDGET = "trials = 3\ncandidates = 1\nepochs = 10"
COLUMN = "SystemCodeNumber"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parks", type=int, default=30, help="car parks beside the nearly empty ones")
    parser.add_argument(
        "--task", type=Path, default=ROOT / "config" / "scenarios" / "birmingham_parking.toml"
    )
    parser.add_argument(
        "--only", choices=("1", "2", "cluster"), action="append", help="configurations to run"
    )
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "build" / "many")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    task = arguments.out / "task.toml"
    text = arguments.task.read_text()
    if "[search]\n" not in text:
        raise SystemExit(f"{arguments.task}: no [search] to put the budget into")
    task.write_text(text.replace("[search]\n", f"[search]\n{BUDGET}\n", 1))
    table = arguments.out / "parks.csv"
    names = cut(table, arguments.parks)
    seconds, summaries = {}, {}
    for name in arguments.only or ("1", "2", "cluster"):
        folder = arguments.out / f"runs-{name}-{int(time.time())}"
        options = ["--workers", name]
        started = time.monotonic()
        if name == "cluster":
            with cluster(2) as address:
                started = time.monotonic()
                train(task, table, folder, ["--scheduler", address])
        else:
            train(task, table, folder, options)
        seconds[name] = time.monotonic() - started
        summaries[name] = (folder / "groups.json").read_text()
        print(f"{name:>8}: {len(names)} car parks in {seconds[name]:.0f} s", flush=True)
    groups = json.loads(next(iter(summaries.values())))["groups"]
    for group in groups:
        figures = [
            f"{group[key]['mae']:.4f}" for key in ("naive", "float_model", "int8_model") if key in group
        ]
        print(group["group"], group["ending"], group["windows"], *figures, group.get("why", ""), sep="  ")
    is_same = len(set(summaries.values())) == 1
    if len(summaries) == 1:
        print("one configuration: compared with nothing")
    else:
        print(f"same results in {len(summaries)} configurations" if is_same else "RESULTS DIFFER")
    (arguments.out / "result.json").write_text(
        json.dumps({"seconds": seconds, "same": is_same, "groups": groups})
    )
    return 0 if is_same else 1


def cut(path: Path, parks: int) -> list[str]:
    """Write the rows of the chosen car parks and return their names."""
    source = Path(os.environ["ATOLL_DATA"]) / "data" / "birmingham_parking" / "birmingham_parking.csv.gz"
    with gzip.open(source, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    names = sorted({row[COLUMN] for row in rows} - set(NEARLY_EMPTY))[: max(0, parks - len(NEARLY_EMPTY))]
    chosen = {*names, *NEARLY_EMPTY}
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(row for row in rows if row[COLUMN] in chosen)
    return sorted(chosen)


def train(task: Path, table: Path, folder: Path, options: list[str]) -> None:
    program = [sys.executable, "-c", "from atoll_trainer.cli import main; raise SystemExit(main())"]
    rows = ["--csv", str(table), "--device-column", COLUMN]
    command = [*program, "train", "--task", str(task), *rows, "--each-device", "--out", str(folder), *options]
    subprocess.run([*command, "--json"], check=True, stdout=subprocess.DEVNULL)


def _quiet(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@contextmanager
def cluster(workers: int) -> Iterator[str]:
    """A scheduler and worker processes; ended in the end."""
    port = free_port()
    address = f"tcp://127.0.0.1:{port}"
    dask = [sys.executable, "-m", "dask"]
    where = ["--host", "127.0.0.1", "--port", str(port), "--dashboard-address", "127.0.0.1:0"]
    processes = [_quiet([*dask, "scheduler", *where])]
    each = ["worker", address, "--nthreads", "1", "--dashboard-address", "127.0.0.1:0"]
    try:
        processes += [_quiet([*dask, *each]) for _ in range(workers)]
        yield address
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            process.wait(30)


if __name__ == "__main__":
    raise SystemExit(main())
