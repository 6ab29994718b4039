"""The sections of the page about atoll alone: what the other systems cannot do."""

from __future__ import annotations

from cases import BESIDE, CASES, SHARED, VARIANTS, Case
from figures import NONE, Figures


def other_loads(figures: Figures) -> str:
    rows = []
    for case in VARIANTS:
        found = figures.spread("atoll", case.name, "answers_per_s")
        if found is None:
            continue
        ratio = figures.ratio("atoll", case.name, "answers_per_s", to="atoll", to_case=case.base)
        cpu = figures.middle("atoll", case.name, "system_cpu_us")
        memory = figures.middle("atoll", case.name, "loaded.pss_mb")
        base_memory = figures.middle("atoll", case.base, "loaded.pss_mb")
        more = case.devices - CASES[case.base].devices
        per_device = NONE
        if memory is not None and base_memory is not None and more > 0:
            per_device = f"{1e3 * (memory - base_memory) / more:.2f}"
        rows.append(
            f"| {case.title} | {found.median:,.0f} | {ratio.shown(2) if ratio else NONE} of {case.base} | "
            f"{cpu:.1f} | {memory:.1f} | {per_device} |"
        )
    if not rows:
        return ""
    head = "| case | readings/s | ratio to the base case | CPU µs | PSS under load, MB | kB per device |"
    return "\n".join(["## Other loads on atoll", "", head, "|---|---|---|---|---|---|", *rows])


def several_agents(figures: Figures) -> str:
    rows = []
    for case in SHARED:
        found = figures.spread("atoll", case.name, "answers_per_s")
        if found is None:
            continue
        ratio = figures.ratio("atoll", case.name, "answers_per_s", to="atoll", to_case=case.base)
        shown = f"{ratio.shown(2)} of {case.base}" if ratio and case.base else NONE
        cells = [case.title, f"{found.median:,.0f}", shown, _cell(figures, case, "system_cpu_us", 1)]
        broker_us = figures.middle("atoll", case.name, "broker_cpu_us") or 0.0
        cells.append(f"{broker_us * found.median / 1e4:.0f}")
        cells.append(_cell(figures, case, "generator_share", 0, factor=100))
        rows.append(f"| {' | '.join(cells)} |")
    if not rows:
        return ""
    text = (
        "Agents of one group (`$share/...`) get a part of the readings each. Broker and load generator need "
        "the same cores: their shares say what was left for the agents."
    )
    head = "| case | readings/s | ratio | CPU µs | broker, % of a core | load generator, % of a core |"
    return "\n".join(["## Several agents", "", text, "", head, "|---|---|---|---|---|---|", *rows])


def other_work(figures: Figures) -> str:
    rows = []
    for case in (CASES["rate-1000"], *BESIDE):
        quantiles = [_cell(figures, case, key, 2) for key in ("p50_ms", "p99_ms", "p999_ms")]
        if NONE in quantiles:
            continue
        ratio = figures.ratio("atoll", case.name, "p99_ms", to="atoll", to_case=case.base)
        shown = f"{ratio.shown(2)}" if ratio and case.base else NONE
        rows.append(f"| {case.title} | {' / '.join(quantiles)} | {shown} |")
    if len(rows) < 2:
        return ""
    lines = [
        "## While the agent has other work",
        "",
        "1,000 readings/s for a fast model; p99 also as ratio to that without other work in the same round.",
        "",
        "| case | p50 / p99 / p99.9, ms | p99, ratio |",
        "|---|---|---|",
        *rows,
    ]
    if (swapped := figures.spread("atoll", "release", "swapped_ms")) is not None:
        lines += ["", f"From announcement to swap: {swapped.shown(0)} ms."]
    if (slow := figures.spread("atoll", "slow", "slow.p50_ms")) is not None:
        rate, due, open_ = (
            figures.middle("atoll", "slow", f"slow.{key}") or 0.0 for key in ("answers_per_s", "due", "lost")
        )
        answered = f"The slow model answered {rate:.1f} readings/s, after {slow.shown(0)} ms (p50)"
        lines += ["", f"{answered}; of {due:.0f} readings {open_:.0f} still waited when the run ended."]
    return "\n".join(lines)


def kills(figures: Figures) -> str:
    sent, lost, twice, count = (
        figures.total(key, "atoll", is_killed=True) for key in ("due", "lost", "duplicates", "kills")
    )
    if not count:
        return ""
    return (
        "## Killed\n\n"
        f"`kill -9` of the agent, {count} times among {sent:,} readings at QoS 1, on a Mosquitto whose queue "
        f"has no bound: {lost} readings without prediction, {twice} answered twice: a kill between a "
        "prediction and the acknowledgement of its reading lets the broker send it again."
    )


def _cell(figures: Figures, case: Case, key: str, digits: int, *, factor: float = 1.0) -> str:
    found = figures.middle("atoll", case.name, key)
    return NONE if found is None else f"{factor * found:,.{digits}f}"
