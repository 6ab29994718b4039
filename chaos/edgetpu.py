"""What an Edge TPU may do to its agent, on the stand-in for one: `make chaos-edgetpu`.

An agent answers 50 readings a second at QoS 1 while its device aborts, hangs, fails, is unplugged and
plugged in again, cannot be opened, and stalls for 25 s when it is opened. Then a million inferences with an
abort after every 10,000, and a burst of aborts beyond the budget of restarts.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from support import brokers, edgetpu_stub
from support.agents import AgentProcess
from support.edgetpus import TpuBench, compiled_bundle, until
from support.feeder import Feeder
from support.spy import Spy
from support.sysfs import Sysfs
from world import READING, SAID, answered, new_trainer, report, wait_for

_STALL_S = 25


@dataclass
class Site:
    """An agent on the stand-in, and what happens to its device.

    Attributes:
        agent: The agent.
        spy: Who hears it.
        sysfs: Where its device is.
        control: What this file says happens to it.
    """

    agent: AgentProcess
    spy: Spy
    sysfs: Sysfs
    control: Path

    def predictions(self) -> list[tuple[float, bool]]:
        """When each prediction came, monotonic ms by the spy, and whether the CPU gave it."""
        found = [(item, json.loads(item.payload)) for item in self.spy.on("/prediction/")]
        return [(item.arrival_ms, "degraded" in said.get("quality", [])) for item, said in found]

    def status(self) -> dict[str, object]:
        found = self.spy.on("/pi/status")
        return json.loads(found[-1].payload) if found else {}

    def has_begun(self, since_ms: float) -> bool:
        return any(is_degraded for at, is_degraded in self.predictions() if at > since_ms)

    def is_over(self, since_ms: float) -> bool:
        """Whether the device answers again after the CPU had to."""
        late = [is_degraded for at, is_degraded in self.predictions() if at > since_ms]
        return True in late and not late[-1]


def main() -> int:
    """Run all; 1: something is not as it must be."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help="of faults, endurance, burst; by default all"
    )
    parser.add_argument("--inferences", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--stall-s", type=float, default=_STALL_S, metavar="S")
    options = parser.parse_args()
    parts = {
        "faults": lambda folder: faults(folder, options.stall_s),
        "endurance": lambda folder: endurance(folder, options.inferences),
        "burst": burst,
    }
    code = 0
    for part in options.parts or parts:
        with tempfile.TemporaryDirectory() as folder:
            code |= report(*parts[part](Path(folder)))
    return code


def faults(folder: Path, stall_s: float) -> tuple[dict[str, object], dict[str, bool]]:
    """Each fault beside live readings."""
    with brokers.mosquitto(folder / "broker") as broker:
        trainer, root = new_trainer(folder)
        sysfs, control = Sysfs(folder), folder / "control"
        control.write_text("")
        sysfs.plug_usb("1-1")
        settings = (
            '[[model]]\nname = "wear"\nstream = "press"\naccelerator = "edgetpu"\n'
            f'[edgetpu]\nlibrary = "{edgetpu_stub.build()}"\nsysfs_root = "{sysfs.root}"\n'
            "restarts_per_minute = 1000\nreturn_after_s = 1.0\n"
        )
        agent = AgentProcess(folder / "agent", broker.port, root, models=settings)
        try:
            with Spy(broker.port, SAID) as spy, Feeder(broker.port, READING, interval_s=0.02) as feeder:
                trainer.sign(compiled_bundle().pack())
                trainer.push(broker)
                site = Site(agent, spy, sysfs, control)
                agent.start(EDGETPU_STUB_CONTROL=str(control))
                wait_for(lambda: '"champion"' in _last(spy, "/slot/wear"), "a champion", 60)
                feeder.go_on()
                wait_for(lambda: len(site.predictions()) > 50, "predictions", 30)
                found: dict[str, object] = {what: _suffer(site, do, undo) for what, do, undo in _faults(site)}
                agent.stop()
                feeder.pause()
                # What takes so long must be in the environment of the agent.
                agent.start(
                    EDGETPU_STUB_CONTROL=str(control), EDGETPU_STUB_CREATE_DELAY_MS=str(int(stall_s * 1e3))
                )
                feeder.go_on()
                started_ms = time.time() * 1e3
                wait_for(lambda: site.has_begun(started_ms), "the CPU's answers", 30)
                what = f"a stall of {stall_s:g} s at opening"
                found[what] = _suffer(site, lambda: None, lambda: None, started_ms)
                feeder.pause()
                wait_for(lambda: len(set(answered(spy))) >= feeder.sent, "all answers", 30)
                status = site.status()
                sent, said = feeder.sent, answered(spy)
        finally:
            agent.close()
    lost = sent - len(set(said))
    counts = status["counts"]
    found |= {"readings, lost": f"{sent}, {lost}"}
    assert isinstance(counts, dict)
    hung_up = agent.events("broker.disconnected") + agent.events("lane.disconnected")
    demanded = {
        "no reading is lost": lost == 0,
        "keep-alives of 5 s went on": counts["connections"] == 1 and not hung_up,
    }
    return found, demanded


def _faults(site: Site) -> list[tuple[str, Callable[[], object], Callable[[], object]]]:
    def write(word: str) -> Callable[[], object]:
        return lambda: site.control.write_text(word)

    def unplug() -> None:
        site.control.write_text("gone")
        site.sysfs.unplug_usb("1-1")

    def plug() -> None:
        site.control.write_text("")
        site.sysfs.plug_usb("1-1")

    return [
        ("abort", write("abort"), lambda: None),
        ("hang (deadline 2 s)", write("hang"), lambda: None),
        ("unplugged for 3 s", unplug, plug),
        # sysfs still shows it, and it cannot be opened.
        ("cannot be opened for 3 s", write("gone"), write("")),
    ]


def _suffer(
    site: Site, do: Callable[[], object], undo: Callable[[], object], since_ms: float | None = None
) -> str:
    """Let a fault happen; say how long the CPU answered, and when the device did again."""
    since_ms = time.time() * 1e3 if since_ms is None else since_ms
    do()
    wait_for(lambda: site.has_begun(since_ms), "the CPU's answers", 30)
    undone_ms = since_ms
    if site.control.read_text() == "gone":
        end_s = time.monotonic() + 3
        wait_for(lambda: time.monotonic() > end_s, "three seconds", 10)
        undone_ms = time.time() * 1e3
    undo()
    wait_for(lambda: site.is_over(since_ms), "the device's answers", 90)
    late = [(at, is_degraded) for at, is_degraded in site.predictions() if at > since_ms]
    degraded = [at for at, is_degraded in late if is_degraded]
    back_ms = next(at for at, is_degraded in late if at > degraded[-1] and not is_degraded)
    last_before = [at for at, _ in site.predictions() if at <= since_ms][-1:]
    gaps = [later - at for at, later in pairwise([*last_before, *(at for at, _ in late)])]
    return (
        f"on the CPU for {(degraded[-1] - degraded[0]) / 1e3:.2f} s; the device answers "
        f"{(back_ms - undone_ms) / 1e3:.2f} s after the fault is over; longest pause {max(gaps):.0f} ms"
    )


def endurance(folder: Path, inferences: int) -> tuple[dict[str, object], dict[str, bool]]:
    """Many inferences, and an abort after every 10,000."""
    os.environ["EDGETPU_STUB_ABORT_AFTER"] = "10004"  # four are golden vectors
    bench = TpuBench(folder, restarts_per_minute=100_000)
    bench.sysfs.plug_usb("1-1")
    predictor = bench.ready()
    tensor = np.zeros((1, 1), np.int8)
    looks: list[tuple[int, int, int, int]] = []
    started = time.monotonic()
    done, on_cpu = 0, 0
    while done < inferences:
        predictor.model.invoke(tensor)
        if predictor.model.is_degraded:
            on_cpu += 1
            bench.wait_state(lambda _state: bench.tpus.states[0].is_ready, 60)
            continue
        done += 1
        if done % (inferences // 20) == 5_000 % (inferences // 20):
            looks.append(_look())
    del os.environ["EDGETPU_STUB_ABORT_AFTER"]
    bench.tpus.close()
    first, last = looks[1], looks[-1]
    found: dict[str, object] = {
        "inferences, aborts": f"{done}, {on_cpu}",
        "seconds": round(time.monotonic() - started),
        "memory of the agent's side, MB": f"{first[0] / 1e3:.1f} -> {last[0] / 1e3:.1f}",
        "memory of the child, MB": f"{first[2] / 1e3:.1f} -> {last[2] / 1e3:.1f}",
        "descriptors of both": f"{first[1]}, {first[3]} -> {last[1]}, {last[3]}",
    }
    demanded = {
        "memory stays": last[0] - first[0] < 3_000 and abs(last[2] - first[2]) < 3_000,
        "descriptors stay": (first[1], first[3]) == (last[1], last[3]),
        "every abort cost one answer of the CPU": on_cpu == bench.counts["edgetpu_degraded"],
    }
    return found, demanded


def burst(folder: Path) -> tuple[dict[str, object], dict[str, bool]]:
    """More aborts than the budget of restarts allows."""
    bench = TpuBench(folder, restarts_per_minute=5, return_after_s=10.0)
    os.environ["EDGETPU_STUB_CONTROL"] = str(bench.control)
    bench.sysfs.plug_usb("1-1")
    predictor = bench.ready()
    for _ in range(6):
        bench.control.write_text("abort")
        until(predictor, degraded=True)
        rested = time.monotonic()
        until(predictor, degraded=False, timeout_s=60)
    returned_s = time.monotonic() - rested
    starts = bench.counts["edgetpu_starts"]
    bench.tpus.close()
    found: dict[str, object] = {
        "6 aborts at a budget of 5, 10 s of rest": f"{starts} starts; back after {returned_s:.1f} s"
    }
    return found, {"it rests and returns": returned_s >= 9 and starts == 7}


def _look() -> tuple[int, int, int, int]:
    """Return memory in kB and descriptors, of this process and of its child."""
    children = [
        int(pid)
        for task in Path("/proc/self/task").iterdir()
        for pid in (task / "children").read_text().split()
    ]
    [child] = children
    return *_of(os.getpid()), *_of(child)


def _of(pid: int) -> tuple[int, int]:
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    resident = next(int(line.split()[1]) for line in status if line.startswith("VmRSS:"))
    return resident, len(list(Path(f"/proc/{pid}/fd").iterdir()))


def _last(spy: Spy, topic: str) -> str:
    found = spy.on(topic)
    return found[-1].payload.decode() if found else ""


if __name__ == "__main__":
    sys.exit(main())
