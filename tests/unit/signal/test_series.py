"""Statistics and spectra, against their definitions."""

from __future__ import annotations

import itertools
import math
import statistics

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from atoll_signal.series import Series, Spectra

FIGURES = ("mean", "std", "min", "max", "range", "rms", "roughness", "slope", "kurtosis", "crest")


def test_the_figures_are_what_their_names_say():
    samples = [3.0, 1.0, 4.0, 1.0, 5.0, 9.0, 2.0, 6.0]
    series = Series(np.array([samples]))
    mean = statistics.fmean(samples)
    second = statistics.fmean([(x - mean) ** 2 for x in samples])
    fourth = statistics.fmean([(x - mean) ** 4 for x in samples])
    rms = math.sqrt(statistics.fmean([x * x for x in samples]))

    assert series.mean[0] == pytest.approx(mean)
    assert series.std[0] == pytest.approx(statistics.pstdev(samples))
    assert (series.min[0], series.max[0], series.range[0]) == (1.0, 9.0, 8.0)
    assert series.rms[0] == pytest.approx(rms)
    steps = [b - a for a, b in itertools.pairwise(samples)]
    assert series.roughness[0] == pytest.approx(math.sqrt(statistics.fmean([x * x for x in steps])))
    assert series.crest[0] == pytest.approx(9.0 / rms)
    assert series.kurtosis[0] == pytest.approx(fourth / second**2 - 3)
    assert series.slope[0] == pytest.approx(statistics.linear_regression(range(8), samples).slope)
    assert series.quantile(0.3)[0] == pytest.approx(np.quantile(samples, 0.3))
    assert (series.quantile(0.0)[0], series.quantile(1.0)[0]) == (1.0, 9.0)


@pytest.mark.parametrize("samples", [[0.0], [0.0, 0.0, 0.0], [7.0], [-7.0, -7.0]])
def test_equal_samples_give_no_nan(samples):
    series = Series(np.array([samples]))

    assert all(math.isfinite(getattr(series, name)[0]) for name in FIGURES)
    assert (series.kurtosis[0], series.std[0], series.slope[0]) == (0.0, 0.0, 0.0)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 70), st.integers(1, 300), st.integers(0, 2**32 - 1))
def test_a_series_gives_the_same_bits_alone_and_among_others(count, length, seed):
    samples = np.random.default_rng(seed).normal(3.0, 2.0, (count, length)).astype(np.float32)
    together = Series(samples.astype(np.float64))
    alone = [Series(one[None].astype(np.float64)) for one in samples]

    for name in FIGURES:
        assert getattr(together, name).tobytes() == b"".join(getattr(one, name).tobytes() for one in alone)
    assert together.quantile(0.77).tobytes() == b"".join(one.quantile(0.77).tobytes() for one in alone)


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 4), st.integers(4, 300), st.integers(0, 2**32 - 1))
def test_a_spectrum_gives_the_same_bits_alone_and_among_others(count, parts, length, seed):
    samples = np.random.default_rng(seed).normal(3.0, 2.0, (count, parts, length))
    together = Spectra(samples, 1.0)
    alone = [Spectra(np.ascontiguousarray(one[None]), 1.0) for one in samples]

    assert together.band(50, 300).tobytes() == b"".join(one.band(50, 300).tobytes() for one in alone)
    assert together.peak_hz.tobytes() == b"".join(one.peak_hz.tobytes() for one in alone)


def test_a_tone_is_found_in_its_band_with_its_energy():
    times_s = np.arange(1024) / 12_000
    tone = 5.0 + 3.0 * np.sin(2 * np.pi * 1500 * times_s)
    spectra = Spectra(tone[None, None], 1000 / 12_000)

    assert spectra.peak_hz[0] == pytest.approx(1500, abs=12_000 / 1024)
    assert spectra.band(1400, 1600)[0] == pytest.approx(4.5, rel=1e-3)  # half the square of 3
    assert spectra.band(0, 1000)[0] == pytest.approx(0.0, abs=1e-6)  # the mean is no vibration


def test_the_bands_add_up_to_the_mean_square_of_noise():
    noise = np.random.default_rng(1).normal(0.0, 2.0, (1, 64, 512))
    spectra = Spectra(noise, 0.5)
    bands = sum(spectra.band(low, low + 100.0)[0] for low in range(0, 1000, 100))

    assert bands == pytest.approx(spectra.band(0.0, 1000.0)[0])
    assert bands == pytest.approx(4.0, rel=0.04)


def test_silence_has_no_frequency():
    assert Spectra(np.full((1, 2, 16), 3.0), 1.0).peak_hz.tolist() == [0.0]
