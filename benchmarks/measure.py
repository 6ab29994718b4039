"""One run: one system on one case, with a broker of its own."""

from __future__ import annotations

import json
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from brokers import free_port, mosquitto
from cases import Case
from enrolled import Enrolled
from native import Programs
from processes import BenchmarkError, Process, machine_cpu_s
from systems import Surroundings, System

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
    with tempfile.TemporaryDirectory(prefix="atoll-bench-") as folder:
        if case.broker == "stub":
            return _on_stub(bench, system, case, seed, Path(folder))
        return _on_mosquitto(bench, system, case, seed, Path(folder))


def _on_mosquitto(bench: Bench, system: System, case: Case, seed: int, folder: Path) -> Figures:
    any_enrolled = bench.enrolled.get(case.variant)
    figures: Figures = {}
    with ExitStack() as stack:
        broker = stack.enter_context(
            mosquitto(
                folder,
                inflight=case.inflight,
                retained=any_enrolled.retained if any_enrolled else None,
                certificate=any_enrolled.certificate if any_enrolled and case.is_tls else None,
            )
        )
        load = [str(bench.programs.loadgen), "--port", str(broker.port), *_reading_options(case)]
        running: dict[str, Process] = {"broker": broker.process}
        if system.start is not None:
            port = broker.tls_port if case.is_tls else broker.port
            start = system.start(Surroundings(case, port, bench.programs, bench.enrolled))
            probe_command = [*load, "--first", "--warmup", "30", "--devices", "1"]
            # The probe is there first: the time until the first answer is that of the system alone.
            with Process(probe_command, folder / "probe.log", is_piped=True) as probe:
                probe.line(10)
                under_test = stack.enter_context(
                    Process(start.command, folder / "system.log", environment=start.environment)
                )
                running["system"] = under_test
                figures["start_ms"] = _start_ms(probe, under_test)
            under_test.settle(system.rest_s)
            figures["idle"] = under_test.memory_mb()
        if case.seconds == 0:
            return figures | _idle(running["system"], IDLE_S * bench.pace)
        options = ["--qos", str(case.qos), "--devices", str(case.devices), *_load_options(bench, case, seed)]
        if system.start is None:
            options.append("--alone")
        loadgen = stack.enter_context(Process([*load, *options], folder / "load.log", is_piped=True))
        return figures | _load(loadgen, running, case)


def _on_stub(bench: Bench, system: System, case: Case, seed: int, folder: Path) -> Figures:
    if system.start is None:
        raise BenchmarkError("the stub broker needs a system")
    port = free_port()
    options = [*_reading_options(case), "--qos", str(case.qos), "--devices", str(case.devices)]
    if system.hold_out:
        options += ["--hold-out", system.hold_out]
    load = [str(bench.programs.stub_broker), "--port", str(port), *options, *_load_options(bench, case, seed)]
    start = system.start(Surroundings(case, port, bench.programs, bench.enrolled))
    with Process(load, folder / "load.log", is_piped=True) as stub:
        stub.line(10)
        with Process(start.command, folder / "system.log", environment=start.environment) as under_test:
            stub.line(30)
            under_test.settle(system.rest_s)
            stub.say("go\n")
            return _load(stub, {"system": under_test}, case)


def _reading_options(case: Case) -> list[str]:
    return ["--values", str(case.values), "--dialect", case.dialect]


def _load_options(bench: Bench, case: Case, seed: int) -> list[str]:
    options = {
        "--rate": case.rate,
        "--window": case.window,
        "--prime": case.prime,
        "--seconds": case.seconds * bench.pace,
        "--warmup": 1.0 * bench.pace,
        "--seed": seed,
        "--boot": f"run{seed}",
    }
    return [word for name, value in options.items() for word in (name, str(value))]


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


def _idle(system: Process, span_s: float) -> Figures:
    begin, started = system.fine_cpu_s(), time.monotonic()
    time.sleep(span_s)
    share = (system.fine_cpu_s() - begin) / (time.monotonic() - started)
    return {"idle_cpu_percent": round(100 * share, 4)}


def _load(loadgen: Process, running: dict[str, Process], case: Case) -> Figures:
    patience_s = 250.0 if case.prime else 20.0
    _expect(loadgen, "begin", patience_s)
    begin = {name: process.cpu_s() for name, process in running.items()}
    machine, started = machine_cpu_s(), time.monotonic()
    _expect(loadgen, "end", case.seconds + 20)
    spent, machine = time.monotonic() - started, {k: v - machine[k] for k, v in machine_cpu_s().items()}
    used = {name: process.cpu_s() - begin[name] for name, process in running.items()}
    figures: Figures = {}
    if "system" in running:
        figures["loaded"] = running["system"].memory_mb()
    found: Figures = json.loads(loadgen.line(30))
    if found["answers_in_time"] == 0:
        raise BenchmarkError("no answers in the measured span")
    figures |= {key: round(value, 4) if isinstance(value, float) else value for key, value in found.items()}
    for name, cpu_s in used.items():
        figures[f"{name}_cpu_us"] = round(1e6 * cpu_s / found["answers_in_time"], 2)
    strangers_s = machine["busy"] - sum(used.values()) - found["generator_cpu_s"]
    figures["others_share"] = round(max(0.0, strangers_s) / spent, 3)
    figures["stolen_share"] = round(machine["stolen"] / spent, 3)
    figures["generator_share"] = round(found["generator_cpu_s"] / found["seconds"], 3)
    return figures


def _expect(loadgen: Process, wanted: str, timeout_s: float) -> None:
    while (line := loadgen.line(timeout_s)) != wanted:
        if line.startswith("{"):
            raise BenchmarkError(f"the load generator ended before {wanted!r}")
