"""SavedModel to ``.tflite``, as a program of its own: ``python -m atoll_trainer.convert``.

TensorFlow and tflite-runtime do not live in one process, and the converter speaks to stderr as it likes.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atoll_trainer.quiet_tensorflow import tf


def convert(saved_model: Path, windows: NDArray[np.float32] | None) -> bytes:
    """Return the model as a ``.tflite`` file: float32, or int8 throughout when there are ``windows``.

    Args:
        saved_model: Folder of a SavedModel with one input of batch 1.
        windows: Normalised, shape (n, ...): what the ranges of the int8 numbers are measured on.
    """
    converter = tf.lite.TFLiteConverter.from_saved_model(str(saved_model), signature_keys=["serving_default"])
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
    """Convert ``SAVED_MODEL`` to ``OUT``, quantised by the windows in ``NPY`` if it is given."""
    saved_model, out, *npy = map(Path, arguments)
    out.write_bytes(convert(saved_model, np.load(npy[0]) if npy else None))


if __name__ == "__main__":
    main(sys.argv[1:])
