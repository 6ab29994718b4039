"""How numbers are spread, and how far a spread has moved: histograms and the population stability index.

Trainer and agent both use this, so that what the trainer calibrates is what the agent counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from atoll_contract.manifest import Manifest
from atoll_contract.reference import Histogram

Floats = NDArray[np.floating[Any]]

_BINS: Final = 10
_MOST_OF_AN_ARRAY: Final = 64
"""Numbers of an array value that are counted, spread evenly over it."""
_HALF: Final = 0.5
_LEAST_SHARE: Final = 1e-3
"""Of a bin: what has never been seen is not infinitely surprising."""


def edges_of(numbers: Floats) -> list[float]:
    """Return edges with about as many of ``numbers`` in each bin, and an empty bin on either side.

    Of numbers that take few values each bin has at least one of them.
    """
    low, high = float(numbers.min()), float(numbers.max())
    room = max((high - low) * 1e-3, abs(high) * 1e-6, abs(low) * 1e-6, 1e-9)
    inner = np.quantile(numbers.astype(np.float64), np.linspace(0, 1, _BINS + 1)[1:-1])
    return [low - room, *sorted({float(edge) for edge in inner} - {low}), high + room]


def stability_index(expected: NDArray[np.int64], found: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the population stability index along the last axis: sum of (p - q) ln(p / q).

    Half a case is added to each bin. Below 0.1 nothing has moved, above 0.25 a lot has.
    Source: Siddiqi, Credit Risk Scorecards, Wiley 2006, p. 136.

    Args:
        expected: Counts, shape (..., bins).
        found: Counts of the same bins.
    """
    q, p = _shares(expected), _shares(found)
    index: NDArray[np.float64] = ((p - q) * np.log(p / q)).sum(axis=-1)
    return index


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    more = counts + _HALF
    shares: NDArray[np.float64] = np.maximum(more / more.sum(axis=-1, keepdims=True), _LEAST_SHARE)
    return shares


@dataclass(frozen=True, slots=True)
class Columns:
    """Which numbers of the newest row of a feature matrix are counted, and which feature each belongs to.

    Attributes:
        places: Columns of the matrix.
        features: Number of the feature of each.
    """

    places: NDArray[np.int64]
    features: NDArray[np.int64]

    @classmethod
    def of(cls, manifest: Manifest) -> Self:
        """Return the columns of a release: of an array at most 64, spread over it."""
        places: list[int] = []
        features: list[int] = []
        at = 0
        for number, size in enumerate(manifest.sizes):
            chosen = np.linspace(at, at + size - 1, min(size, _MOST_OF_AN_ARRAY)).astype(int).tolist()
            places += chosen
            features += [number] * len(chosen)
            at += size
        return cls(np.array(places), np.array(features))


class Spread:
    """Counts rows of several histograms at once. They may differ in their number of bins."""

    def __init__(self, histograms: Sequence[Histogram], features: NDArray[np.int64]) -> None:
        """Count column i of a row into histogram ``features[i]``."""
        self._features = features
        self.bins = max(len(one.counts) for one in histograms)
        self.count = len(histograms)
        edges = np.full((len(histograms), self.bins - 1), np.inf)
        self.expected = np.zeros((len(histograms), self.bins), np.int64)
        self._has_bin = np.zeros((len(histograms), self.bins), np.bool_)
        for number, one in enumerate(histograms):
            edges[number, : len(one.edges)] = one.edges
            self.expected[number, : len(one.counts)] = one.counts
            self._has_bin[number, : len(one.counts)] = True
        self._edges = edges[features]
        self._start = features * self.bins

    def counts(self, rows: Floats) -> NDArray[np.int64]:
        """Return how many numbers of ``rows``, shape (n, columns), fall in each bin, (histograms, bins)."""
        bins = (rows[:, :, None] >= self._edges).sum(axis=2)
        flat = np.bincount((bins + self._start).ravel(), minlength=self.count * self.bins)
        return flat.reshape(self.count, self.bins)

    def index(self, found: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the population stability index of each histogram for counts as :meth:`counts` gives them."""
        return np.array(
            [
                float(stability_index(self.expected[number][has], found[number][has]))
                for number, has in enumerate(self._has_bin)
            ]
        )
