"""One run: one system on one case, with a broker of its own."""

from __future__ import annotations

import json
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from brokers import RunningBroker, mosquitto
from cases import Case
from enrolled import SLOW, Enrolled, announce
from native import Programs
from processes import BenchmarkError, Group, Process, machine_cpu_s
from systems import Start, Surroundings, System

from atoll_sim.demo.ports import free_port

Figures = dict[str, Any]
IDLE_S = 10.0


@dataclass(frozen=True)
class Bench:
    """What all runs share.

    Attributes:
        programs: The programs in C.
        enrolled: Agents by variant.
        pace: Factor to the time of each measured span; below 1 for a look whether all works.
    """

    programs: Programs
    enrolled: dict[str, Enrolled]
    pace: float = 1.0


def measure(bench: Bench, system: System, case: Case, seed: int) -> Figures:
    """Return the figures of one run.

    Raises:
        BenchmarkError: The run cannot be counted.
    """
    with tempfile.TemporaryDirectory(prefix="atoll-bench-") as folder, ExitStack() as stack:
        run = _Run(bench, system, case, seed, Path(folder), stack)
        return run.on_stub() if case.broker == "stub" else run.on_mosquitto()


class _Run:
    """Processes of one run; the stack ends them."""

    def __init__(
        self, bench: Bench, system: System, case: Case, seed: int, folder: Path, stack: ExitStack
    ) -> None:
        self._programs = bench.programs
        self._enrolled = bench.enrolled.get(case.variant)
        self._pace = bench.pace
        self._system = system
        self._case = case
        self._seed = seed
        self._folder = folder
        self._stack = stack

    def on_mosquitto(self) -> Figures:
        case, enrolled = self._case, self._enrolled
        broker = self._stack.enter_context(
            mosquitto(
                self._folder,
                inflight=case.inflight,
                retained=enrolled.retained if enrolled else None,
                certificate=enrolled.certificate if enrolled and case.is_tls else None,
            )
        )
        load = [str(self._programs["loadgen"]), "--port", str(broker.port), *_reading_options(case)]
        starts = self._starts(broker.tls_port if case.is_tls else broker.port)
        figures, processes = self._start(starts, load)
        if case.seconds == 0:
            return figures | _idle(Group(processes), IDLE_S * self._pace)
        load += self._load_options()
        slow = None
        if case.slow_rate:
            rate = ["--rate", str(case.slow_rate), "--stream", SLOW.stream, "--model", SLOW.name]
            slow = self._piped([*load, *rate], "slow.log")
        loadgen = self._piped([*load, *([] if starts else ["--alone"])], "load.log")
        _expect(loadgen, "begin", 250.0 if case.prime else 20.0)
        if case.kills:
            return figures | self._killed(loadgen, starts[0], processes[0])
        running = {"broker": [broker.process], "system": processes}
        if case.is_released:
            return figures | self._released(loadgen, running, broker)
        figures |= self._loaded(loadgen, running)
        if slow is not None:
            figures["slow"] = _result(slow)
        return figures

    def on_stub(self) -> Figures:
        port = free_port()
        hold_out = ["--hold-out", self._system.hold_out] if self._system.hold_out else []
        command = [str(self._programs["stub_broker"]), "--port", str(port), *_reading_options(self._case)]
        stub = self._piped([*command, *hold_out, *self._load_options()], "load.log")
        stub.line(10)
        processes = [self._process(start) for start in self._starts(port)]
        stub.line(30)
        Group(processes).settle(self._system.rest_s)
        stub.say("go\n")
        _expect(stub, "begin", 20.0)
        return self._loaded(stub, {"system": processes})

    # What runs

    def _starts(self, port: int) -> list[Start]:
        return self._system.starts(
            Surroundings(self._case, port, self._programs, self._enrolled, self._folder)
        )

    def _start(self, starts: list[Start], load: list[str]) -> tuple[Figures, list[Process]]:
        """Start the system; return how soon it answered and what it needs at rest."""
        if not starts:
            return {}, []
        # The probe is there first: the time until the first answer is that of the system alone.
        command = [*load, "--first", "--warmup", "30", "--devices", "1"]
        with Process(command, self._folder / "probe.log", is_piped=True) as probe:
            probe.line(10)
            processes = [self._process(start) for start in starts]
            figures: Figures = {"start_ms": _start_ms(probe, processes[0])}
        group = Group(processes)
        group.settle(self._system.rest_s)
        return figures | {"idle": group.memory_mb()}, processes

    def _process(self, start: Start) -> Process:
        log = self._folder / "system.log"
        return self._stack.enter_context(Process(start.command, log, environment=start.environment))

    def _piped(self, command: list[str], log: str) -> Process:
        return self._stack.enter_context(Process(command, self._folder / log, is_piped=True))

    @property
    def _seconds(self) -> float:
        # A release takes the time that it takes.
        return self._case.seconds * (1.0 if self._case.is_released else self._pace)

    def _load_options(self) -> list[str]:
        options = {
            "--qos": self._case.qos,
            "--devices": self._case.devices,
            "--rate": self._case.rate,
            "--window": self._case.window,
            "--prime": self._case.prime,
            "--seconds": self._seconds,
            "--warmup": 1.0 * self._pace,
            "--seed": self._seed,
            "--boot": f"run{self._seed}",
        }
        return [word for name, value in options.items() for word in (name, str(value))]

    # What is found

    def _loaded(self, loadgen: Process, running: dict[str, list[Process]]) -> Figures:
        """Return what the span that has begun gives."""
        groups = {name: Group(processes) for name, processes in running.items() if processes}
        begin = {name: group.cpu_s() for name, group in groups.items()}
        machine, started = machine_cpu_s(), time.monotonic()
        _expect(loadgen, "end", self._seconds + 20)
        spent = time.monotonic() - started
        machine = {name: value - machine[name] for name, value in machine_cpu_s().items()}
        used = {name: group.cpu_s() - begin[name] for name, group in groups.items()}
        figures: Figures = {"loaded": groups["system"].memory_mb()} if "system" in groups else {}
        figures |= _result(loadgen)
        if figures["answers_in_time"] == 0:
            raise BenchmarkError("no answers in the measured span")
        for name, cpu_s in used.items():
            figures[f"{name}_cpu_us"] = round(1e6 * cpu_s / figures["answers_in_time"], 2)
        strangers_s = machine["busy"] - sum(used.values()) - figures["generator_cpu_s"]
        figures["others_share"] = round(max(0.0, strangers_s) / spent, 3)
        figures["stolen_share"] = round(machine["stolen"] / spent, 3)
        figures["generator_share"] = round(figures["generator_cpu_s"] / figures["seconds"], 3)
        return figures

    def _killed(self, loadgen: Process, start: Start, agent: Process) -> Figures:
        """Kill the agent again and again while readings come; return what became of them."""
        kills = max(1, round(self._case.kills * self._pace))
        for _ in range(kills):
            time.sleep(self._seconds / (kills + 1))
            agent.kill()
            agent = self._process(start)
        _expect(loadgen, "end", self._seconds + 20)
        return {"kills": kills} | _result(loadgen)

    def _released(
        self, loadgen: Process, running: dict[str, list[Process]], broker: RunningBroker
    ) -> Figures:
        """Announce the release that waits; return what the span gives and when the agent swapped."""
        if self._enrolled is None or self._enrolled.announcement is None:
            raise ValueError(f"no release was prepared for {self._case.variant}")
        announce(broker.port, self._enrolled.announcement.read_bytes())
        announced_s = time.time()
        figures = self._loaded(loadgen, running)
        for line in (self._folder / "system.log").read_text().splitlines():
            if line.startswith("{") and (event := json.loads(line))["event"] == "model.activated":
                swapped_s = datetime.fromisoformat(event["timestamp"]).timestamp()
                return figures | {"swapped_ms": round(1e3 * (swapped_s - announced_s))}
        raise BenchmarkError("the release was not swapped in before the span ended")


def _reading_options(case: Case) -> list[str]:
    return ["--values", str(case.values), "--dialect", case.dialect]


def _start_ms(probe: Process, system: Process) -> float:
    try:
        found = json.loads(probe.line(40))
    except BenchmarkError as error:
        system.require_running()
        raise BenchmarkError(f"no first answer: {error}") from error
    if found["first_ns"] == 0:
        system.require_running()
        raise BenchmarkError("the system answered no reading")
    first_ns: int = found["first_ns"]
    return round((first_ns - system.started_ns) / 1e6, 2)


def _idle(system: Group, span_s: float) -> Figures:
    begin, started = system.fine_cpu_s(), time.monotonic()
    time.sleep(span_s)
    share = (system.fine_cpu_s() - begin) / (time.monotonic() - started)
    return {"idle_cpu_percent": round(100 * share, 4)}


def _expect(loadgen: Process, wanted: str, timeout_s: float) -> None:
    while (line := loadgen.line(timeout_s)) != wanted:
        if line.startswith("{"):
            raise BenchmarkError(f"the load generator ended before {wanted!r}")


def _result(loadgen: Process) -> Figures:
    while not (line := loadgen.line(30)).startswith("{"):
        continue
    found: Figures = json.loads(line)
    return {key: round(value, 4) if isinstance(value, float) else value for key, value in found.items()}
