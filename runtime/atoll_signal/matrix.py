"""From the samples of windows to feature matrices: the one place where features are computed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from atoll_contract.feature import CALENDAR, SPECTRAL, SUMMARIES, Feature, FeatureKind
from atoll_contract.manifest import Manifest
from atoll_signal.season import Season
from atoll_signal.series import Floats, Series, Spectra

_FIGURES: Final[dict[FeatureKind, Callable[[Series], Floats]]] = {
    FeatureKind.MEAN: lambda series: series.mean,
    FeatureKind.STD: lambda series: series.std,
    FeatureKind.MIN: lambda series: series.min,
    FeatureKind.MAX: lambda series: series.max,
    FeatureKind.RANGE: lambda series: series.range,
    FeatureKind.RMS: lambda series: series.rms,
    FeatureKind.ROUGHNESS: lambda series: series.roughness,
    FeatureKind.SLOPE: lambda series: series.slope,
    FeatureKind.KURTOSIS: lambda series: series.kurtosis,
    FeatureKind.CREST: lambda series: series.crest,
}


@dataclass(frozen=True, slots=True)
class Samples:
    """The samples of one window, before features are computed.

    Attributes:
        rows: float32, shape (readings, raw columns), oldest first, in the values' units.
        times_ms: Their event times; only calendar features need them.
    """

    rows: NDArray[np.float32]
    times_ms: Floats | None = None


class FeatureMatrix:
    """Computes the features of a manifest.

    A row of samples has the numbers of the manifest's sources, then the columns of its calendar
    features (see :meth:`seasoned`).

    Attributes:
        width: How many numbers a row of samples has.

    Raises:
        BundleRejectedError: This machine does not know the manifest's time zone.
    """

    def __init__(self, manifest: Manifest) -> None:
        self.season = Season(manifest)
        self.width = manifest.raw_columns + len(self.season.kinds)
        self._raw = manifest.raw_columns
        self._rows, self._columns, self._length = manifest.rows, manifest.columns, manifest.window.length
        self._is_identity = not manifest.computed
        self._step_ms = manifest.window.step_ms
        self._array_steps = {value.name: value.step_ms for value in manifest.sources if value.shape}
        self._places: dict[str, slice] = {}
        at = 0
        for value in manifest.sources:
            self._places[value.name] = slice(at, at + value.size)
            at += value.size
        self._row_features: list[tuple[slice, str | Feature]] = []
        self._summaries: dict[str, list[tuple[int, Feature]]] = {}
        self._spectral: dict[str, list[tuple[int, Feature]]] = {}
        at = 0
        for item, size in zip(manifest.features, manifest.sizes, strict=True):
            if isinstance(item, str) or item.kind not in SUMMARIES:
                self._row_features.append((slice(at, at + size), item))
            else:
                group = self._spectral if item.kind in SPECTRAL else self._summaries
                group.setdefault(str(item.value), []).append((at, item))
            at += size

    def seasoned(self, rows: NDArray[np.float32], times_ms: Floats) -> NDArray[np.float32]:
        """Return ``rows``, shape (n, raw columns), with the calendar columns of their times."""
        if not self.season.kinds:
            return rows
        columns = [self.season.columns(time_ms) for time_ms in times_ms.tolist()]
        return np.concatenate([rows, np.array(columns, np.float32).reshape(len(rows), -1)], axis=1)

    def of_each(self, windows: Sequence[Samples]) -> NDArray[np.float32]:
        """Return the feature matrices of windows, shape (n, rows, columns)."""
        found = []
        for window in windows:
            times_ms = np.zeros(len(window.rows)) if window.times_ms is None else window.times_ms
            found.append(self.of(self.seasoned(window.rows, times_ms)[None]))
        return np.concatenate(found)

    def of(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the feature matrices of n windows, float32, shape (n, rows, columns).

        Args:
            samples: float32, shape (n, depth, width): k readings or steps, the newest last; of windows
                by duration all those that each of these n holds.
        """
        if self._is_identity:
            return samples[:, samples.shape[1] - self._rows :, : self._raw]
        matrices = np.empty((len(samples), self._rows, self._columns), np.float32)
        if not len(samples):
            return matrices
        self._fill_rows(samples, matrices)
        if self._summaries or self._spectral:
            with np.errstate(over="ignore"):  # beyond float32 it is infinite, and told by the output
                for at, figure in self._figures(samples):
                    matrices[:, 0, at] = figure
        return matrices

    def _fill_rows(self, samples: NDArray[np.float32], matrices: NDArray[np.float32]) -> None:
        end, season = samples.shape[1], self._raw
        for columns, item in self._row_features:
            if isinstance(item, str):
                matrices[:, :, columns] = samples[:, end - self._rows :, self._places[item]]
                continue
            if item.kind in CALENDAR:
                matrices[:, :, columns.start] = samples[:, end - self._rows :, season]
                season += 1
                continue
            place, lag = self._places[str(item.value)].start, item.lag or 0
            before = samples[:, end - self._rows - lag : end - lag, place]
            if item.kind is FeatureKind.DIFFERENCE:
                with np.errstate(over="ignore"):
                    before = samples[:, end - self._rows :, place] - before
            elif item.scale is not None:
                before = np.arcsinh(before.astype(np.float64) / item.scale)
            matrices[:, :, columns.start] = before

    def _figures(self, samples: NDArray[np.float32]) -> Iterator[tuple[int, Floats]]:
        for name, features in self._summaries.items():
            series = Series(self._samples_of(name, samples).reshape(len(samples), -1))
            for at, feature in features:
                if feature.quantile is not None:
                    yield at, series.quantile(feature.quantile)
                else:
                    yield at, _FIGURES[feature.kind](series)
        for name, features in self._spectral.items():
            found = self._samples_of(name, samples)
            array_step_ms = self._array_steps.get(name)
            if array_step_ms is None:  # a number: its readings are the series
                found = found.reshape(len(samples), 1, -1)
            spectra = Spectra(found, array_step_ms or self._step_ms or 1.0)
            for at, feature in features:
                if feature.low_hz is not None and feature.high_hz is not None:
                    yield at, spectra.band(feature.low_hz, feature.high_hz)
                else:
                    yield at, spectra.peak_hz

    def _samples_of(self, name: str, samples: NDArray[np.float32]) -> Floats:
        """Return the samples of a value in each window: float64, shape (n, readings, size), contiguous."""
        return samples[:, -self._length :, self._places[name]].astype(np.float64, order="C")
