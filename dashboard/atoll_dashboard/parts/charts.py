"""Live charts: lines and dots over time, with marks. ECharts draws them in the browser."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from nicegui import ui

PALETTE: Final = ("#14a89d", "#5b8def", "#d98c3f", "#b07ad9", "#d9658b", "#7aa63c", "#3fa7d9", "#a38b6d")
TRUTH: Final = "#e0a526"
ALARM: Final = "#e5484d"
CLEARED: Final = "#46a758"
_INK: Final = "#8493a3"
_LINE: Final = "rgba(132,147,163,0.22)"

Samples = Iterable[tuple[float, float]]


@dataclass(frozen=True, slots=True)
class Series:
    """One line, or dots.

    Attributes:
        name: In the legend.
        samples: Times and values.
        colour: Of it.
        has_dots: Whether it is dots instead of a line.
        is_filled: Whether the ground below the line is tinted.
    """

    name: str
    samples: Samples
    colour: str
    has_dots: bool = False
    is_filled: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """An upright line: something happened. Without ``text``, where another chart says what."""

    time_ms: float
    text: str
    colour: str


class Chart:
    """A chart of the time up to now; :meth:`show` sends all of it to the browser."""

    def __init__(self, label: str, unit: str = "") -> None:
        # ECharts escapes the names of series and values in its tooltips itself.
        options: dict[str, Any] = {
            "animation": False,
            "aria": {"enabled": True, "label": {"description": label}},
            "grid": {"left": 52, "right": 18, "top": 34, "bottom": 26},
            "legend": {"top": 0, "left": 44, "icon": "roundRect", "itemWidth": 12, "itemHeight": 4},
            "tooltip": {"trigger": "axis", "confine": True, "transitionDuration": 0},
            "textStyle": {"fontFamily": "system-ui, sans-serif", "fontSize": 12},
            "xAxis": {
                "type": "time",
                "axisLabel": {"color": _INK, "hideOverlap": True, "fontFamily": "system-ui, sans-serif"},
                "axisLine": {"lineStyle": {"color": _LINE}},
                "splitLine": {"show": False},
                "minInterval": 5000,
            },
            "yAxis": {
                "type": "value",
                "scale": True,
                "name": unit,
                "nameTextStyle": {"color": _INK, "align": "left", "padding": [0, 0, 0, -40]},
                "nameGap": 12,
                "axisLabel": {"color": _INK},
                "splitLine": {"lineStyle": {"color": _LINE}},
                "splitNumber": 4,
            },
            "series": [],
        }
        options["legend"]["textStyle"] = {"color": _INK}
        self._echart = ui.echart(options).classes("chart").props(f'aria-label="{label}"')
        self._names: list[str] = []

    def show(self, series: Sequence[Series], span: tuple[float, float], marks: Sequence[Line] = ()) -> None:
        """Show these series between two times."""
        start_ms, end_ms = span
        drawn = [_drawn(one, start_ms) for one in series]
        if drawn:
            drawn[0]["markLine"] = _mark_line([mark for mark in marks if mark.time_ms >= start_ms])
        names = [one.name for one in series]
        patch = {"xAxis": {"min": start_ms, "max": end_ms}, "series": drawn}
        if not self._names:
            # So the browser has it with the page.
            options = self._echart.options
            options["xAxis"] |= patch["xAxis"]
            options["series"] = drawn
            self._echart.update()
            self._names = names
        elif names == self._names:
            self._echart.run_chart_method("setOption", patch)
        else:
            # Other series than before: the browser has to forget the former ones.
            self._names = names
            self._echart.run_chart_method("setOption", patch, {"replaceMerge": ["series"]})


def _drawn(series: Series, start_ms: float) -> dict[str, Any]:
    data = [[time_ms, float(f"{value:.6g}")] for time_ms, value in series.samples if time_ms >= start_ms]
    drawn: dict[str, Any] = {
        "name": series.name,
        "data": data,
        "itemStyle": {"color": series.colour},
        "type": "scatter" if series.has_dots else "line",
    }
    if series.has_dots:
        return drawn | {"symbolSize": 4, "z": 1}
    drawn |= {"showSymbol": False, "lineStyle": {"width": 1.8, "color": series.colour}}
    if series.is_filled:
        drawn["areaStyle"] = {"opacity": 0.1}
    return drawn


def _mark_line(marks: Sequence[Line]) -> dict[str, Any]:
    return {
        "silent": True,
        "symbol": "none",
        "animation": False,
        "data": [
            {
                "xAxis": mark.time_ms,
                "name": mark.text,
                "lineStyle": {"color": mark.colour, "type": "dashed", "width": 1.5},
                "label": {
                    "show": bool(mark.text),
                    "formatter": "{b}",
                    "color": "#fff",
                    "backgroundColor": mark.colour,
                    "padding": [3, 6],
                    "borderRadius": 4,
                    "position": "insideEndTop",
                    "rotate": 0,
                    "distance": 4,
                },
            }
            for mark in marks
        ],
    }
