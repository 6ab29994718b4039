"""From a fitted model to model files: float32, and full-integer int8 that an Edge TPU can take."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import numpy as np
from numpy.typing import NDArray

from atoll_contract.errors import BundleRejectedError, Reason
from atoll_contract.manifest import Dtype
from atoll_infer.runtime import TfliteModel
from atoll_link.files import write_whole
from atoll_signal.features import Normaliser
from atoll_trainer.bundling import load
from atoll_trainer.runs import Run

_MOST_REPRESENTATIVES: Final = 5_000
_DEADLINE_S: Final = 1_800.0


def optimise(run: Run) -> tuple[TfliteModel, TfliteModel]:
    """Write ``model_float.tflite`` and ``model_int8.tflite`` and return both, loaded.

    The ranges of the int8 numbers come from the training part alone.

    Raises:
        ConfigError: This is no complete run folder.
        BundleRejectedError: TensorFlow cannot convert the model, or a file came out otherwise than
            it must be.
    """
    windows = Normaliser(run.manifest()).normalise(representatives(run.split().train.windows))
    models = []
    for path, dtype, ranges in (
        (run.float_model, Dtype.FLOAT32, None),
        (run.int8_model, Dtype.INT8, windows),
    ):
        content = _convert(run.saved_model, ranges)
        model = load(path, content, dtype)
        write_whole(path, content)
        models.append(model)
    return models[0], models[1]


def representatives(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return windows that span what ``windows`` hold: evenly spaced ones, and those with the extremes."""
    if len(windows) <= _MOST_REPRESENTATIVES:
        return windows
    chosen = set(np.linspace(0, len(windows) - 1, _MOST_REPRESENTATIVES).astype(int).tolist())
    flat = windows.reshape(len(windows), -1)
    chosen |= {int(place) for place in (*flat.argmin(axis=0), *flat.argmax(axis=0))}
    return windows[sorted(chosen)]


def convert_in_child(saved_model: Path, windows: NDArray[np.float32]) -> bytes:
    """Return the int8 ``.tflite`` file of a SavedModel of batch 1, made in a process of its own.

    Raises:
        BundleRejectedError: TensorFlow cannot convert it.
    """
    return _convert(saved_model, windows)


def _convert(saved_model: Path, windows: NDArray[np.float32] | None) -> bytes:
    """Run :mod:`atoll_trainer.convert` in a process of its own."""
    with TemporaryDirectory(prefix="atoll-") as folder:
        out, npy = Path(folder, "model.tflite"), Path(folder, "windows.npy")
        command = [sys.executable, "-m", "atoll_trainer.convert", str(saved_model), str(out)]
        if windows is not None:
            np.save(npy, windows)
            command.append(str(npy))
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_DEADLINE_S)  # noqa: S603
        except subprocess.CalledProcessError as error:
            last = (error.stderr.strip().splitlines() or [f"status {error.returncode}"])[-1]
            message = f"{saved_model}: TensorFlow cannot convert it: {last[:300]}"
            raise BundleRejectedError(message, Reason.MODEL_UNREADABLE) from error
        except subprocess.TimeoutExpired as error:
            message = f"{saved_model}: not converted within {_DEADLINE_S:.0f} s"
            raise BundleRejectedError(message, Reason.MODEL_UNREADABLE) from error
        return out.read_bytes()
