"""Values that give the target away: known only afterwards, or the target itself in other words.

A value leaks if it alone tells what is to be learnt almost without error on readings that the telling
was not made from, or if a flag of it stands for one answer only. Of a forecast the change until then is
told, not the value: that the present resembles the near future is no leak.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

_BINS: Final = 64
_BLOCKS: Final = 10
_TELLS: Final = 0.97
"""Share of the variance of the target that a value explains alone, from which on it is reported."""
_TELLS_CHANGE: Final = 0.9
"""The same of the change until the horizon."""
_PURE: Final = 0.98
_LEAST: Final = 10
_FEWEST: Final = 50
_FLAGS: Final = 3
"""A value of at most so many different numbers is a flag."""
_RARE: Final = 0.3


@dataclass(frozen=True, slots=True)
class Leak:
    """One value that gives the target away.

    Attributes:
        value: Its name.
        share: Of the target's variance that it explains alone, or of the readings with its flag that have
            one answer.
        told: For people.
    """

    value: str
    share: float
    told: str


def leaks(
    rows: Doubles,
    names: list[str],
    labels: Doubles,
    places: list[NDArray[np.int64]],
    target: int | None,
    horizon: int,
) -> list[Leak]:
    """Return the values that leak, worst first.

    Args:
        rows: Numbers of the readings, shape (n, numbers).
        names: Of the numbers.
        labels: The truth, NaN where there is none, shape (n,).
        places: Of each device's readings, in order of time.
        target: The number that is to be forecast; None: the labels are the target.
        horizon: How many readings ahead.
    """
    if target is None:
        found = list(_of_labels(rows, names, labels))
    else:
        found = list(_of_change(rows, names, places, target, max(1, horizon)))
    return sorted(found, key=lambda leak: -leak.share)


def explained(numbers: Doubles, truth: Doubles) -> float:
    """Return how much of the variance of ``truth`` the numbers explain alone, on blocks left out in turn.

    >>> round(explained(np.arange(1000.0), np.arange(1000.0) ** 2 % 997), 1)
    0.0
    """
    known = ~(np.isnan(numbers) | np.isnan(truth))
    x, y = numbers[known], truth[known]
    variance = float(y.var()) if len(y) else 0.0
    if len(y) < _FEWEST or variance == 0 or np.ptp(x) == 0:
        return 0.0
    edges = np.unique(np.quantile(x, np.linspace(0, 1, _BINS + 1)[1:-1]))
    bins = np.searchsorted(edges, x, side="right")
    # Blocks in order of time would make a trend look like ignorance: every tenth reading is left out.
    block = np.arange(len(y)) % _BLOCKS
    wrong = 0.0
    for left in range(_BLOCKS):
        is_left = block == left
        wrong += float(((_told(bins, x, y, is_left, len(edges) + 1) - y[is_left]) ** 2).sum())
    return max(0.0, 1 - wrong / (variance * len(y)))


def _told(bins: NDArray[np.int64], x: Doubles, y: Doubles, is_left: NDArray[np.bool_], count: int) -> Doubles:
    """Return what a straight line in each bin, fitted to the others, says of those that are left out."""
    b, at, to = bins[~is_left], x[~is_left], y[~is_left]
    sizes = np.bincount(b, minlength=count)
    safe = np.maximum(1, sizes)
    mean_x, mean_y = np.bincount(b, at, count) / safe, np.bincount(b, to, count) / safe
    spread = np.bincount(b, (at - mean_x[b]) ** 2, count)
    together = np.bincount(b, (at - mean_x[b]) * (to - mean_y[b]), count)
    slope = np.where((sizes > 3) & (spread > 0), together / np.where(spread > 0, spread, 1), 0.0)  # noqa: PLR2004 - a line
    mean_y = np.where(sizes == 0, to.mean(), mean_y)
    own = bins[is_left]
    told: Doubles = mean_y[own] + slope[own] * (x[is_left] - mean_x[own])
    return told


def _of_labels(rows: Doubles, names: list[str], labels: Doubles) -> Iterator[Leak]:
    known = ~np.isnan(labels)
    truth = labels[known]
    if len(truth) < _FEWEST or np.ptp(truth) == 0:
        return
    for at, name in enumerate(names):
        numbers = rows[known, at]
        share = explained(numbers, truth)
        if share >= _TELLS:
            told = (
                f"{name} alone explains {share:.1%} of the target: is it known before the target is, "
                "or is it the target in other words?"
            )
            yield Leak(name, share, told)
        elif flag := _flag(name, numbers, truth):
            yield flag


def _flag(name: str, numbers: Doubles, truth: Doubles) -> Leak | None:
    """Return a leak where one number of a flag goes with one rare answer only."""
    known = ~np.isnan(numbers)
    kinds = np.unique(numbers[known])
    if not 2 <= len(kinds) <= _FLAGS:  # noqa: PLR2004 - one is no flag
        return None
    for kind in kinds:
        answers = truth[known & (numbers == kind)]
        if len(answers) < _LEAST:
            continue
        found, counts = np.unique(answers, return_counts=True)
        answer, share = float(found[counts.argmax()]), float(counts.max() / len(answers))
        base = float((truth == answer).mean())
        if share >= _PURE and base <= _RARE:
            told = (
                f"{name} = {kind:g} goes with target {answer:g} in {share:.1%} of {len(answers):,} readings, "
                f"which {base:.1%} of all have: is it set only once the target is known?"
            )
            return Leak(name, share, told)
    return None


def _of_change(
    rows: Doubles, names: list[str], places: list[NDArray[np.int64]], target: int, horizon: int
) -> Iterator[Leak]:
    now = np.concatenate(
        [found[:-horizon] for found in places if len(found) > horizon] or [np.array([], int)]
    )
    then = np.concatenate(
        [found[horizon:] for found in places if len(found) > horizon] or [np.array([], int)]
    )
    if len(now) < _FEWEST:
        return
    change = rows[then, target] - rows[now, target]
    for at, name in enumerate(names):
        if at == target:
            continue
        share = max(explained(rows[now, at] - rows[now, target], change), explained(rows[now, at], change))
        if share >= _TELLS_CHANGE:
            told = (
                f"{name} alone explains {share:.1%} of how {names[target]} changes until {horizon} readings "
                "ahead: does it come from later?"
            )
            yield Leak(name, share, told)
