"""Windows made abnormal on purpose: by how many of them a detector notices it is chosen, without labels."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

_LEAST, _MOST = 1.5, 5.0
"""Standard deviations by which a window is disturbed."""
_KINDS: Final = 4


def disturbed(windows: NDArray[np.float32], spread: NDArray[np.float64], seed: int) -> NDArray[np.float32]:
    """Return a disturbed copy of each window: a spike, a step, a slope or a noise, in one column, at its end.

    Args:
        windows: Shape (n, length, columns).
        spread: Standard deviation of each column, shape (columns,).
        seed: Of the random numbers.
    """
    random = np.random.default_rng(seed)
    found = windows.astype(np.float64)
    count, length, columns = found.shape
    for place in range(count):
        column = int(random.integers(columns))
        size = spread[column] * random.uniform(_LEAST, _MOST) * random.choice([-1.0, 1.0])
        reach = int(random.integers(1, length + 1))
        match int(random.integers(_KINDS)):
            case 0:
                found[place, -1, column] += size
            case 1:
                found[place, -reach:, column] += size
            case 2:
                found[place, -reach:, column] += size * np.arange(1, reach + 1) / reach
            case _:
                found[place, -reach:, column] += size * random.normal(size=reach)
    return found.astype(np.float32)
