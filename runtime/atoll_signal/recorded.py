"""All windows of a recording at once: what :class:`atoll_signal.frames.Frames` gives reading by reading.

The figures are equal to the last bit: features are computed by the same code, and windows by time, of
steps or of completed readings are cut by it too. Only windows of readings as they come, which are mere
slices, are cut another way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, overload

import numpy as np
from numpy.typing import NDArray

from atoll_contract.manifest import Manifest, WindowKind
from atoll_signal.cut import Cut
from atoll_signal.frames import Frames
from atoll_signal.matrix import Samples

_AT_ONCE: Final = 1_000_000
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Recorded:
    """The n windows of one device's recording, in the order in which they were completed.

    Attributes:
        features: Feature matrices, float32, shape (n, rows, columns).
        places: Which reading completed each, shape (n,), as all that follow.
        end_ms: Event time of its newest reading or step.
        has_gap: Whether readings are missing in it.
        is_late: Whether a reading came too late for it.
        is_imputed: Whether it holds a number that stands for a missing one.
        is_out_of_range: Whether it holds a number outside its value's valid range.
        samples: Of each, before features are computed.
    """

    features: NDArray[np.float32]
    places: NDArray[np.int64]
    end_ms: NDArray[np.float64]
    has_gap: Flags
    is_late: Flags
    is_imputed: Flags
    is_out_of_range: Flags
    samples: Sequence[Samples]

    def __len__(self) -> int:
        return len(self.places)


def recorded(manifest: Manifest, rows: NDArray[np.float32], times_ms: NDArray[np.float64]) -> Recorded:
    """Return the windows of one device.

    Args:
        manifest: Says which.
        rows: Its readings in order of arrival, as :class:`atoll_signal.numbers.Numbers` reads them,
            shape (m, raw columns); NaN for what is missing.
        times_ms: Their event times, shape (m,).

    Raises:
        BundleRejectedError: This machine does not know the manifest's time zone.
    """
    frames = Frames(manifest, max_devices=1)
    spec = manifest.window
    if spec.is_plain:
        return _sliced(manifest, frames, rows, times_ms)
    cuts: list[Cut] = []
    places: list[int] = []
    numbers = rows.tolist()
    for place, time_ms in enumerate(times_ms.tolist()):
        made = frames.cut("", numbers[place], time_ms)
        if made is not None:
            cuts.append(made)
            places.append(place)
    if not cuts:
        return _none(manifest)
    features, is_out_of_range = frames.matrices(cuts)
    return Recorded(
        features,
        np.array(places, np.int64),
        np.array([made.end_ms for made in cuts]),
        np.array([made.has_gap for made in cuts]),
        np.array([made.is_late for made in cuts]),
        np.array([made.is_imputed for made in cuts]),
        is_out_of_range,
        [frames.samples(made) for made in cuts],
    )


@dataclass(frozen=True, slots=True)
class _Slices(Sequence[Samples]):
    """Windows that are slices, each made when it is asked for."""

    rows: NDArray[np.float32]
    times_ms: NDArray[np.float64]
    places: NDArray[np.int64]
    depth: int

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, at: int) -> Samples: ...
    @overload
    def __getitem__(self, at: slice) -> Sequence[Samples]: ...
    def __getitem__(self, at: int | slice) -> Samples | Sequence[Samples]:
        if isinstance(at, slice):
            return _Slices(self.rows, self.times_ms, self.places[at], self.depth)
        end = int(self.places[at]) + 1
        return Samples(self.rows[end - self.depth : end], self.times_ms[end - self.depth : end])


def _sliced(
    manifest: Manifest, frames: Frames, rows: NDArray[np.float32], times_ms: NDArray[np.float64]
) -> Recorded:
    depth, spec = manifest.depth, manifest.window
    if len(rows) < depth:
        return _none(manifest)
    step = depth if spec.kind is WindowKind.TUMBLING else 1
    seasoned = frames.matrix.seasoned(rows, times_ms)
    windows = np.lib.stride_tricks.sliding_window_view(seasoned, depth, axis=0)[::step].swapaxes(1, 2)
    places = np.arange(depth - 1, len(rows), step)
    most = max(1, _AT_ONCE // (depth * frames.matrix.width))
    parts = [np.ascontiguousarray(windows[at : at + most]) for at in range(0, len(windows), most)]
    features = np.concatenate([frames.matrix.of(part) for part in parts])
    outside = np.concatenate([frames.is_out_of_range(part) for part in parts])
    limit_ms = np.inf if spec.max_gap_ms is None else spec.max_gap_ms
    gaps = np.concatenate([[0], np.cumsum(np.diff(times_ms) > limit_ms)])
    never = np.zeros(len(places), np.bool_)
    return Recorded(
        features,
        places,
        times_ms[places],
        gaps[places] > gaps[places - depth + 1],
        never,
        never,
        outside,
        _Slices(rows, times_ms, places, depth),
    )


def _none(manifest: Manifest) -> Recorded:
    nothing = np.zeros(0, np.bool_)
    features = np.zeros((0, manifest.rows, manifest.columns), np.float32)
    return Recorded(features, np.zeros(0, np.int64), np.zeros(0), nothing, nothing, nothing, nothing, [])
