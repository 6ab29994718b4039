"""SavedModels to ``.tflite``, as a program of its own: ``python -m atoll_trainer.convert JOBS``.

TensorFlow and tflite-runtime do not live in one process, and the converter speaks to stderr as it likes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from atoll_contract.errors import BundleRejectedError, Reason

_DEADLINE_S: Final = 1_800.0


@dataclass(frozen=True, slots=True)
class Conversion:
    """A model to be converted.

    Attributes:
        saved_model: Folder of a SavedModel with one input of batch 1.
        windows: Normalised, shape (n, ...): what the ranges of the int8 numbers are measured on; None: it
            stays float32.
    """

    saved_model: Path
    windows: NDArray[np.float32] | None


def convert(conversions: Sequence[Conversion]) -> list[bytes]:
    """Return the model files, made in a process of their own.

    Raises:
        BundleRejectedError: TensorFlow cannot convert one.
    """
    with TemporaryDirectory(prefix="atoll-") as folder:
        jobs = []
        for number, one in enumerate(conversions):
            npy = Path(folder, f"{number}.npy")
            if one.windows is not None:
                np.save(npy, one.windows)
            out = str(Path(folder, f"{number}.tflite"))
            jobs.append([str(one.saved_model), out, None if one.windows is None else str(npy)])
        listed = Path(folder, "jobs.json")
        listed.write_text(json.dumps(jobs), encoding="utf-8")
        names = ", ".join(dict.fromkeys(str(one.saved_model) for one in conversions))
        command = [sys.executable, "-m", "atoll_trainer.convert", str(listed)]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=_DEADLINE_S)  # noqa: S603
        except subprocess.CalledProcessError as error:
            last = (error.stderr.strip().splitlines() or [f"status {error.returncode}"])[-1]
            message = f"{names}: TensorFlow cannot convert it: {last[:300]}"
            raise BundleRejectedError(message, Reason.MODEL_UNREADABLE) from error
        except subprocess.TimeoutExpired as error:
            message = f"{names}: not converted within {_DEADLINE_S:.0f} s"
            raise BundleRejectedError(message, Reason.MODEL_UNREADABLE) from error
        return [Path(folder, f"{number}.tflite").read_bytes() for number in range(len(jobs))]


def _converted(saved_model: str, windows: NDArray[np.float32] | None) -> bytes:
    """Return the model as a ``.tflite`` file: float32, or int8 throughout when there are ``windows``."""
    from atoll_trainer.quiet_tensorflow import tf  # noqa: PLC0415 - only in a process of its own

    converter = tf.lite.TFLiteConverter.from_saved_model(saved_model, signature_keys=["serving_default"])
    if windows is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
        converter.representative_dataset = lambda: _batches(windows)
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = tf.int8
        # Weights with a scale per row are newer than the Edge TPU compiler, and TFLite Micro once
        # computed them wrongly.
        converter._experimental_disable_per_channel_quantization_for_dense_layers = True  # noqa: SLF001
    content: bytes = converter.convert()
    return content


def _batches(windows: NDArray[np.float32]) -> Iterator[list[Any]]:
    for window in windows:
        yield [window.reshape(1, -1)]


def main(arguments: list[str]) -> None:
    """Convert what the file of jobs lists: SavedModel, file to write, windows or null."""
    for saved_model, out, npy in json.loads(Path(arguments[0]).read_text(encoding="utf-8")):
        Path(out).write_bytes(_converted(saved_model, None if npy is None else np.load(npy)))


if __name__ == "__main__":
    main(sys.argv[1:])
