"""The charts of a report, each with a sentence that says what is to be seen."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from atoll_contract.manifest import Task
from atoll_trainer.report.canvas import (
    ABOVE,
    GOOD,
    INK,
    MODEL,
    OTHER,
    RULE,
    SERIES,
    TRUTH,
    draw,
    logarithmic,
    moments,
    square,
)
from atoll_trainer.report.evidence import Candidate, Doubles, Evidence, Shift

_WIDE: Final = (920.0, 260.0)
_NARROW: Final = (400.0, 260.0)
_SMALL: Final = (240.0, 150.0)
_MOST_POINTS: Final = 1_200
_CLOSE: Final = 150
"""Windows in the close-up."""
_MOST_BARS: Final = 20
_FEW_BARS: Final = 4
"""With fewer they would be blocks."""
_MOST_CURVES: Final = 6
_MOST_CHARS: Final = 45
"""Of the labels below an axis, side by side."""
_DECADE: Final = 10
_MOST_SHIFTS: Final = 12
_GAP: Final = 10
"""Usual steps of time without a window, from which on a line is broken."""
_LEAST_STEPS: Final = 0.01
"""Of a difference that is worth a number."""


@dataclass(frozen=True, slots=True)
class Chart:
    """One figure of the page.

    Attributes:
        title: Its heading.
        caption: What is to be seen.
        svg: For a wide page.
        narrow: For a telephone; empty where ``svg`` fits.
    """

    title: str
    caption: str
    svg: str
    narrow: str = ""


def charts(evidence: Evidence) -> Iterator[Chart]:
    """Yield the charts that fit the task."""
    match evidence.task:
        case Task.CLASSIFICATION:
            yield confusion(evidence)
            yield from precision_recall(evidence)
            yield reliability(evidence)
        case Task.ANOMALY:
            yield scores(evidence)
            yield from precision_recall(evidence)
        case _:
            yield from over_time(evidence)
            yield residuals(evidence)
            yield against_truth(evidence)
    yield parity(evidence)
    if evidence.candidates:
        yield pareto(evidence)
    if evidence.importances:
        yield importance(evidence)


def over_time(evidence: Evidence) -> Iterator[Chart]:
    """Yield prediction against truth: the whole test part, and the stretch with the largest errors."""
    chosen, whose = _one_device(evidence)
    truth, told = _last(evidence.targets)[chosen], _last(evidence.outputs)[chosen]
    times = evidence.times_ms[chosen]
    caption = f"Truth and what the {evidence.ships} model said of it{whose}."
    if len(truth) > _MOST_POINTS:
        size = -(-len(truth) // _MOST_POINTS)
        caption += f" Each point is the mean of {size} windows."
        whole = [_means(one, size) for one in (times, truth, told)]
    else:
        whole = [times, truth, told]
    yield _wide("Prediction against truth", caption, lambda axes: _lines(axes, evidence, *whole))
    if len(truth) > 2 * _CLOSE:
        errors = np.abs(told - truth)
        sums = np.convolve(errors, np.ones(_CLOSE), "valid")
        at = slice(int(sums.argmax()), int(sums.argmax()) + _CLOSE)
        yield _wide(
            "Where it is worst",
            f"The {_CLOSE} windows in a row with the largest errors{whose}: "
            f"{errors[at].mean():.4g}{_unit(evidence)} on average, {errors.mean():.4g} over the whole time.",
            lambda axes: _lines(axes, evidence, times[at], truth[at], told[at]),
        )


def residuals(evidence: Evidence) -> Chart:
    """Return how large the errors are, of the model and of the naive guess."""
    truth = _last(evidence.targets)
    off, naive = _last(evidence.outputs) - truth, _last(evidence.naive) - truth
    reach = float(np.quantile(np.abs(np.concatenate([off, naive])), 0.995)) or 1.0
    edges = np.linspace(-reach, reach, 41)

    def plot(_figure: Any, axes: Any) -> None:
        for errors, colour, label in ((naive, OTHER, "naive"), (off, MODEL, evidence.ships)):
            shares = np.histogram(np.clip(errors, -reach, reach), edges)[0] / len(errors)
            axes.stairs(shares, edges, color=colour, fill=True, alpha=0.35)
            axes.stairs(shares, edges, color=colour, label=label)
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_xlabel(f"prediction minus truth{_unit(evidence)}")
        axes.set_ylabel("share of the windows")
        axes.legend(loc="upper right")

    bias = float(off.mean())
    caption = (
        f"Narrow and around 0 is good. On average the model is off by {bias:+.3g}{_unit(evidence)} "
        f"to one side; half of its errors are below {np.median(np.abs(off)):.3g}."
    )
    return Chart("Residuals", caption, draw("histogram of the errors", *_NARROW, plot))


def against_truth(evidence: Evidence) -> Chart:
    """Return every prediction against its truth."""
    chosen = _spread(len(evidence.targets))
    truth, told = _last(evidence.targets)[chosen], _last(evidence.outputs)[chosen]
    low, high = float(min(truth.min(), told.min())), float(max(truth.max(), told.max()))

    def plot(_figure: Any, axes: Any) -> None:
        axes.plot([low, high], [low, high], color=INK, linewidth=0.8)
        axes.scatter(truth, told, s=7, color=MODEL, alpha=0.4, linewidths=0, rasterized=False)
        axes.set_xlabel(f"truth{_unit(evidence)}")
        axes.set_ylabel(f"prediction{_unit(evidence)}")

    caption = "On the line is right. A slope that is flatter means that the model shies away from extremes."
    return Chart("Prediction and truth", caption, draw("scatter of predictions", *_NARROW, plot))


def parity(evidence: Evidence) -> Chart:
    """Return what becoming int8 has changed."""
    off = (evidence.int8_outputs - evidence.float_outputs).ravel() / (evidence.lsb or 1.0)
    reach = max(1.0, float(np.quantile(np.abs(off), 0.995)))
    edges = np.linspace(-reach, reach, 41)

    def plot(_figure: Any, axes: Any) -> None:
        shares = np.histogram(np.clip(off, -reach, reach), edges)[0] / len(off)
        axes.stairs(shares, edges, color=MODEL, fill=True, alpha=0.35)
        axes.stairs(shares, edges, color=MODEL)
        axes.set_xlabel("int8 minus float, in steps of the int8 output")
        axes.set_ylabel("share of the outputs")

    half, most = np.median(np.abs(off)), np.abs(off).max()
    caption = (
        f"What the smaller numbers of the device have changed: half of the answers differ by less than "
        f"{_plain(max(half, _LEAST_STEPS))} steps, all by {_plain(most)} at most."
    )
    return Chart("float against int8", caption, draw("histogram of differences", *_NARROW, plot))


def confusion(evidence: Evidence) -> Chart:
    """Return how often each class was taken for each."""
    count = len(evidence.labels)
    classes = evidence.targets.astype(np.int64)
    told = evidence.outputs.argmax(axis=1)
    counts = np.zeros((count, count), np.int64)
    np.add.at(counts, (classes, told), 1)
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))

    is_slanted = max(map(len, evidence.labels)) * count > _MOST_CHARS

    def plot(_figure: Any, axes: Any) -> None:
        axes.grid(visible=False)
        for row in range(count):
            for column in range(count):
                share = float(shares[row, column])
                colour = GOOD if row == column else OTHER
                axes.add_patch(square(column - 0.5, row - 0.5, colour, share))
                if counts[row, column] and count <= 12:  # noqa: PLR2004 - more are too small to read
                    axes.text(column, row, f"{counts[row, column]:,}", ha="center", va="center", fontsize=9)
        axes.set(xlim=(-0.5, count - 0.5), ylim=(count - 0.5, -0.5))
        axes.set_xticks(
            range(count),
            evidence.labels,
            rotation=45 if is_slanted else 0,
            ha="right" if is_slanted else "center",
        )
        axes.set_yticks(range(count), evidence.labels)
        axes.set_xlabel(f"what the {evidence.ships} model said")
        axes.set_ylabel("truth")

    recalls = {label: float(shares[at, at]) for at, label in enumerate(evidence.labels) if counts[at].any()}
    worst = min(recalls, key=lambda label: recalls[label])
    caption = (
        "Rows are the truth; colour is the share of the row. "
        f"Found least often: {worst!r}, {recalls[worst]:.0%} of its windows."
    )
    height = max(_NARROW[1], 24.0 * count + 90)
    return Chart("Confusion matrix", caption, draw("confusion matrix", _NARROW[0], height, plot))


def precision_recall(evidence: Evidence) -> Iterator[Chart]:
    """Yield precision against recall of each class, or of anomalies, where there are both kinds."""
    curves = []
    for name, values, is_positive in _one_against_rest(evidence):
        positives = int(is_positive.sum())
        if positives in {0, len(is_positive)}:
            continue
        order = np.argsort(-values, kind="stable")
        hits = np.cumsum(is_positive[order])
        ends = np.append(np.flatnonzero(np.diff(values[order])), len(values) - 1)
        precision, recall = hits[ends] / (ends + 1), hits[ends] / positives
        area = float((np.diff(recall, prepend=0.0) * precision).sum())
        curves.append((area, name, np.r_[0, recall], np.r_[precision[0], precision], positives / len(values)))
    if not curves:
        return
    curves.sort(key=lambda curve: curve[0])
    shown = curves[:_MOST_CURVES]

    def plot(_figure: Any, axes: Any) -> None:
        for (area, name, recall, precision, chance), colour in zip(shown, SERIES, strict=False):
            axes.step(recall, precision, where="post", color=colour, label=f"{name}  {area:.3f}")
            if len(shown) == 1:
                axes.axhline(chance, color=RULE, linestyle="--", linewidth=1)
        axes.set(
            xlim=(0, 1.01),
            ylim=(0, 1.03),
            xlabel="recall: share that is found",
            ylabel="precision: share that is right",
        )
        axes.legend(loc="lower left")

    of = f"the {len(shown)} hardest of {len(curves)} classes" if len(curves) > len(shown) else "each class"
    what = "Anomalies" if evidence.task is Task.ANOMALY else f"One curve for {of}"
    caption = (
        f"{what}; the number is the average precision. A curve at the top right finds all and is never wrong."
    )
    yield Chart("Precision and recall", caption, draw("precision-recall curves", *_NARROW, plot))


def reliability(evidence: Evidence) -> Chart:
    """Return whether a probability of 0.8 is right in eight of ten cases."""
    told = evidence.outputs.argmax(axis=1)
    sure = np.clip(evidence.outputs.max(axis=1), 0.0, 1.0)
    is_right = told == evidence.targets
    edges = np.linspace(0, 1, 11)
    bins = np.minimum((sure * 10).astype(np.int64), 9)
    counts = np.bincount(bins, minlength=10)
    has = counts > 0
    said = np.bincount(bins, sure, 10)[has] / counts[has]
    right = np.bincount(bins, is_right, 10)[has] / counts[has]
    off = float((np.abs(said - right) * counts[has]).sum() / len(sure))

    def plot(_figure: Any, axes: Any) -> None:
        axes.stairs(counts / len(sure), edges, color=RULE, fill=True, alpha=0.6)
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8)
        axes.plot(said, right, color=MODEL, marker="o", markersize=4)
        axes.set(
            xlim=(0, 1), ylim=(0, 1.03), xlabel="probability that it told", ylabel="share that was right"
        )

    caption = (
        f"On the line a probability means what it says; it is off by {off:.3f} on average. "
        "Grey: how often each was told."
    )
    return Chart("Reliability", caption, draw("reliability of probabilities", *_NARROW, plot))


def scores(evidence: Evidence) -> Chart:
    """Return the score over time with its threshold, and what was an anomaly in truth."""
    told = evidence.outputs[:, 0]
    size = -(-len(told) // _MOST_POINTS)
    times, highest = _means(evidence.times_ms, size), _highest(told, size)
    is_anomaly = _highest(np.nan_to_num(evidence.targets), size) > 0

    def plot(axes: Any) -> None:
        across = moments(axes, times)
        axes.plot(across, highest, color=MODEL, linewidth=1, label="score")
        if evidence.threshold is not None:
            axes.axhline(evidence.threshold, color=OTHER, linewidth=1, label="threshold")
        top = max(float(highest.max()), evidence.threshold or 0.0) * 1.05
        axes.fill_between(
            across,
            0,
            top,
            where=is_anomaly,
            color=TRUTH,
            alpha=0.18,
            linewidth=0,
            label="anomaly in truth" if is_anomaly.any() else None,
            step="mid",
        )
        axes.set_ylim(0, top)
        axes.set_ylabel("score")
        axes.legend(**ABOVE, ncols=3)

    each = f" Each point is the highest of {size} windows." if size > 1 else ""
    return _wide("Score over time", f"Above the threshold a window is told to be an anomaly.{each}", plot)


def pareto(evidence: Evidence) -> Chart:
    """Return every candidate by size and loss."""
    families = sorted({one.family for one in evidence.candidates})
    colours = dict(zip(families, SERIES, strict=False))
    front = sorted((one for one in evidence.candidates if one.is_on_front), key=lambda one: one.size_bytes)
    sizes = [one.size_bytes for one in evidence.candidates]

    def plot(_figure: Any, axes: Any) -> None:
        if max(sizes) > _DECADE * min(sizes):
            logarithmic(axes)
        axes.step(*_sizes(front), where="post", color=INK, linewidth=0.9, alpha=0.5)
        for family in families:
            own = [one for one in evidence.candidates if one.family == family]
            axes.scatter(*_sizes(own), s=26, color=colours.get(family, INK), label=family, linewidths=0)
        chosen = [one for one in evidence.candidates if one.is_chosen]
        axes.scatter(
            *_sizes(chosen), s=120, facecolors="none", edgecolors=INK, linewidths=1.3, label="chosen"
        )
        axes.set_xlabel("size of the int8 file, KB")
        axes.set_ylabel(f"{evidence.loss_name}, validation")
        axes.legend(**ABOVE, ncols=4, columnspacing=1.0, handletextpad=0.2)

    caption = (
        "Candidates as int8, judged in the runtime of the device: further down is better, further left is "
        "smaller. The line joins those that no other beats in loss, size and latency."
    )
    return Chart("Candidates", caption, draw("candidates by size and loss", *_NARROW, plot))


def importance(evidence: Evidence) -> Chart:
    """Return how much worse the model gets when one feature is shuffled."""
    ranked = sorted(evidence.importances, key=lambda one: one.loss)[-_MOST_BARS:]
    rises = np.array([one.loss - (evidence.loss or 0.0) for one in ranked])

    def plot(_figure: Any, axes: Any) -> None:
        places = range(len(ranked))
        axes.barh(places, rises, xerr=[one.spread for one in ranked], color=MODEL, ecolor=INK, height=0.7)
        spare = max(0, _FEW_BARS - len(ranked)) / 2
        axes.set_ylim(-0.75 - spare, len(ranked) - 0.25 + spare)
        axes.set_yticks(places, [one.feature[:28] for one in ranked])
        axes.axvline(0, color=INK, linewidth=0.8)
        axes.set_xlabel(f"rise of the {evidence.loss_name}")
        axes.locator_params(axis="x", nbins=5)
        axes.grid(visible=False, axis="y")

    least = [one.feature for one, rise in zip(ranked, rises, strict=True) if rise <= one.spread]
    unused = f" It would hardly miss {', '.join(least[:5])}." if least else ""
    caption = (
        f"How much worse the {evidence.ships} model is when one feature is shuffled; lines are the spread "
        f"over shuffles.{unused}"
    )
    height = max(_NARROW[1], 17.0 * len(ranked) + 60)
    return Chart("What it looks at", caption, draw("importance of features", _NARROW[0], height, plot))


def shift(one: Shift) -> Chart:
    """Return how one feature was spread in training and in the test part."""

    def plot(_figure: Any, axes: Any) -> None:
        for shares, colour, label in ((one.train, TRUTH, "training"), (one.test, MODEL, "test")):
            axes.stairs(shares, one.edges, color=colour, fill=True, alpha=0.3)
            axes.stairs(shares, one.edges, color=colour, label=label)
        axes.locator_params(nbins=5)
        axes.legend(**ABOVE, ncols=2)

    return Chart(one.name, f"stability index {one.index:.2f}", draw(f"spread of {one.name}", *_SMALL, plot))


def shifts(evidence: Evidence) -> list[Chart]:
    """Return those that have moved most."""
    return [shift(one) for one in sorted(evidence.shifts, key=lambda one: -one.index)[:_MOST_SHIFTS]]


def _wide(title: str, caption: str, plot: Callable[[Any], None]) -> Chart:
    drawn = [draw(title, *size, lambda _figure, axes: plot(axes)) for size in (_WIDE, _NARROW)]
    return Chart(title, caption, *drawn)


def _lines(axes: Any, evidence: Evidence, times: Doubles, truth: Doubles, told: Doubles) -> None:
    steps = np.diff(times)
    # Where nothing was measured there is no line.
    usual = float(np.median(steps)) if len(steps) else 0.0
    gaps = np.flatnonzero(steps > _GAP * max(usual, 1.0)) + 1
    times = np.insert(times, gaps, times[gaps])
    truth, told = (np.insert(one, gaps, np.nan) for one in (truth, told))
    across = moments(axes, times)
    axes.plot(across, truth, color=TRUTH, label="truth")
    axes.plot(across, told, color=MODEL, linewidth=1.1, label=evidence.ships)
    axes.set_ylabel(evidence.unit or "value")
    axes.legend(**ABOVE, ncols=2)


def _one_against_rest(evidence: Evidence) -> Iterator[tuple[str, Doubles, NDArray[np.bool_]]]:
    if evidence.task is Task.ANOMALY:
        known = ~np.isnan(evidence.targets)
        yield "anomaly", evidence.outputs[known, 0], evidence.targets[known] > 0
        return
    places = [1] if len(evidence.labels) == 2 else range(len(evidence.labels))  # noqa: PLR2004 - the second of two
    for at in places:
        yield evidence.labels[at], evidence.outputs[:, at], evidence.targets == at


def _last(values: Doubles) -> Doubles:
    """Return the last step of a path, or the one number there is."""
    return values if values.ndim == 1 else values[:, -1]


def _one_device(evidence: Evidence) -> tuple[NDArray[np.bool_], str]:
    """Return the windows of the device with the largest errors, and words for it where there are several.

    A line from one device's value to the next one's would show nothing.
    """
    devices = evidence.devices
    if devices is None or len(found := np.unique(devices)) <= 1:
        return np.ones(len(evidence.times_ms), np.bool_), ""
    errors = np.abs(_last(evidence.outputs) - _last(evidence.targets))
    worst = max(found, key=lambda device: float(errors[devices == device].mean()))
    return devices == worst, f", of that of {len(found):,} devices with the largest errors"


def _means(values: Doubles, size: int) -> Doubles:
    starts = np.arange(0, len(values), size)
    means: Doubles = np.add.reduceat(values, starts) / np.diff(np.append(starts, len(values)))
    return means


def _highest(values: Doubles, size: int) -> Doubles:
    highest: Doubles = np.maximum.reduceat(values, np.arange(0, len(values), size))
    return highest


def _spread(count: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, count - 1, min(count, _MOST_POINTS)).astype(np.int64))


def _sizes(candidates: list[Candidate]) -> tuple[list[float], list[float]]:
    return [one.size_bytes / 1e3 for one in candidates], [one.loss for one in candidates]


def _plain(number: float) -> str:
    return f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"  # noqa: PLR2004 - no exponents


def _unit(evidence: Evidence) -> str:
    return f" {evidence.unit}" if evidence.unit else ""
