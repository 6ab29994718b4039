"""Golden vectors: raw samples with the outputs that a model file must give for them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atoll_contract.bundle import Bundle, Golden, GoldenCase
from atoll_contract.errors import BundleRejectedError, Reason
from atoll_contract.manifest import DEFAULT_FLOAT_TOLERANCE, DEFAULT_INT8_TOLERANCE_LSB, Dtype, Manifest
from atoll_infer.predictor import Predictor
from atoll_infer.runtime import ModelFailedError, Runtime
from atoll_signal.matrix import FeatureMatrix, Samples


def record(predictor: Predictor, windows: Sequence[Samples] | NDArray[np.float32]) -> Golden:
    """Return golden vectors for ``windows`` (an array: shape (n, readings, raw columns))."""
    samples = [one if isinstance(one, Samples) else Samples(one) for one in windows]
    outputs, _ = predictor.invoke(FeatureMatrix(predictor.manifest).of_each(samples))
    return Golden(
        cases=[
            GoldenCase(
                samples=one.rows.astype(float).tolist(),
                output=output.astype(float).tolist(),
                times_ms=None if one.times_ms is None else one.times_ms.tolist(),
            )
            for one, output in zip(samples, outputs, strict=True)
        ]
    )


def windows(golden: Golden, manifest: Manifest) -> NDArray[np.float32]:
    """Return the feature matrices of all golden vectors, shape (n, rows, columns)."""
    samples = [
        Samples(
            np.array(case.samples, np.float32),
            None if case.times_ms is None else np.array(case.times_ms, np.float64),
        )
        for case in golden.cases
    ]
    return FeatureMatrix(manifest).of_each(samples)


def play(golden: Golden, predictor: Predictor) -> None:
    """Require that ``predictor`` gives the golden outputs.

    Raises:
        BundleRejectedError: It answers otherwise, or not at all.
    """
    try:
        found, _ = predictor.invoke(windows(golden, predictor.manifest))
    except ModelFailedError as error:
        message = f"it fails on its golden vectors: {error.detail}"
        raise BundleRejectedError(message, error.reason) from error
    expected = np.array([case.output for case in golden.cases])
    differences, allowed = _differences(expected, found, predictor.manifest)
    number = int(differences.argmax())
    if differences[number] > allowed:
        unit = "" if predictor.manifest.outputs[0].dtype is Dtype.FLOAT32 else " LSB"
        message = (
            f"golden vector {number}: {predictor.backend} differs by {differences[number]:g}{unit}, "
            f"{allowed:g}{unit} is allowed"
        )
        raise BundleRejectedError(message, Reason.GOLDEN_MISMATCH)


def is_close(expected: NDArray[Any], found: NDArray[Any], manifest: Manifest) -> bool:
    """Whether raw outputs, shape (n, size), are the expected ones but for what a self-test allows."""
    differences, allowed = _differences(expected, found, manifest)
    return bool(differences.max() <= allowed)


def self_test(bundle: Bundle, runtime: Runtime, *, threads: int = 1) -> Predictor:
    """Load the bundle's model, play its golden vectors and return it ready to answer.

    A damaged model file can end the process: call this in a child for a bundle that is new.

    Raises:
        BundleRejectedError: The model cannot be loaded, has other tensors than the manifest says,
            or answers otherwise than the golden outputs.
    """
    predictor = Predictor(bundle.manifest, runtime.load(bundle.model, threads=threads))
    play(bundle.golden, predictor)
    return predictor


def _differences(
    expected: NDArray[Any], found: NDArray[Any], manifest: Manifest
) -> tuple[NDArray[np.float64], float]:
    """Return the largest difference of each of n outputs, infinite for NaN, and what is allowed.

    A float output may differ by a part of the largest output of all cases: one near zero next to large
    ones is rounding.
    """
    exact = np.where(np.isfinite(found), found, np.inf).astype(np.float64)
    differences: NDArray[np.float64] = np.abs(exact - expected).max(axis=1)
    if manifest.outputs[0].dtype is not Dtype.FLOAT32:
        allowed = DEFAULT_INT8_TOLERANCE_LSB if manifest.tolerance is None else manifest.tolerance
        return differences, allowed
    tolerance = DEFAULT_FLOAT_TOLERANCE if manifest.tolerance is None else manifest.tolerance
    return differences, tolerance * float(np.abs(expected).max())
