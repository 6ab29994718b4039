"""What two releases say of one device, as an SVG without scripts."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from xml.etree.ElementTree import tostring

from atoll_link.files import write_whole
from atoll_sim.compare import Both, Comparison

_MOST_POINTS: Final = 400


def write_plot(comparison: Comparison, device: str, path: Path) -> None:
    """Draw the windows of ``device`` around the largest difference.

    Raises:
        StorageError: It cannot be written.
    """
    import pygal  # noqa: PLC0415 - only for those who draw
    from pygal.etree import etree  # noqa: PLC0415
    from pygal.style import Style  # noqa: PLC0415

    # pygal leaves a finder of an old kind behind, of which Python warns at every later import.
    sys.meta_path[:] = [finder for finder in sys.meta_path if type(finder).__module__ != "pygal"]

    own = [one for one in comparison.both if one.device == device]
    worst = max(range(len(own)), key=lambda place: own[place].difference)
    start = max(0, min(worst - _MOST_POINTS // 2, len(own) - _MOST_POINTS))
    shown = own[start : start + _MOST_POINTS]
    begin_ms = shown[0].time_ms

    def points(say: Callable[[Both], float | None]) -> list[tuple[float, float]]:
        told = [(one, say(one)) for one in shown]
        return [((one.time_ms - begin_ms) / 1e3, value) for one, value in told if value is not None]

    chart: Any = pygal.XY(
        style=Style(
            background="#ffffff",
            plot_background="#ffffff",
            font_family="sans-serif",
            colors=("#3f6c9b", "#c8553d", "#9aa5b1"),
        ),
        no_prefix=True,
        show_dots=len(shown) < _MOST_POINTS // 4,
        dots_size=2,
        legend_at_bottom=True,
        width=900,
        height=420,
        title=f"{comparison.model} on {device}",
        x_title="seconds",
        y_title=comparison.unit or "",
    )
    for release, say in zip(
        comparison.releases, (lambda one: one.first, lambda one: one.second), strict=True
    ):
        chart.add(f"release {release}", points(say))
    if truths := points(lambda one: one.truth):
        chart.add("label", truths, stroke=False, show_dots=True, dots_size=1.5)
    chart.uuid = "comparison"  # by default a random one, and the file would differ each time
    etree.to_etree()  # it would take lxml where that is installed, whose trees are of another kind
    tree = chart.render_tree()
    for parent in list(tree.iter()):
        for script in [each for each in parent if str(each.tag).endswith("script")]:
            parent.remove(script)
    write_whole(path, tostring(tree, encoding="utf-8", xml_declaration=True) + b"\n")
