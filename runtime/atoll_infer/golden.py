"""Golden vectors: raw samples with the outputs that a model file must give for them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from atoll_contract.bundle import Bundle, Golden, GoldenCase
from atoll_contract.errors import BundleRejectedError, Reason
from atoll_contract.manifest import DEFAULT_FLOAT_TOLERANCE, DEFAULT_INT8_TOLERANCE_LSB, Dtype
from atoll_infer.predictor import Predictor
from atoll_infer.runtime import Runtime


def record(predictor: Predictor, windows: NDArray[np.float32]) -> Golden:
    """Return golden vectors for ``windows``, shape (n, length, columns), from ``predictor``."""
    outputs, _ = predictor.invoke(windows)
    return Golden(
        cases=[
            GoldenCase(samples=window.astype(float).tolist(), output=output.astype(float).tolist())
            for window, output in zip(windows, outputs, strict=True)
        ]
    )


def windows(golden: Golden) -> NDArray[np.float32]:
    """Return the samples of all golden vectors, shape (n, length, columns)."""
    return np.array([case.samples for case in golden.cases], np.float32)


def play(golden: Golden, predictor: Predictor) -> None:
    """Require that ``predictor`` gives the golden outputs.

    Raises:
        BundleRejectedError: It answers otherwise.
    """
    outputs, _ = predictor.invoke(windows(golden))
    for number, (case, found) in enumerate(zip(golden.cases, outputs, strict=True)):
        _require_close(number, np.array(case.output), found.astype(np.float64), predictor)


def self_test(bundle: Bundle, runtime: Runtime) -> Predictor:
    """Load the bundle's model, play its golden vectors and return it ready to answer.

    A damaged model file can end the process: call this in a child for a bundle that is new.

    Raises:
        BundleRejectedError: The model cannot be loaded, has other tensors than the manifest says,
            or answers otherwise than the golden outputs.
    """
    predictor = Predictor(bundle.manifest, runtime.load(bundle.model))
    play(bundle.golden, predictor)
    return predictor


def _require_close(
    number: int, expected: NDArray[np.float64], found: NDArray[np.float64], predictor: Predictor
) -> None:
    manifest = predictor.manifest
    if manifest.outputs[0].dtype is Dtype.FLOAT32:
        tolerance = DEFAULT_FLOAT_TOLERANCE if manifest.tolerance is None else manifest.tolerance
        # Relative to the largest output of the case: one near zero next to large ones is rounding.
        allowed = tolerance * max(1.0, float(np.abs(expected).max()))
        unit = ""
    else:
        allowed = DEFAULT_INT8_TOLERANCE_LSB if manifest.tolerance is None else manifest.tolerance
        unit = " LSB"
    difference = float(np.abs(found - expected).max()) if np.isfinite(found).all() else float("inf")
    if difference > allowed:
        message = (
            f"golden vector {number}: {predictor.backend} differs by {difference:g}{unit}, "
            f"{allowed:g}{unit} is allowed"
        )
        raise BundleRejectedError(message, Reason.GOLDEN_MISMATCH)
