"""Probabilities that mean what they say: the last layer's numbers are stretched and shifted to fit.

A temperature for all classes (Guo et al., *On Calibration of Modern Neural Networks*, ICML 2017); where
rare classes counted more in the fit, also a shift for each, which takes their weight back (Platt's
scaling, for any number of classes). Both become part of the last layer, so that they cost nothing.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from atoll_trainer.figures import one_hot

Doubles = NDArray[np.float64]
_STEPS: Final = 400
_RATE: Final = 0.05
_PRIOR: Final = 1.0
"""Windows' worth of pull towards no shift: a class that the part hardly holds is not shifted far."""


def softmax(numbers: Doubles) -> Doubles:
    """Return the probabilities that ``numbers`` stand for."""
    powers = np.exp(numbers - numbers.max(axis=1, keepdims=True))
    found: Doubles = powers / powers.sum(axis=1, keepdims=True)
    return found


def calibration(numbers: Doubles, classes: Doubles, *, shifts: bool) -> tuple[float, Doubles]:
    """Return factor and shifts that make the log loss of ``softmax(factor * numbers + shift)`` least.

    Args:
        numbers: Of the last layer, shape (n, classes).
        classes: The true ones, shape (n,).
        shifts: Whether classes are shifted.
    """
    count, width = numbers.shape
    truth = one_hot(classes, width)
    # Adam on the logarithm of the factor and on the shifts.
    state, first, second = (np.zeros(1 + width) for _ in range(3))
    for step in range(1, _STEPS + 1):
        factor = np.exp(state[0])
        off = softmax(factor * numbers + state[1:]) - truth
        gradient = np.zeros_like(state)
        gradient[0] = (off * numbers).sum() * factor / count
        if shifts:
            gradient[1:] = (off.sum(axis=0) + _PRIOR * state[1:]) / count
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        state = state - _RATE * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-9)
    return float(np.exp(state[0])), state[1:]
