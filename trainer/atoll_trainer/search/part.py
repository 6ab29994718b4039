"""Windows as networks see them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Part:
    """Windows to learn from or to stop by: normalised, float32.

    Attributes:
        inputs: Shape (n, length, columns).
        targets: Shape (n, outputs); of classes one-hot.
        weights: How much each counts, shape (n,).
    """

    inputs: NDArray[np.float32]
    targets: NDArray[np.float32]
    weights: NDArray[np.float32]
