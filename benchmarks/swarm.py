"""What the simulator can send with thousands of devices in one process: `make bench-swarm`.

`atoll-sim run` publishes readings of QoS 1 to Mosquitto as fast as they are acknowledged, over one
connection for all devices and over one for each. Told are messages per second, per second of the
simulator's CPU (which other work on the machine does not change), and its memory beside that of one device.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from support import brokers

from atoll_sim.swarm import require_files

MAIN = "import sys; from atoll_sim.cli import main; sys.exit(main())"
WORLD = """
[world]
site = "site"
seed = 1
[[device]]
prefix = "d"
count = {count}
stream = "x"
rate_hz = 1.0
[device.signal.x]
shape = "walk"
low = 0.0
high = 1.0
step = 0.1
"""


def measure(folder: Path, url: str, count: int, readings: int, connections: str) -> dict[str, Any]:
    """Return what came of one run."""
    world = folder / "world.toml"
    world.write_text(WORLD.format(count=count))
    words = ["run", "--broker", url, str(world), "--json", "--connections", connections, "--speed", "1000000"]
    words += ["--readings", str(readings), "--window", "2000", "--give-up-after", "300"]
    began = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, *words], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    printed = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise AssertionError(f"atoll-sim ended with {process.returncode}")
    summary = json.loads(printed)
    return {
        "devices": count,
        "connections": connections,
        "readings": summary["readings"],
        "lost": summary["lost"],
        "acknowledged": summary["acknowledged"],
        "seconds": summary["seconds"],
        "to_start_s": round(time.monotonic() - began - summary["seconds"], 1),
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "memory_mb": round(usage.ru_maxrss / 1024, 1),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--devices", type=int, default=10_000)
    parser.add_argument("--readings", type=int, default=50_000)
    parser.add_argument("--connections", default="shared,own")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="atoll-swarm-") as name:
        folder = Path(name)
        require_files(arguments.devices)  # the broker needs as many, and inherits the limit
        with brokers.mosquitto(folder / "broker") as broker:
            for connections in arguments.connections.split(","):
                one = measure(folder, broker.url, 1, 1, connections)
                none = measure(folder, broker.url, arguments.devices, 1, connections)
                all_ = measure(folder, broker.url, arguments.devices, arguments.readings, connections)
                told = all_ | {
                    "messages_per_s": round(all_["readings"] / all_["seconds"]),
                    "messages_per_cpu_s": round(all_["readings"] / max(all_["cpu_s"] - none["cpu_s"], 1e-9)),
                    "connect_cpu_s": round(none["cpu_s"] - one["cpu_s"], 2),
                    "memory_per_device_kb": round(
                        1024 * (all_["memory_mb"] - one["memory_mb"]) / arguments.devices, 2
                    ),
                }
                print(json.dumps(told), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
