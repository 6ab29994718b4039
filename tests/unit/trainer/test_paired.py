"""Whether a model is better by more than chance."""

from __future__ import annotations

import numpy as np
import pytest

from atoll_trainer.paired import FEWEST, block_length, compare

COUNT = 400


def losses(seed: int, mean: float = 1.0, alike: float = 0.0, count: int = COUNT):
    """Losses around ``mean``; neighbours are alike as in an autoregression."""
    random = np.random.default_rng(seed)
    noise = random.normal(0, 0.2, count)
    for at in range(1, count):
        noise[at] += alike * noise[at - 1]
    return mean + noise


def test_a_model_that_is_better_everywhere_is_better():
    paired = compare(losses(0, 0.9), losses(1, 1.0))

    assert paired.is_better()
    assert paired.p < 0.001
    assert paired.low < paired.challenger - paired.champion < paired.high < 0


def test_a_model_that_is_worse_is_not_nor_is_the_same_model():
    worse, same = compare(losses(0, 1.1), losses(1)), compare(losses(1), losses(1))

    assert not worse.is_better()
    assert worse.low > 0
    assert not same.is_better()
    assert same.is_better(worse_by=0.05)


def test_chance_is_told_from_skill_also_where_neighbours_are_alike():
    # Of a hundred pairs of equal models at most a few may seem better at 95 %.
    told = [
        compare(losses(2 * seed, alike=0.9), losses(2 * seed + 1, alike=0.9)).is_better()
        for seed in range(100)
    ]

    assert sum(told) <= 12
    alone = compare(losses(0, alike=0.9), losses(1, alike=0.9))
    assert alone.block > 10 > block_length(losses(0))


def test_a_large_enough_lead_is_found_where_neighbours_are_alike():
    found = [
        compare(losses(2 * seed, 0.5, alike=0.9), losses(2 * seed + 1, 1.5, alike=0.9)).is_better()
        for seed in range(20)
    ]

    assert sum(found) == 20


def test_a_margin_lets_through_what_is_hardly_worse():
    paired = compare(losses(0, 1.01), losses(1, 1.0))

    assert not paired.is_better()
    assert paired.is_better(worse_by=0.1)


def test_windows_without_truth_are_left_out_and_few_tell_nothing():
    blind = np.full(FEWEST, np.nan)
    few = compare(np.r_[np.zeros(FEWEST - 1), blind], np.r_[np.ones(FEWEST - 1), blind])

    assert few.windows == FEWEST - 1
    assert not few.is_better()
    with pytest.raises(ValueError, match="no window has a loss of both"):
        compare(blind, blind)
