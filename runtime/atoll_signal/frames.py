"""The whole way from readings to feature matrices, for whatever a manifest asks.

complete the reading -> cut the window -> compute the features. Where the input is the values themselves of
readings as they come (``manifest.is_plain``), :class:`atoll_signal.features.FeatureRow` and
:class:`atoll_signal.window.Windows` are all of it, and faster.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from atoll_contract.manifest import Manifest
from atoll_contract.messages import Quality, Value
from atoll_signal.cut import Cut
from atoll_signal.features import valid_range
from atoll_signal.grid import GridState, GridWindows
from atoll_signal.matrix import FeatureMatrix, Samples
from atoll_signal.numbers import Joining, Known, Numbers
from atoll_signal.timed import TimedState, TimedWindows
from atoll_signal.window import Windows, WindowState

_FLOAT32_BYTES: Final = 4
_ROW_BYTES: Final = 120
"""Of a row that is an object of its own: its header, its time, its place in the lists."""
_AT_ONCE: Final = 1_000_000
"""Numbers that are turned into features together."""


class Frame(msgspec.Struct, gc=False, eq=False):
    """What a model is asked about.

    Attributes:
        features: The feature matrix, packed float32.
        time_ms: Event time of the newest reading in the window, or of its newest step.
        start_ms: Event time of the first one.
        count: How many readings or steps it holds.
        quality: What to know of it.
    """

    features: bytes
    time_ms: float
    start_ms: float
    count: int
    quality: tuple[Quality, ...]


class FramesState(msgspec.Struct):
    """What survives a restart; the windows that the manifest does not have are empty."""

    counted: dict[str, WindowState] = {}
    grid: dict[str, GridState] = {}
    timed: dict[str, TimedState] = {}
    known: dict[str, Known] = {}


class Frames:
    """The frames of one model, of any number of devices.

    Args:
        manifest: Of the model.
        units: The unit that each value is sent in; by default what the manifest needs.
        max_devices: For how many devices windows are kept; the one silent longest goes first.
        has_restarted: Whether predictions are missing before the first window of a device.

    Raises:
        BundleRejectedError: This machine does not know the manifest's time zone.
        ValueError: A value cannot be converted.
    """

    def __init__(
        self,
        manifest: Manifest,
        units: Mapping[str, str | None] | None = None,
        *,
        max_devices: int,
        has_restarted: bool = False,
    ) -> None:
        spec = manifest.window
        self._manifest = manifest
        self.matrix = FeatureMatrix(manifest)
        self._numbers = Numbers(manifest, units)
        self._low, self._high = valid_range(manifest.sources)
        self._has_range = bool(np.isfinite(self._low).any() or np.isfinite(self._high).any())
        self._columns = manifest.raw_columns
        self._lags = manifest.depth - spec.length
        self._length = spec.length
        self._step_ms = spec.step_ms or 1.0
        self._pack = struct.Struct(f"={self.matrix.width}f").pack
        joins = spec.resample is None and (spec.impute is not None or spec.max_age_ms is not None)
        self._joining = Joining(manifest, max_devices) if joins else None
        self._counted: Windows | None = None
        self._grid: GridWindows | None = None
        self._timed: TimedWindows | None = None
        if spec.resample is not None:
            fills = [value.fill for value in manifest.sources]
            self._grid = GridWindows(
                spec,
                manifest.depth,
                fills,
                self.matrix.season,
                max_devices=max_devices,
                has_restarted=has_restarted,
            )
        elif spec.duration_ms is not None:
            self._timed = TimedWindows(spec, max_devices=max_devices, has_restarted=has_restarted)
        else:
            deep = spec.model_copy(update={"length": manifest.depth})
            self._counted = Windows(
                deep, self.matrix.width, max_devices=max_devices, has_restarted=has_restarted
            )

    @staticmethod
    def size_bytes(manifest: Manifest) -> int:
        """Return the memory that the window of one device takes at most."""
        width = FeatureMatrix(manifest).width
        if manifest.window.duration_ms is not None:
            return 2 * manifest.depth * (_FLOAT32_BYTES * width + _ROW_BYTES)
        return manifest.depth * (2 * _FLOAT32_BYTES * width + 2 * _FLOAT32_BYTES)

    @property
    def forgotten(self) -> int:
        """How many devices lost their window to make room."""
        return sum(
            windows.forgotten for windows in (self._counted, self._grid, self._timed) if windows is not None
        )

    @property
    def late(self) -> int:
        """How many readings came too late for their window."""
        windows = self._grid or self._timed
        return windows.late if windows is not None else 0

    @property
    def skipped(self) -> int:
        """How many tumbling windows were completed together with a newer one, which is the one told."""
        windows = self._grid or self._timed
        return windows.skipped if windows is not None else 0

    @property
    def incomplete(self) -> int:
        """How many readings lacked values that nothing stands for."""
        return self._joining.incomplete if self._joining is not None else 0

    def take(
        self, device: str, values: Mapping[str, Value], time_ms: float, step_ms: float | None = None
    ) -> Frame | None:
        """Take in a reading of ``device``; return the newest window that it completes.

        Raises:
            MalformedMessageError: It lacks what the model needs.
        """
        made = self.cut(device, self._numbers.of(values, step_ms), time_ms)
        return None if made is None else self.frame(made)

    def cut(self, device: str, numbers: Sequence[float], time_ms: float) -> Cut | None:
        """Do the first half of :meth:`take`: return the samples of the window that is complete.

        Args:
            device: Whose reading it is.
            numbers: As :class:`atoll_signal.numbers.Numbers` reads them.
            time_ms: Its event time.
        """
        if self._grid is not None:
            return self._grid.push(device, numbers, time_ms)
        is_imputed = False
        if self._joining is not None:
            whole = self._joining.fill(device, numbers, time_ms)
            if whole is None:
                return None
            numbers, is_imputed = whole
        row = self._pack(*numbers, *self.matrix.season.columns(time_ms))
        if self._timed is not None:
            return self._timed.push(device, row, time_ms, is_imputed=is_imputed)
        return self._count(device, row, time_ms, is_imputed=is_imputed)

    def samples(self, made: Cut) -> Samples:
        """Return the samples of a window with their times."""
        rows = np.frombuffer(made.samples, np.float32).reshape(-1, self.matrix.width)
        if made.times_ms is not None:
            return Samples(rows[:, : self._columns], np.array(made.times_ms))
        steps = np.arange(1 - len(rows), 1) + round(made.end_ms / self._step_ms)
        return Samples(rows[:, : self._columns], steps * self._step_ms)

    def frame(self, made: Cut) -> Frame:
        """Do the second half of :meth:`take`."""
        samples = np.frombuffer(made.samples, np.float32).reshape(1, -1, self.matrix.width)
        quality: list[Quality] = []
        if made.has_gap:
            quality.append(Quality.GAP)
        if made.is_late:
            quality.append(Quality.LATE)
        if made.is_imputed:
            quality.append(Quality.IMPUTED)
        if self._has_range and self.is_out_of_range(samples)[0]:
            quality.append(Quality.OUT_OF_RANGE)
        features = self.matrix.of(samples).tobytes()
        return Frame(features, made.end_ms, made.start_ms, made.count, tuple(quality))

    def matrices(self, cuts: Sequence[Cut]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return the feature matrices of many windows, and which are out of range: as :meth:`frame` does.

        Returns:
            float32, shape (n, rows, columns), and shape (n,).
        """
        matrices: list[NDArray[np.float32]] = []
        outside: list[NDArray[np.bool_]] = []
        places: list[int] = []
        sizes: dict[int, list[int]] = {}
        for place, made in enumerate(cuts):
            sizes.setdefault(len(made.samples), []).append(place)
        for size, alike in sizes.items():
            most = max(1, _AT_ONCE * _FLOAT32_BYTES // size)
            for start in range(0, len(alike), most):
                chosen = alike[start : start + most]
                packed = b"".join([cuts[place].samples for place in chosen])
                samples = np.frombuffer(packed, np.float32).reshape(len(chosen), -1, self.matrix.width)
                matrices.append(self.matrix.of(samples))
                outside.append(self.is_out_of_range(samples))
                places += chosen
        order = np.argsort(np.array(places, np.int64))
        return np.concatenate(matrices)[order], np.concatenate(outside)[order]

    def is_out_of_range(self, samples: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Return which of n windows, shape (n, depth, width), hold a number outside its valid range."""
        raw = samples[:, :, : self._columns]
        outside: NDArray[np.bool_] = ((raw < self._low) | (raw > self._high)).any(axis=(1, 2))
        return outside

    def adjust(self, max_devices: int, units: Mapping[str, str | None]) -> None:
        """Keep windows for so many devices at the most, of readings in these units.

        Raises:
            ValueError: A value cannot be converted.
        """
        self._numbers = Numbers(self._manifest, units)
        if self._counted is not None:
            self._counted.max_devices = max_devices
        if self._grid is not None:
            self._grid.limit(max_devices)
        if self._timed is not None:
            self._timed.limit(max_devices)
        if self._joining is not None:
            self._joining.devices.most = max_devices

    def adopt(self, other: Frames) -> None:
        """Begin with the windows of ``other``, whose columns must be the same, as far as they are alike."""
        if self._counted is not None and other._counted is not None:
            self._counted.adopt(other._counted)
        elif self._grid is not None and other._grid is not None:
            self._grid.adopt(other._grid)
        elif self._timed is not None and other._timed is not None:
            self._timed.adopt(other._timed)
        if self._joining is not None and other._joining is not None:
            for device, known in other._joining.devices:
                twin = Known([*known.times_ms], [*known.numbers], known.imputed_left)
                self._joining.devices.put(device, twin)

    def state(self) -> FramesState:
        """Return what survives a restart."""
        return FramesState(
            counted=self._counted.state() if self._counted is not None else {},
            grid=self._grid.state() if self._grid is not None else {},
            timed=self._timed.state() if self._timed is not None else {},
            known=dict(self._joining.devices) if self._joining is not None else {},
        )

    def restore(self, state: FramesState) -> None:
        """Begin with what was kept.

        Raises:
            ValueError: It is of other columns.
        """
        if self._counted is not None:
            self._counted.restore(state.counted)
        if self._grid is not None:
            self._grid.restore(state.grid)
        if self._timed is not None:
            self._timed.restore(state.timed)
        if self._joining is not None:
            for device, known in state.known.items():
                self._joining.devices.put(device, known)

    def _count(self, device: str, row: bytes, time_ms: float, *, is_imputed: bool) -> Cut | None:
        if self._counted is None:
            raise RuntimeError("windows by count that are none")
        window = self._counted.push(device, row, time_ms)
        if self._joining is not None:
            is_imputed = self._joining.is_imputed(device, is_imputed=is_imputed)
        if window is None:
            return None
        times = window.times_ms
        start_ms = times[self._lags] if self._lags < len(times) else time_ms
        has_gap = window.take_gap()
        return Cut(
            window.packed,
            start_ms,
            time_ms,
            self._length,
            has_gap,
            is_imputed=is_imputed,
            times_ms=times,
        )
