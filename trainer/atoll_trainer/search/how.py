"""How a network is fitted."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum


class LossKind(StrEnum):
    """What a fit makes small."""

    SQUARE = "square"
    ABSOLUTE = "absolute"
    HUBER = "huber"
    CROSS_ENTROPY = "cross_entropy"
    SQUARED_HINGE = "squared_hinge"
    RESTORATION = "restoration"


@dataclass(frozen=True, slots=True)
class Fit:
    """How a network is fitted.

    Attributes:
        loss: What is made small.
        rate: Length of the first steps; it falls along a cosine.
        batch: Windows per step.
        decay: Share that weights lose in each step, times the rate.
        dropout: Share of the hidden units that rest in each step.
        epochs: Most passes over the training part.
        patience: Epochs without a better validation loss before it stops.
        seed: Of the random numbers.
        is_quantised: Weights are rounded as in the int8 file while it is fitted.
    """

    loss: LossKind
    rate: float = 3e-3
    batch: int = 128
    decay: float = 1e-4
    dropout: float = 0.0
    epochs: int = 60
    patience: int = 10
    seed: int = 0
    is_quantised: bool = False


def tuned_for_int8(how: Fit) -> Fit:
    """Return ``how`` for a short fit more, with weights rounded as in the file."""
    return replace(how, epochs=max(5, how.epochs // 4), rate=how.rate / 5, dropout=0.0, is_quantised=True)
