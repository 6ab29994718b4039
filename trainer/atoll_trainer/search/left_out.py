"""How much larger anomaly scores are where a model has not learnt from: its threshold has to know."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from atoll_trainer.search.part import Part

_STRETCHES: Final = 3
_LEAST: Final = 16
"""Windows of the rest."""
Scores = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def excess(train: Part, near: int, share: float, learn: Callable[[Part], Scores]) -> float:
    """Return a high quantile of scores of left-out stretches, as a share of the same of what was learnt.

    Each of three stretches of the training part is scored by a model that has learnt from the others.

    Args:
        train: Windows in order of time; those of weight 0 are no normal ones.
        near: Windows on each side of a stretch that share readings with it: they are not learnt from.
        share: Which quantile.
        learn: Fits a model and returns what scores windows.

    Returns:
        1 at least; 1 where too little is there to leave something out.
    """
    places, is_normal = np.arange(len(train.inputs)), train.weights > 0
    told = []
    for stretch in np.array_split(places, _STRETCHES):
        if not len(stretch):
            return 1.0
        is_rest = is_normal & ((places < stretch[0] - near) | (places > stretch[-1] + near))
        out = stretch[is_normal[stretch]]
        if is_rest.sum() < _LEAST or not len(out):
            return 1.0
        rest = Part(train.inputs[is_rest], train.targets[is_rest], train.weights[is_rest])
        scores = learn(rest)
        known = max(float(np.quantile(scores(rest.inputs), share)), 1e-12)
        told.append(scores(train.inputs[out]) / known)
    return max(1.0, float(np.quantile(np.concatenate(told), share)))
