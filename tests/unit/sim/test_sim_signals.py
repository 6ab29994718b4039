"""Signals are endless, seeded, and stay within what they say."""

from __future__ import annotations

import math
from itertools import islice

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll_sim.signals import Constant, Signal, Sine, Uniform, Walk

SIGNALS: list[Signal] = [
    Constant(mean=3.0, noise=0.5),
    Uniform(low=-1.0, high=1.0),
    Sine(mean=20.0, amplitude=5.0, period_s=60.0, noise=0.1),
    Walk(low=0.0, high=10.0, step=1.0),
]


def series(signal: Signal, *, seed: int, rate_hz: float = 10.0, length: int = 200) -> list[float]:
    return list(islice(signal.samples(rate_hz, np.random.default_rng(seed)), length))


@pytest.mark.parametrize("signal", SIGNALS, ids=lambda signal: signal.shape)
@given(seed=st.integers(0, 2**64))
def test_the_same_seed_gives_the_same_samples_and_another_seed_others(signal: Signal, seed: int) -> None:
    assert series(signal, seed=seed) == series(signal, seed=seed)
    assert series(signal, seed=seed) != series(signal, seed=seed + 1)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.floats(1e-3, 1e7), st.integers(0, 2**32))
def test_a_walk_never_leaves_its_bounds(low: float, span: float, step: float, seed: int) -> None:
    walk = Walk(low=low, high=low + span, step=step)

    samples = series(walk, seed=seed)

    slack = 1e-9 * (abs(low) + span)
    assert all(low - slack <= sample <= low + span + slack for sample in samples)


def test_a_walk_starts_in_the_middle_or_where_it_is_told() -> None:
    assert series(Walk(low=0.0, high=10.0, step=1.0), seed=1)[0] == 5.0
    assert series(Walk(low=0.0, high=10.0, step=1.0, start=9.0), seed=1)[0] == 9.0


def test_uniform_samples_fill_the_range() -> None:
    samples = series(Uniform(low=2.0, high=4.0), seed=1, length=2000)

    assert 2.0 <= min(samples) < 2.05
    assert 3.95 < max(samples) < 4.0


def test_a_sine_has_its_mean_amplitude_period_and_phase() -> None:
    samples = series(Sine(mean=20.0, amplitude=5.0, period_s=4.0, phase=0.25), seed=1, rate_hz=1.0, length=5)

    # time    0    1    2    3    4     a quarter of a swing ahead: it starts at the top
    assert samples == pytest.approx([25.0, 20.0, 15.0, 20.0, 25.0])


def test_a_constant_without_noise_is_constant() -> None:
    assert set(series(Constant(mean=3.0), seed=1)) == {3.0}


def test_noise_has_the_given_standard_deviation() -> None:
    samples = series(Constant(mean=3.0, noise=0.5), seed=1, length=20_000)

    assert np.mean(samples) == pytest.approx(3.0, abs=0.02)
    assert np.std(samples) == pytest.approx(0.5, rel=0.02)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Uniform(low=1.0, high=1.0),
        lambda: Walk(low=2.0, high=1.0, step=1.0),
        lambda: Walk(low=0.0, high=1.0, step=1.0, start=math.pi),
    ],
)
def test_bounds_that_enclose_nothing_are_refused(make: object) -> None:
    with pytest.raises(ValueError, match=r"low|start"):
        make()  # type: ignore[operator]
