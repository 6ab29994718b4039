"""The plots of the page, as SVG without scripts and with the same bytes for the same figures."""

from __future__ import annotations

from itertools import chain
from pathlib import Path
from xml.etree.ElementTree import tostring

import pygal
from figures import Figures
from pygal.etree import etree
from pygal.style import Style
from systems import SYSTEMS

_STYLE = Style(
    background="#ffffff",
    opacity="1",
    guide_stroke_color="#d0d5da",
    major_guide_stroke_color="#d0d5da",
    guide_stroke_dasharray="1,0",
    major_guide_stroke_dasharray="1,0",
    plot_background="#ffffff",
    font_family="sans-serif",
    title_font_size=18,
    label_font_size=13,
    major_label_font_size=13,
    legend_font_size=13,
    value_font_size=12,
    value_label_font_size=12,
    colors=("#9aa5b1", "#e0a458", "#5b8e7d", "#8c6bb1", "#c8553d", "#3f6c9b"),
)
_DECADES = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000)
SHORT = {
    "libmosquitto": "C echo",
    "paho": "paho echo",
    "plain": "plain script",
    "plain-nagle": "plain, Nagle on",
    "gmqtt": "gmqtt script",
    "atoll": "atoll",
}


def draw(figures: Figures, folder: Path) -> list[Path]:
    """Write the plots that ``figures`` can fill and return them."""
    closed = {"QoS 0": "qos0", "QoS 1, 20 in flight": "qos1-20", "QoS 1, no limit": "qos1-off"}
    rates = {"100/s": "rate-100", "1,000/s": "rate-1000", "5,000/s": "rate-5000"}
    stub = {"QoS 0": "stub-qos0", "QoS 1": "stub-qos1"}
    return [
        path
        for path in (
            _bars(
                figures,
                folder / "performance-throughput.svg",
                "Readings answered per second",
                closed,
                "answers_per_s",
            ),
            _bars(
                figures,
                folder / "performance-latency.svg",
                "p99 from the time a reading was due, ms",
                rates,
                "p99_ms",
                is_logarithmic=True,
            ),
            _bars(figures, folder / "performance-cpu.svg", "CPU per reading, µs", closed, "system_cpu_us"),
            _bars(
                figures,
                folder / "performance-limit.svg",
                "Own limit: readings per second on a stub broker",
                stub,
                "answers_per_s",
            ),
        )
        if path is not None
    ]


def _bars(
    figures: Figures, path: Path, title: str, cases: dict[str, str], key: str, *, is_logarithmic: bool = False
) -> Path | None:
    """Draw one group of bars for each case, and in it one bar for each system."""
    rows = {
        system: [figures.middle(system, case, key) for case in cases.values()]
        for system in SYSTEMS
        if system in SHORT
    }
    rows = {system: row for system, row in rows.items() if any(value is not None for value in row)}
    if not rows:
        return None
    chart = pygal.Bar(
        style=_STYLE,
        js=[],
        width=900,
        height=420,
        logarithmic=is_logarithmic,
        margin_bottom=30,
        legend_at_bottom=True,
        legend_at_bottom_columns=6,
        print_values=True,
        print_values_position="top",
        value_formatter=_number,
        show_y_guides=True,
    )
    if is_logarithmic:
        chart.y_labels = [value for value in _DECADES if value < 3 * max(filter(None, chain(*rows.values())))]
        chart.range = (_DECADES[0], chart.y_labels[-1])
        chart.zero = _DECADES[0]  # where bars begin
    chart.uuid = path.stem  # by default a random one, and the file would differ each time
    chart.title = title
    chart.x_labels = list(cases)
    for system, row in rows.items():
        chart.add(SHORT[system], row)
    etree.to_etree()  # it would take lxml where that is installed, whose trees are of another kind
    tree = chart.render_tree()
    for parent in list(tree.iter()):
        for script in [each for each in parent if str(each.tag).endswith("script")]:
            parent.remove(script)
    for comment in [each for each in tree if not isinstance(each.tag, str)]:
        tree.remove(comment)  # it holds the date
    path.write_bytes(tostring(tree, encoding="utf-8", xml_declaration=True) + b"\n")
    return path


def _number(value: float | None) -> str:
    if value is None:
        return ""
    if value >= 10_000:
        return f"{value / 1000:.0f}k"
    if value >= 1000:
        return f"{value / 1000:.1f}k"
    return f"{value:.3g}"
