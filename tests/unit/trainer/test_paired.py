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

    assert paired.is_better
    assert paired.p < 0.001
    assert paired.low < paired.challenger - paired.champion < paired.high < 0


def test_a_model_that_is_worse_is_not_nor_is_the_same_model():
    worse, same = compare(losses(0, 1.1), losses(1)), compare(losses(1), losses(1))
    margined = compare(losses(1), losses(1), worse_by=0.05)
    without_error = compare(np.zeros(COUNT), np.zeros(COUNT), worse_by=0.05)

    assert not worse.is_better
    assert worse.low > 0
    assert not same.is_better
    assert margined.is_better
    assert without_error.is_better


def passed(differences, times_ms=None, devices=None):
    """How many of a hundred pairs of models, between which there is only chance, pass as better."""
    told = [compare(1 + each / 20, 1 - each / 20, times_ms, devices) for each in differences]
    return sum(one.is_better for one in told)


def test_chance_is_told_from_skill_also_where_neighbours_are_alike():
    # Of a hundred pairs of equal models at most a few may seem better at 95 %.
    assert passed(losses(seed, 0.0, alike=0.9) for seed in range(100)) <= 10
    assert passed(losses(seed, 0.0, alike=0.9, count=40) for seed in range(100)) <= 10
    assert block_length(losses(0, alike=0.9)) > 10 > block_length(losses(0))


def test_chance_is_told_from_skill_also_where_several_devices_answer_in_turn():
    count, step_ms = 200, 60_000.0
    times = np.sort(np.r_[np.arange(count), np.arange(count) + 0.3]) * step_ms
    devices = np.tile([0, 1], count)
    both = (
        np.stack([losses(2 * seed, 0.0, 0.9, count), losses(2 * seed + 1, 0.0, 0.9, count)], axis=1).ravel()
        for seed in range(100)
    )

    assert passed(both, times, devices) <= 10


@pytest.mark.parametrize("count", [720, 2000])
def test_a_day_that_is_not_over_or_came_once_proves_nothing(count):
    minutes = np.arange(count)
    cycles = (
        np.sin(2 * np.pi * (minutes / 1440 + seed / 100)) + losses(seed, 0.0, count=count)
        for seed in range(100)
    )

    assert passed(cycles) <= 5


def test_a_large_enough_lead_is_found_where_neighbours_are_alike():
    found = [
        compare(losses(2 * seed, 0.5, alike=0.9), losses(2 * seed + 1, 1.5, alike=0.9)).is_better
        for seed in range(20)
    ]

    assert sum(found) >= 19


def test_of_too_few_stretches_only_half_the_error_throughout_is_better():
    day = 1 + np.sin(np.arange(60) / 30)
    late = np.where(np.arange(60) < 40, 0.1, 0.6)

    found = [compare(share * day, day) for share in (0.4, 0.6, late)]

    assert [one.stretches < FEWEST for one in found] == [True] * 3
    assert [one.is_better for one in found] == [True, False, False]


def test_a_margin_lets_through_what_is_hardly_worse():
    assert not compare(losses(0, 1.01), losses(1, 1.0)).is_better
    assert compare(losses(0, 1.01), losses(1, 1.0), worse_by=0.1).is_better


def test_windows_without_truth_are_left_out_and_few_tell_nothing():
    blind = np.full(FEWEST, np.nan)
    few = compare(np.r_[np.zeros(FEWEST - 1), blind], np.r_[np.ones(FEWEST - 1), blind])

    assert few.windows == FEWEST - 1
    assert not few.is_better
    with pytest.raises(ValueError, match="no window has a loss of both"):
        compare(blind, blind)
