"""Measures atoll beside other systems, in one run, and writes the result as JSON.

Each round takes every case, and in it every system in turn; the order of the systems moves on from
round to round. Each run has a broker and processes of its own, and ends only those.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import enrolled
import machine
import native
from cases import CASES, GROUPS, Case
from measure import Bench, measure
from processes import BenchmarkError
from systems import DEFAULT, SYSTEMS, System

FORMAT = 1
QUICK_CASES = ("qos0", "qos1-off", "rate-1000", "stub-qos0")
QUICK_SYSTEMS = ("libmosquitto", "paho", "atoll")


def main() -> int:
    """Run and return the exit status."""
    # paho's helpers log the ordinary end of their connection as an error.
    logging.getLogger("paho").setLevel(logging.CRITICAL)
    arguments = _parser().parse_args()
    systems = _chosen(SYSTEMS, {}, arguments.systems, QUICK_SYSTEMS if arguments.quick else DEFAULT)
    groups = {name: [case.name for case in group] for name, group in GROUPS.items()}
    cases = _chosen(CASES, groups, arguments.cases, QUICK_CASES if arguments.quick else groups["base"])
    # A case stands behind the one it is compared with.
    cases.sort(key=lambda case: list(CASES).index(case.base or case.name))
    rounds = arguments.rounds or (1 if arguments.quick else 5)
    arguments.build.mkdir(parents=True, exist_ok=True)
    out = arguments.out or arguments.build / "result.json"
    with (arguments.build / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            bench = _prepare(arguments.build, systems, cases, 0.2 if arguments.quick else 1.0)
        except (BenchmarkError, BlockingIOError) as error:
            print(f"cannot measure: {error}", file=sys.stderr)
            return 1
        return _all(bench, systems, cases, rounds, out, is_quick=arguments.quick)


def _all(
    bench: Bench, systems: list[System], cases: list[Case], rounds: int, out: Path, *, is_quick: bool
) -> int:
    runs: list[dict[str, Any]] = []
    result = {"format": FORMAT, "quick": is_quick, "machine": machine.describe(), "runs": runs}
    for number in range(rounds):
        for place, case in enumerate(cases):
            turn = (number + place) % len(systems)
            order = [system for system in systems[turn:] + systems[:turn] if system.can(case)]
            runs += [_one(bench, system, case, number) for system in order]
        # After each round: a run that is broken off is not lost.
        out.write_text(_lines(result), encoding="utf-8")
    failed = [run for run in runs if "error" in run]
    print(f"{len(runs)} runs, {len(failed)} failed; written to {out}")
    return 1 if failed else 0


def _one(bench: Bench, system: System, case: Case, number: int) -> dict[str, Any]:
    run: dict[str, Any] = {"round": number + 1, "case": case.name, "system": system.name}
    started = time.monotonic()
    try:
        run |= measure(bench, system, case, seed=number)
    except BenchmarkError as error:
        run["error"] = str(error)
    run["took_s"] = round(time.monotonic() - started, 1)
    print(f"{run['round']}  {case.name:<16} {system.name:<13} {_shown(run)}", file=sys.stderr, flush=True)
    return run


def _shown(run: dict[str, Any]) -> str:
    if "error" in run:
        return f"failed: {run['error']}"
    keys = (
        "answers_per_s",
        "p50_ms",
        "p99_ms",
        "system_cpu_us",
        "start_ms",
        "idle_cpu_percent",
        "lost",
        "duplicates",
    )
    return "  ".join(f"{key} {run[key]:g}" for key in keys if run.get(key) is not None)


def _prepare(folder: Path, systems: list[System], cases: list[Case], pace: float) -> Bench:
    wanted = dict.fromkeys([*native.ALWAYS, *(system.program for system in systems if system.program)])
    programs = native.build(folder, wanted)
    variants = {case.variant for case in cases} if SYSTEMS["atoll"] in systems else set()
    agents = {name: enrolled.prepare(folder / "agents" / name, name, programs) for name in sorted(variants)}
    return Bench(programs, agents, pace)


def _chosen(
    known: dict[str, Any], groups: dict[str, list[str]], wanted: str | None, default: Sequence[str]
) -> list[Any]:
    if wanted == "all":
        return list(known.values())
    words = wanted.split(",") if wanted else default
    names = dict.fromkeys(name for word in words for name in groups.get(word, [word]))
    if unknown := [name for name in names if name not in known]:
        print(f"unknown: {', '.join(unknown)}; known: {', '.join([*groups, *known])}", file=sys.stderr)
        sys.exit(2)
    return [known[name] for name in names]


def _lines(result: dict[str, Any]) -> str:
    """Return ``result`` as JSON with one line for each run, so that a diff can be read."""
    head = json.dumps({key: value for key, value in result.items() if key != "runs"}, indent=1)
    runs = ",\n".join(json.dumps(run) for run in result["runs"])
    return f'{head[:-2]},\n "runs": [\n{runs}\n]}}\n'


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="systems:\n"
        + "".join(f"  {system.name:<15} {system.title}\n" for system in SYSTEMS.values())
        + "".join(
            f"cases of the group {group}:\n" + "".join(f"  {case.name:<15} {case.title}\n" for case in cases)
            for group, cases in GROUPS.items()
        ),
    )
    parser.add_argument("--systems", metavar="A,B", help=f"or all (default: {','.join(DEFAULT)})")
    parser.add_argument(
        "--cases", metavar="A,B", help="cases or groups of them, or all (default: the group base)"
    )
    parser.add_argument("--rounds", type=int, metavar="N", help="default: 5")
    parser.add_argument("--quick", action="store_true", help="whether all works: short spans, few systems")
    build = Path(__file__).parent / "build"
    parser.add_argument("--build", type=Path, default=build, help="folder for programs and agents")
    parser.add_argument("--out", type=Path, metavar="FILE.json", help="default: result.json in that folder")
    return parser


if __name__ == "__main__":
    sys.exit(main())
