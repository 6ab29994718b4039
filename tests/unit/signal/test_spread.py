"""How numbers are spread, and how far a spread has moved."""

from __future__ import annotations

import numpy as np
import pytest

from atoll_contract.reference import Histogram
from atoll_signal.spread import Columns, Spread, edges_of, stability_index

RANDOM = np.random.default_rng(3)


def histogram(numbers: np.ndarray) -> Histogram:
    edges = edges_of(numbers)
    blank = Histogram(edges=edges, counts=[1] * (len(edges) + 1), limit=0.25)
    counts = Spread([blank], np.array([0])).counts(numbers[:, None])[0]
    return blank.model_copy(update={"counts": counts.tolist()})


def index(reference: Histogram, numbers: np.ndarray) -> float:
    spread = Spread([reference], np.array([0]))
    return float(spread.index(spread.counts(numbers[:, None]))[0])


def test_the_index_is_the_sum_over_the_bins_that_the_literature_gives():
    # (0.25 - 0.5) ln(0.25 / 0.5) + (0.75 - 0.5) ln(0.75 / 0.5); half a case in 100,000 moves little.
    expected = -0.25 * np.log(0.5) + 0.25 * np.log(1.5)

    found = stability_index(np.array([50_000, 50_000]), np.array([25_000, 75_000]))

    assert float(found) == pytest.approx(expected, abs=1e-4)


def test_bins_hold_a_tenth_each_and_what_was_never_seen_falls_outside():
    reference = histogram(RANDOM.normal(size=10_000))

    assert reference.counts[0] == reference.counts[-1] == 0
    assert all(900 < count < 1100 for count in reference.counts[1:-1])


def test_the_same_spread_is_no_drift_and_one_that_has_moved_by_a_deviation_is():
    reference = histogram(RANDOM.normal(size=5_000))

    assert index(reference, RANDOM.normal(size=300)) < 0.1
    assert index(reference, RANDOM.normal(1.0, size=300)) > 0.5
    assert index(reference, RANDOM.normal(0.0, 3.0, size=300)) > 0.5


@pytest.mark.parametrize("constant", [0.0, 5.0, -1e6])
@pytest.mark.parametrize("change", [-10.0, 10.0])
def test_a_constant_that_becomes_another_is_drift_to_either_side(constant, change):
    reference = histogram(np.full(1000, constant))

    assert index(reference, np.full(300, constant)) < 0.01
    assert index(reference, np.full(300, constant + change)) > 3


def test_a_switch_that_is_on_more_often_is_drift():
    reference = histogram(np.repeat([0.0, 1.0], [700, 300]))

    assert index(reference, np.repeat([0.0, 1.0], [210, 90])) < 0.01
    assert index(reference, np.repeat([0.0, 1.0], [90, 210])) > 0.25


def test_histograms_with_different_numbers_of_bins_are_counted_at_once():
    one, other = histogram(RANDOM.normal(size=500)), histogram(np.repeat([0.0, 1.0], 250))
    spread = Spread([one, other], np.array([0, 0, 1]))

    counts = spread.counts(np.column_stack([RANDOM.normal(size=(200, 2)), np.ones(200)]))

    assert counts.sum(axis=1).tolist() == [400, 200]
    assert len(spread.index(counts)) == 2


def test_an_array_is_counted_at_places_spread_over_it():
    class Manifest:
        sizes = (1, 1000, 2)

    columns = Columns.of(Manifest)  # type: ignore[arg-type]  # all that it looks at

    assert columns.features.tolist() == [0] + [1] * 64 + [2, 2]
    assert (columns.places[0], columns.places[1], columns.places[64]) == (0, 1, 1000)
    assert columns.places[-2:].tolist() == [1001, 1002]
