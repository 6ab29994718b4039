"""Writes docs/references/performance.md, its plots and the figures behind them from a result."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import alone
from cases import CASES
from figures import NONE, Figures, Spread
from plots import draw
from systems import SYSTEMS, YARDSTICK
from targets import TARGETS

REFERENCES = Path(__file__).parents[1] / "docs" / "references"
THROUGHPUT = (
    "Readings answered per second, with 1,000 outstanding; in brackets the ratio to the C echo of the "
    "same round, median and range."
)
LATENCY = (
    "From the time a reading was due until its answer arrived; Poisson arrivals. p50 / p99 / p99.9 in ms, "
    "in brackets p99 to that of the C echo of the same round."
)
Cell = Callable[[str], str]


def main() -> int:
    """Write the page and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("result", type=Path, metavar="RESULT.json")
    parser.add_argument("--folder", type=Path, default=REFERENCES, help="default: docs/references")
    arguments = parser.parse_args()
    figures = Figures.read(arguments.result)
    plots = draw(figures, arguments.folder)
    if arguments.result.resolve() != (arguments.folder / "performance.json").resolve():
        shutil.copy(arguments.result, arguments.folder / "performance.json")
    (arguments.folder / "performance.md").write_text(page(figures, plots), encoding="utf-8")
    print(f"written: {arguments.folder / 'performance.md'}")
    return 0


def page(figures: Figures, plots: list[Path]) -> str:
    """Return the page."""
    pictures = {path.stem: f"![{path.stem}]({path.name})" for path in plots}
    parts = [
        "# Performance",
        _about(figures),
        "## What is demanded, and what was found",
        _targets(figures),
        "## Throughput",
        THROUGHPUT,
        pictures.get("performance-throughput", ""),
        _with_ratio(figures, ("qos0", "qos1-20", "qos1-off"), "answers_per_s", 0),
        "## Latency",
        LATENCY,
        pictures.get("performance-latency", ""),
        _latency(figures),
        "## CPU",
        "Processor time of the system's process tree per answered reading, µs. The broker has its own.",
        pictures.get("performance-cpu", ""),
        _with_ratio(figures, ("qos0", "qos1-20", "qos1-off", "rate-1000"), "system_cpu_us", 1),
        "## Start, memory, rest",
        _rest(figures),
        "## Own limit",
        "Readings per second on a stub broker that costs next to nothing, with 1,000 outstanding.",
        pictures.get("performance-limit", ""),
        _with_ratio(figures, ("stub-qos0", "stub-qos1"), "answers_per_s", 0),
        alone.other_loads(figures),
        alone.several_agents(figures),
        alone.other_work(figures),
        alone.kills(figures),
        "## How far the figures can be trusted",
        _trust(figures),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _about(figures: Figures) -> str:
    machine = figures.machine
    packages = ", ".join(f"{name} {version}" for name, version in machine["packages"].items())
    quick = (
        " **A quick look with short spans: these figures say only that all works.**"
        if figures.is_quick
        else ""
    )
    return (
        f"Made by `make bench` on {machine['date'][:10]}: medians of {figures.rounds} rounds, in each of "
        f"which every system takes its turn on every case, with a Mosquitto of its own.{quick} Absolute "
        "figures belong to the machine and its day: compare the ratios. Figures of single rounds: "
        "[performance.json](performance.json); how it is done: `benchmarks/README.md`.\n\n"
        f"{machine['cores']} cores of {machine['cpu']}, Linux {machine['kernel']}, "
        f"Python {machine['python']}, Mosquitto {machine['mosquitto']}, {packages}; commit "
        f"{machine['commit']}. Broker, load generator and system share the cores. 50 devices, 8 values in "
        "a reading, a float model [1,8] -> 1, "
        "`set_tcp_nodelay true` in the broker and no Nagle in any system."
    )


def _targets(figures: Figures) -> str:
    rows = []
    for target in TARGETS:
        found = target.find(figures)
        bound = f"{'at most' if target.is_most else 'at least'} {target.bound:,g}"
        if found is None:
            rows.append(f"| {target.text} | {bound} | {NONE} | not measured |")
            continue
        digits = 0 if target.bound >= 1000 or target.bound == 0 else 2 if target.bound < 10 else 1
        met = "yes" if target.is_met(found) else "**no**"
        rows.append(f"| {target.text} | {bound} | {found.shown(digits)} | {met} |")
    return "\n".join(["| figure | demanded | found (range) | met |", "|---|---|---|---|", *rows])


def _table(figures: Figures, heads: list[str], cells: list[Cell]) -> str:
    """Return a table of the systems that have something to show."""
    lines = [f"| system | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    measured = figures.systems()
    for name, system in SYSTEMS.items():
        row = [cell(name) for cell in cells]
        if name in measured and any(cell != NONE for cell in row):
            lines.append(f"| {system.title} | {' | '.join(row)} |")
    return "\n".join(lines)


def _with_ratio(figures: Figures, cases: tuple[str, ...], key: str, digits: int) -> str:
    def cell(case: str) -> Cell:
        def show(system: str) -> str:
            found = figures.middle(system, case, key)
            if found is None:
                return NONE
            ratio = figures.ratio(system, case, key)
            shown = f" ({ratio.shown(2)})" if ratio is not None and system != YARDSTICK else ""
            return f"{found:,.{digits}f}{shown}"

        return show

    return _table(figures, [CASES[case].title for case in cases], [cell(case) for case in cases])


def _latency(figures: Figures) -> str:
    def cell(case: str) -> Cell:
        def show(system: str) -> str:
            found = [figures.middle(system, case, key) for key in ("p50_ms", "p99_ms", "p999_ms")]
            if None in found:
                return NONE
            ratio = figures.ratio(system, case, "p99_ms")
            shown = f" ({ratio.median:.1f})" if ratio is not None and system != YARDSTICK else ""
            return " / ".join(f"{value:.2f}" for value in found if value is not None) + shown

        return show

    cases = ("rate-100", "rate-1000", "rate-5000", "rate-1000-qos1")
    return _table(figures, [CASES[case].title for case in cases], [cell(case) for case in cases])


def _rest(figures: Figures) -> str:
    def cell(case: str | None, key: str, digits: int) -> Cell:
        def show(system: str) -> str:
            found = figures.middle(system, case, key)
            return NONE if found is None else f"{found:,.{digits}f}"

        return show

    columns = {
        "start to first answer, ms": cell(None, "start_ms", 0),
        "RSS at rest, MB": cell(None, "idle.rss_mb", 1),
        "PSS at rest, MB": cell(None, "idle.pss_mb", 1),
        "RSS under load, MB": cell("qos0", "loaded.rss_mb", 1),
        "PSS under load, MB": cell("qos0", "loaded.pss_mb", 1),
        "CPU at rest, % of a core": cell("idle", "idle_cpu_percent", 2),
    }
    return _table(figures, list(columns), list(columns.values()))


def _trust(figures: Figures) -> str:
    lines = []
    shares = [run["generator_share"] for run in figures.runs if "generator_share" in run]
    if shares:
        lines.append(
            f"- The load generator used at most {100 * max(shares):.0f} % of a core; near 100 % it would be "
            "the limit. On the stub broker it is broker and generator in one."
        )
    for case, kind in (("qos0", "QoS 0"), ("qos1-off", "QoS 1")):
        alone = figures.middle("nobody", case, "answers_per_s")
        if alone is not None:
            lines.append(f"- Broker and load generator alone pass {alone:,.0f} readings/s at {kind}.")
    for name in SYSTEMS:
        lost, twice = figures.total("lost", name), figures.total("duplicates", name)
        if lost or twice:
            lines.append(f"- {SYSTEMS[name].title}: {lost} readings lost, {twice} answered twice.")
    if not any(line.endswith("answered twice.") for line in lines):
        lines.append("- Kills apart, no system lost a reading in any run or had one answered twice.")
    lines += [
        f"- Failed: {run['system']} on {run['case']}, round {run['round']}: {run['error'][:200]}"
        for run in figures.failed
    ]
    for key, who in (("others_share", "Other processes"), ("stolen_share", "The machine's host")):
        found = Spread.of([100 * run[key] for run in figures.runs if key in run])
        if found is not None:
            lines.append(
                f"- {who} took {found.median:.0f} % of a core in the median run, {found.high:.0f} % at most."
            )
    lines.append("- CPU times come in steps of 10 ms.")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
