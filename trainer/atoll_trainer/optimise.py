"""From a fitted model to model files: float32, and full-integer int8 that an Edge TPU can take."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from atoll_contract.manifest import Dtype, Manifest, Task
from atoll_infer.runtime import TfliteModel
from atoll_link.files import write_whole
from atoll_signal.features import Normaliser
from atoll_trainer.bundling import load
from atoll_trainer.convert import Conversion, convert
from atoll_trainer.runs import Run

_MOST_REPRESENTATIVES: Final = 5_000
_MOVED: Final = 200
_BEYOND: Final = 1.5
"""How far beyond normal the windows lie that set the range of an anomaly score, in standard deviations."""


def optimise(run: Run) -> tuple[TfliteModel, TfliteModel]:
    """Write ``model_float.tflite`` and ``model_int8.tflite`` and return both, loaded.

    The ranges of the int8 numbers come from the training part alone.

    Raises:
        ConfigError: This is no complete run folder.
        BundleRejectedError: TensorFlow cannot convert the model, or a file came out otherwise than
            it must be.
    """
    windows = range_windows(run.manifest(), run.split().train.windows)
    conversions = [Conversion(run.saved_model, None), Conversion(run.saved_model, windows)]
    contents = convert(conversions)
    models = []
    for path, content, dtype in (
        (run.float_model, contents[0], Dtype.FLOAT32),
        (run.int8_model, contents[1], Dtype.INT8),
    ):
        model = load(path, content, dtype)
        write_whole(path, content)
        models.append(model)
    return models[0], models[1]


def range_windows(manifest: Manifest, windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return normalised windows of the training part that the ranges of int8 numbers are measured on.

    A score has to have room above what is normal: for an anomaly model some are moved away from it.
    """
    chosen = Normaliser(manifest).normalise(representatives(windows))
    if manifest.task is not Task.ANOMALY:
        return chosen
    moved = chosen[:: max(1, len(chosen) // _MOVED)].copy()
    moved[::2, -1] += _BEYOND
    moved[1::2, -1] -= _BEYOND
    return np.concatenate([chosen, moved])


def representatives(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return windows that span what ``windows`` hold: evenly spaced ones, and those with the extremes."""
    if len(windows) <= _MOST_REPRESENTATIVES:
        return windows
    chosen = set(np.linspace(0, len(windows) - 1, _MOST_REPRESENTATIVES).astype(int).tolist())
    flat = windows.reshape(len(windows), -1)
    chosen |= {int(place) for place in (*flat.argmin(axis=0), *flat.argmax(axis=0))}
    return windows[sorted(chosen)]
