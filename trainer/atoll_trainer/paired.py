"""Whether one model is better than another on the same windows, by more than chance.

The losses of both on a window are paired, and the mean of their differences is judged by a circular
block bootstrap (Politis and Romano, 1992): neighbouring windows are alike, so whole stretches are drawn
and not single windows. How long a stretch is follows from how alike they are (Carlstein's rule for an
autoregression of first order). Losses may be of any task. Seeded: the same losses give the same verdict.
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
"""With fewer windows nothing can be told."""


@dataclass(frozen=True, slots=True)
class Paired:
    """How the losses of a challenger differ from those of a champion.

    Attributes:
        windows: That both answered.
        challenger: Mean loss.
        champion: Mean loss.
        low: Where the mean difference lies at least, with 95 % confidence.
        high: Where it lies at most, with 95 % confidence.
        p: Probability of such a difference, or a smaller one, if the challenger were no better.
        block: How many windows in a row were drawn together.
    """

    windows: int
    challenger: float
    champion: float
    low: float
    high: float
    p: float
    block: int

    def is_better(self, worse_by: float = 0.0) -> bool:
        """Whether it is, with 95 % confidence, better than a champion that were worse by that share.

        With a share above 0 one that errs just as the champion is let through, also where neither errs.
        """
        most = worse_by * self.champion
        return self.windows >= FEWEST and (self.high < most or (worse_by > 0 and self.high <= most))


def compare(challenger: Doubles, champion: Doubles) -> Paired:
    """Return how the losses of two models on the same windows, in order of time, differ.

    Windows without a loss (NaN) on either side are left out.

    Raises:
        ValueError: There is no window with both.
    """
    known = ~(np.isnan(challenger) | np.isnan(champion))
    first, second = challenger[known], champion[known]
    if not len(first):
        raise ValueError("no window has a loss of both")
    differences = first - second
    block = block_length(differences)
    means = _drawn_means(differences, block)
    mean = float(differences.mean())
    low, high = (2 * mean - float(np.quantile(means, share)) for share in (0.95, 0.05))
    # Under the hypothesis of no difference the draws lie around 0 as they do around the mean.
    p = float((1 + (means - mean <= mean).sum()) / (1 + len(means)))
    return Paired(len(first), float(first.mean()), float(second.mean()), low, high, p, block)


def block_length(differences: Doubles) -> int:
    """Return how many neighbours are drawn together: the more, the more alike they are.

    >>> block_length(np.random.default_rng(0).normal(size=1000)) <= 10
    True
    """
    count = len(differences)
    off = differences - differences.mean()
    variance = float((off**2).sum())
    if count < 2 or variance == 0:  # noqa: PLR2004 - neighbours
        return 1
    alike = min(0.97, max(0.0, float((off[1:] * off[:-1]).sum()) / variance))
    length = (2 * alike / (1 - alike**2)) ** (2 / 3) * count ** (1 / 3)
    return int(min(max(1, math.ceil(length), math.ceil(count ** (1 / 3))), max(1, count // 4)))


def _drawn_means(differences: Doubles, block: int) -> Doubles:
    """Return the means of series that are put together from blocks drawn with replacement."""
    count = len(differences)
    sums = np.concatenate([[0.0], np.cumsum(np.concatenate([differences, differences[:block]]))])
    random = np.random.default_rng(_SEED)
    blocks, rest = divmod(count, block)
    means = []
    step = max(1, _AT_ONCE // (blocks + 1))
    for start in range(0, _DRAWS, step):
        drawn = min(step, _DRAWS - start)
        begins = random.integers(0, count, (drawn, blocks))
        total = (sums[begins + block] - sums[begins]).sum(axis=1)
        last = random.integers(0, count, drawn)
        means.append((total + sums[last + rest] - sums[last]) / count)
    return np.concatenate(means)
