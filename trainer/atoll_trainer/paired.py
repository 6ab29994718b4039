"""Whether one model is better than another on the same windows, by more than chance.

The losses of both on a window are paired and added up over the devices that answered at the same moment.
The difference of the means is judged by a circular block bootstrap (Politis and Romano, 1992) of moments:
what follows each other is alike, so whole stretches are drawn and not single moments. How long a stretch is
follows from how long moments stay alike (Politis and White, 2004; corrected by Patton, Politis and White,
2009). A series of few stretches looks steadier than it is: its quantiles are widened as Kiefer and
Vogelsang (2005) found. Losses may be of any task. Seeded: the same losses give the same verdict.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]

_DRAWS: Final = 4_000
_SEED: Final = 1
_AT_ONCE: Final = 2_000_000
"""Most numbers of one step of the drawing."""
FEWEST: Final = 10
"""With fewer windows nothing can be told, and with fewer stretches nothing about chance."""
_PARTS: Final = 3


@dataclass(frozen=True, slots=True)
class Paired:
    """How the losses of a challenger differ from those of a champion.

    Attributes:
        windows: That both answered.
        challenger: Mean loss.
        champion: Mean loss.
        low: Where the mean difference lies at least, with 95 % confidence.
        high: Where it lies at most, with 95 % confidence; so 90 % lie between both.
        p: Probability of such a difference, or a smaller one, if the challenger were no better.
        stretches: How many there are of windows that are alike.
        is_better: Whether it is, with 95 % confidence, better than a champion that were worse by the share
            that was given. With a share above 0 one that is nowhere worse by more is let through, also
            where neither errs. Of too few stretches it is where it errs less than half as much in each
            third of the time.
    """

    windows: int
    challenger: float
    champion: float
    low: float
    high: float
    p: float
    stretches: float
    is_better: bool


def compare(
    challenger: Doubles,
    champion: Doubles,
    times_ms: Doubles | None = None,
    devices: NDArray[np.int64] | None = None,
    worse_by: float = 0.0,
) -> Paired:
    """Return how the losses of two models on the same windows differ.

    Windows without a loss (NaN) on either side are left out.

    Args:
        challenger: Of each window, shape (n,).
        champion: Likewise.
        times_ms: Event time of each; by default they follow each other.
        devices: Number of the device of each; by default there is one.
        worse_by: See :attr:`Paired.is_better`.

    Raises:
        ValueError: There is no window with both.
    """
    known = ~(np.isnan(challenger) | np.isnan(champion))
    if not known.any():
        raise ValueError("no window has a loss of both")
    times = np.arange(len(challenger), dtype=np.float64) if times_ms is None else times_ms
    moment = _moments(times[known], None if devices is None else devices[known])
    ours, theirs, counts = (
        np.bincount(moment, each[known]).astype(np.float64)
        for each in (challenger, champion, np.ones(len(challenger)))
    )
    first, second = float(ours.sum() / counts.sum()), float(theirs.sum() / counts.sum())
    spreads = []
    # The series is made as if it had no mean; a draw of it tells how far the mean is off by chance.
    for margin in (0.0, worse_by):
        each = ours - (1 + margin) * theirs
        mean = float(each.sum() / counts.sum())
        spreads.append(_Spread.of(each - mean * counts, counts, mean))
    plain, margined = spreads
    windows = int(known.sum())
    is_even = worse_by > 0 and bool((ours <= (1 + worse_by) * theirs).all())
    is_sure = margined.high < 0 if margined.stretches >= FEWEST else _halves(ours, theirs)
    is_better = windows >= FEWEST and (is_sure or is_even)
    return Paired(windows, first, second, plain.low, plain.high, plain.p, margined.stretches, is_better)


def block_length(series: Doubles) -> float:
    """Return how many neighbours are drawn together: the more, the longer they stay alike.

    >>> block_length(np.random.default_rng(0).normal(size=1000)) < 10
    True
    """
    count = len(series)
    off = series - series.mean()
    variance = float((off**2).mean())
    if count < FEWEST or variance == 0:
        return 1.0
    size = 1 << (2 * count - 1).bit_length()
    spectrum = np.fft.rfft(off, size)
    covariance = np.fft.irfft(spectrum * spectrum.conj(), size)[:count] / count
    alike = covariance / variance
    limit = 2 * math.sqrt(math.log10(count) / count)
    run = max(5, math.isqrt(int(math.log10(count))))
    # The first lag after which a run of lags is no more alike than chance makes them.
    is_small = np.abs(alike[1:]) < limit
    runs = np.convolve(is_small, np.ones(run), "valid") if len(is_small) >= run else np.zeros(0)
    ends = np.flatnonzero(runs == run)
    last = int(ends[0]) if len(ends) else count - 1
    reach = min(2 * last, count - 1)
    lags = np.arange(1, reach + 1)
    weights = np.minimum(1.0, 2 * (1 - lags / max(1, reach)))
    own = covariance[1 : reach + 1] * weights
    long_run = max(float(covariance[0] + 2 * own.sum()), 1e-3 * variance)
    slope = 2 * float((lags * own).sum())
    length = math.cbrt(1.5 * (slope / long_run) ** 2 * count)
    return min(max(1.0, length), count / 2)


@dataclass(frozen=True, slots=True)
class _Spread:
    low: float
    high: float
    p: float
    stretches: float

    @classmethod
    def of(cls, series: Doubles, counts: Doubles, mean: float) -> _Spread:
        """Return how far ``mean`` may be off, by a series without a mean and the windows of each moment."""
        length = block_length(series)
        # Twice as long: found to keep what is promised better, and the widening makes up for it.
        block = min(math.ceil(2 * length), len(series) // 2) if length > 1 else 1
        drawn = _drawn(series, counts, block) * _widened(block / len(series))
        low, high = (mean - float(np.quantile(drawn, share)) for share in (0.95, 0.05))
        p = float((1 + (drawn <= mean).sum()) / (1 + len(drawn)))
        return cls(low, high, p, len(series) / length)


def _moments(times_ms: Doubles, devices: NDArray[np.int64] | None) -> NDArray[np.int64]:
    """Return the number of each window's moment: what devices tell within one usual step is one."""
    numbers = times_ms
    if devices is not None and len(np.unique(devices)) > 1:
        order = np.lexsort((times_ms, devices))
        steps = np.diff(times_ms[order])[np.diff(devices[order]) == 0]
        step = float(np.median(steps[steps > 0])) if (steps > 0).any() else 1.0
        numbers = np.floor((times_ms - times_ms.min()) / step)
    found: NDArray[np.int64] = np.unique(numbers, return_inverse=True)[1]
    return found


def _widened(share: float) -> float:
    """Return how much wider a quantile of 95 % is where a block is that share of the series."""
    return (1.6449 + 2.1859 * share + 0.3142 * share**2 - 0.3427 * share**3) / 1.6449


def _halves(ours: Doubles, theirs: Doubles) -> bool:
    parts = zip(np.array_split(ours, _PARTS), np.array_split(theirs, _PARTS), strict=True)
    return all(float(one.sum()) < float(other.sum()) / 2 for one, other in parts)


def _drawn(series: Doubles, counts: Doubles, block: int) -> Doubles:
    """Return the means of series that are put together from blocks drawn with replacement."""
    count = len(series)
    sums, sizes = (
        np.concatenate([[0.0], np.cumsum(np.concatenate([each, each[:block]]))]) for each in (series, counts)
    )
    random = np.random.default_rng(_SEED)
    blocks, rest = divmod(count, block)
    means = []
    step = max(1, _AT_ONCE // (blocks + 1))
    for start in range(0, _DRAWS, step):
        drawn = min(step, _DRAWS - start)
        begins = random.integers(0, count, (drawn, blocks))
        last = random.integers(0, count, drawn)
        total, windows = (
            (each[begins + block] - each[begins]).sum(axis=1) + each[last + rest] - each[last]
            for each in (sums, sizes)
        )
        means.append(total / np.maximum(windows, 1))
    return np.concatenate(means)
