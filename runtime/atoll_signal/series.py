"""What can be said of a series of samples: statistics and spectra, of many series at once.

The figures of a series are the same, to the last bit, whether it comes alone or among others: each is
one row of a contiguous float64 array, and every sum runs along that row in the order that its length
alone decides. No matrix product is used, since those sum in an order of their own.
"""

from __future__ import annotations

from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Series:
    """n series of m samples; what several figures need is computed once.

    Args:
        samples: float64, shape (n, m), contiguous; left unchanged.
    """

    def __init__(self, samples: Floats) -> None:
        self.samples = samples
        self.count = samples.shape[1]

    @cached_property
    def mean(self) -> Floats:
        """Mean of each, shape (n,), as all figures."""
        return _sum(self.samples) / self.count

    @cached_property
    def min(self) -> Floats:
        """Least sample."""
        least: Floats = np.minimum.reduce(self.samples, axis=-1)
        return least

    @cached_property
    def max(self) -> Floats:
        """Greatest sample."""
        greatest: Floats = np.maximum.reduce(self.samples, axis=-1)
        return greatest

    @property
    def range(self) -> Floats:
        """Greatest less least sample."""
        return self.max - self.min

    @property
    def std(self) -> Floats:
        """Standard deviation of the samples themselves."""
        root: Floats = np.sqrt(self._variance)
        return root

    @cached_property
    def rms(self) -> Floats:
        """Root of the mean square."""
        root: Floats = np.sqrt(_sum(self.samples * self.samples) / self.count)
        return root

    @property
    def roughness(self) -> Floats:
        """Root of the mean square of the steps from sample to sample; 0 of one sample."""
        steps = np.ascontiguousarray(np.diff(self.samples, axis=-1))
        root: Floats = np.sqrt(_sum(steps * steps) / max(1, self.count - 1))
        return root

    @property
    def crest(self) -> Floats:
        """Greatest magnitude divided by the root of the mean square; 0 of zeros."""
        return _divided(np.maximum(self.max, -self.min), self.rms)

    @property
    def kurtosis(self) -> Floats:
        """Fourth moment divided by the square of the second, less 3; 0 of equal samples."""
        fourth = _sum(self._squares * self._squares) / self.count
        square = self._variance * self._variance
        excess: Floats = _divided(fourth, square) - 3.0
        excess[square <= 0] = 0.0
        return excess

    @property
    def slope(self) -> Floats:
        """Of the straight line with the least squares, per sample; 0 of one sample."""
        if self.count == 1:
            return np.zeros(len(self.samples))
        return _sum(self.samples * _slope_weights(self.count))

    def quantile(self, share: float) -> Floats:
        """Return below what ``share`` of the samples lies, linear in between."""
        place = share * (self.count - 1)
        low = int(place)
        high = min(low + 1, self.count - 1)
        below: Floats = self._sorted[:, low]
        return below + (self._sorted[:, high] - below) * (place - low)

    @cached_property
    def _sorted(self) -> Floats:
        ordered: Floats = np.sort(self.samples, axis=-1)
        return ordered

    @cached_property
    def _squares(self) -> Floats:
        centred: Floats = self.samples - self.mean[:, None]
        return centred * centred

    @cached_property
    def _variance(self) -> Floats:
        return _sum(self._squares) / self.count


class Spectra:
    """Mean spectra of n groups of r series each, Hann window, mean removed.

    Args:
        samples: float64, shape (n, r, m), contiguous; left unchanged.
        step_ms: Time between samples.
    """

    def __init__(self, samples: Floats, step_ms: float) -> None:
        groups, parts, count = samples.shape
        self._groups, self._parts = groups, parts
        series = samples.reshape(-1, count)
        taper, scale, hz = _of_spectrum(count, step_ms)
        centred = series - (_sum(series) / count)[:, None]
        spectrum = np.fft.rfft(centred * taper, axis=-1)
        power = spectrum.real * spectrum.real + spectrum.imag * spectrum.imag
        self._power: Floats = power * scale
        self._hz = hz

    def band(self, low_hz: float, high_hz: float) -> Floats:
        """Return the mean square from ``low_hz`` to below ``high_hz``, shape (n,)."""
        edges = np.array([low_hz, high_hz]) * (1 - 1e-9)  # a bin at an edge belongs to the band above it
        low, high = np.searchsorted(self._hz, edges)
        if high_hz >= self._hz[-1]:
            high = len(self._hz)
        energy = _sum(np.ascontiguousarray(self._power[:, low:high]))
        return _sum(energy.reshape(self._groups, self._parts)) / self._parts

    @property
    def peak_hz(self) -> Floats:
        """The frequency above 0 with the most energy, shape (n,); 0 of equal samples."""
        power = self._power.reshape(self._groups, self._parts, -1)
        total = power[:, 0].copy()
        for part in range(1, self._parts):
            total += power[:, part]
        total[:, 0] = 0.0
        places = total.argmax(axis=1)
        found: Floats = self._hz[places]
        found[np.take_along_axis(total, places[:, None], axis=1)[:, 0] <= 0] = 0.0
        return found


@lru_cache(maxsize=32)
def _slope_weights(count: int) -> Floats:
    """Return what each of so many samples counts for in their slope."""
    places = np.arange(count) - (count - 1) / 2
    weights: Floats = places / np.add.reduce(places * places)
    return weights


@lru_cache(maxsize=32)
def _of_spectrum(count: int, step_ms: float) -> tuple[Floats, Floats, Floats]:
    """Return the Hann window of so many samples, what scales each bin's power, and each bin's frequency."""
    taper: Floats = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(count) / count)
    bins = count // 2 + 1
    # A bin stands for its mirror image as well, but for the first and, of an even count, the last.
    both = np.full(bins, 2.0)
    both[0] = 1.0
    if count % 2 == 0:
        both[-1] = 1.0
    # Over all bins, the power so adds up to the mean square of noise.
    scale: Floats = both / (count * np.add.reduce(taper * taper))
    hz: Floats = np.arange(bins) * (1000.0 / (count * step_ms))
    return taper, scale, hz


def _sum(samples: Floats) -> Floats:
    """Return the sum of each row."""
    total: Floats = np.add.reduce(samples, axis=-1)
    return total


def _divided(one: Floats, other: Floats) -> Floats:
    """Return ``one / other``, 0 where ``other`` is 0."""
    quotient: Floats = np.divide(one, other, out=np.zeros_like(one), where=other > 0)
    return quotient
