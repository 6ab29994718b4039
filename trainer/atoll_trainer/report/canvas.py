"""Charts as inline SVG without scripts, fonts or colours of their own: the page's style sheet gives those.

The only importer of Matplotlib. Colours are drawn as place-holders and become variables of the page, so
that one drawing serves light and dark; the same numbers give the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from html import escape
from io import StringIO
from typing import Any, Final

import matplotlib as mpl
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import NullFormatter

INK: Final = "#100001"
RULE: Final = "#100002"
TRUTH: Final = "#100003"
MODEL: Final = "#100004"
OTHER: Final = "#100005"
GOOD: Final = "#100006"
SERIES: Final = (MODEL, OTHER, GOOD, "#100007", "#100008", "#100009", TRUTH)
ABOVE: Final = {"loc": "lower left", "bbox_to_anchor": (0.0, 1.0), "borderaxespad": 0.2}
"""Where a legend covers nothing."""
_VARIABLES: Final = {
    INK: "ink",
    RULE: "rule",
    TRUTH: "truth",
    MODEL: "model",
    OTHER: "other",
    GOOD: "good",
    "#100007": "fourth",
    "#100008": "fifth",
    "#100009": "sixth",
}
_STYLE: Final = {
    "svg.fonttype": "none",
    "svg.hashsalt": "atoll",
    "path.simplify": True,
    "path.simplify_threshold": 0.4,
    "font.size": 10.0,
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.labelsize": 10.0,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 9.0,
    "ytick.labelsize": 9.0,
    "legend.frameon": False,
    "legend.fontsize": 9.0,
    "lines.linewidth": 1.4,
}
_FIRST_DATED_MS: Final = 31_536_000_000.0
"""Earlier times count from nothing: the rows had none."""


@contextmanager
def style() -> Iterator[None]:
    """Draw in the manner of the page."""
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]  # keys are checked by Matplotlib itself
        yield


def draw(label: str, width: float, height: float, plot: Callable[[Any, Any], None]) -> str:
    """Return what ``plot(figure, axes)`` draws, as an ``<svg>`` element.

    Args:
        label: What is to be seen, for those who do not see it.
        width: In pixels of the page.
        height: Likewise.
        plot: Draws.
    """
    with style():
        figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
        figure.patch.set_alpha(0)
        axes = figure.add_subplot()
        axes.patch.set_alpha(0)
        plot(figure, axes)
        FigureCanvasSVG(figure)
        out = StringIO()
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    return _tidy(out.getvalue(), label)


def is_dated(times_ms: Any) -> bool:
    """Whether ``times_ms`` are moments, and not numbers of rows."""
    return len(times_ms) > 0 and float(times_ms[0]) > _FIRST_DATED_MS


def moments(axes: Any, times_ms: Any) -> list[Any]:
    """Return ``times_ms`` as Matplotlib wants them, and set up the axis."""
    if not is_dated(times_ms):
        axes.set_xlabel("window of the test part")
        return list(range(len(times_ms)))
    locator = AutoDateLocator(minticks=3, maxticks=9)  # type: ignore[no-untyped-call]  # untyped there
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))  # type: ignore[no-untyped-call]
    return [datetime.fromtimestamp(float(time_ms) / 1e3, UTC) for time_ms in times_ms]


def logarithmic(axes: Any) -> None:
    """Make the axis across logarithmic, with plain numbers."""
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())


def square(left: float, top: float, colour: str, share: float) -> Any:
    """Return a square of side 1, the more opaque the larger its ``share``."""
    return Rectangle((left, top), 1, 1, facecolor=colour, alpha=0.75 * share, edgecolor=RULE, linewidth=0.5)


def _tidy(svg: str, label: str) -> str:
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="(?!p|m|C)[^"]*"', "", svg)  # what is referred to keeps its id
    svg = re.sub(r"font: ([0-9.]+)px [^;\"]*", r"font: \1px var(--font)", svg)
    svg = re.sub(r"\s*\n\s*", "\n", svg)
    for colour, name in _VARIABLES.items():
        svg = svg.replace(colour, f"var(--{name})")
    head = re.match(r"<svg[^>]*>", svg)
    box = re.search(r'viewBox="([^"]+)"', svg)
    assert head is not None  # noqa: S101 - Matplotlib has drawn it
    assert box is not None  # noqa: S101
    opening = f'<svg viewBox="{box[1]}" role="img" aria-label="{escape(label, quote=True)}">'
    return opening + svg[head.end() :]
