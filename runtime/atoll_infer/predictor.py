"""From a window of raw samples to what a prediction says: the whole path of one model.

normalise -> quantise -> invoke -> dequantise -> meaning of the output by task. Trainer and agent
both use this, so that what was evaluated is what answers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from atoll_contract.errors import BundleRejectedError, PeerError, Reason
from atoll_contract.manifest import Dtype, Manifest, Task, TensorSpec
from atoll_contract.messages import Quality
from atoll_infer.runtime import TfliteModel
from atoll_signal.features import Normaliser

_MAX_PROBABILITIES: Final = 5
_LIMITS: Final = {Dtype.INT8: (-128, 127), Dtype.UINT8: (0, 255)}


class ModelOutputError(PeerError):
    """The model answered NaN or infinity."""

    default_reason = Reason.OUTPUT_NOT_FINITE


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model says of one window.

    Attributes:
        value: The one number that a chart shows.
        output: More, by task; None when there is no more.
        quality: Flags that the samples earned.
    """

    value: float
    output: dict[str, Any] | None
    quality: tuple[Quality, ...]


def quantise(tensor: NDArray[np.float32], spec: TensorSpec) -> tuple[NDArray[Any], bool]:
    """Return ``round(x / scale) + zero_point``, clipped to the dtype, and whether it was clipped.

    Rounds half to even. Source: TensorFlow Lite 8-bit quantization specification.
    """
    if spec.dtype is Dtype.FLOAT32:
        return tensor.astype(np.float32, copy=False), False
    low, high = _LIMITS[spec.dtype]
    exact = np.rint(tensor / np.float32(spec.scale)) + spec.zero_point
    clipped = np.clip(exact, low, high)
    return clipped.astype(spec.dtype.value), bool((clipped != exact).any())


def dequantise(tensor: NDArray[Any], spec: TensorSpec) -> NDArray[np.float64]:
    """Return ``(q - zero_point) * scale``, flattened row-major."""
    flat = tensor.reshape(-1).astype(np.float64)
    return flat if spec.dtype is Dtype.FLOAT32 else (flat - spec.zero_point) * spec.scale


class Predictor:
    """One release, loaded and ready to answer. One owner at a time.

    Raises:
        BundleRejectedError: The model file's tensors are not those of the manifest.
    """

    def __init__(self, manifest: Manifest, model: TfliteModel) -> None:
        _require_tensors(manifest, model)
        self.manifest = manifest
        self.backend = model.backend
        self._model = model
        self._normaliser = Normaliser(manifest)
        self._input = manifest.inputs[0]
        self._output = manifest.outputs[0]

    def invoke(self, window: NDArray[np.float32]) -> tuple[NDArray[Any], bool]:
        """Return the raw output tensor, flattened, and whether the input was saturated.

        Args:
            window: Raw samples, float32, shape (length, columns), in the values' units.
        """
        normal = self._normaliser.normalise(window).reshape(self._input.shape)
        tensor, is_saturated = quantise(normal, self._input)
        return self._model.invoke(tensor).reshape(-1), is_saturated

    def answer(self, window: NDArray[np.float32]) -> Answer:
        """Return what the model says of ``window`` (as in :meth:`invoke`).

        Raises:
            ModelOutputError: The output holds NaN or infinity.
        """
        tensor, is_saturated = self.invoke(window)
        outputs = dequantise(tensor, self._output)
        if not np.isfinite(outputs).all():
            raise ModelOutputError(f"model {self.manifest.model}: the output is not finite")
        quality = []
        if self._normaliser.is_out_of_range(window):
            quality.append(Quality.OUT_OF_RANGE)
        if is_saturated:
            quality.append(Quality.SATURATED)
        value, output = self._meaning(outputs)
        return Answer(value, output, tuple(quality))

    def _meaning(self, outputs: NDArray[np.float64]) -> tuple[float, dict[str, Any] | None]:
        spec = self.manifest.output
        match self.manifest.task:
            case Task.CLASSIFICATION:
                return self._classes(outputs)
            case Task.FORECAST:
                values = (outputs * spec.scale + spec.offset).tolist()
                if len(values) == 1:
                    return values[0], None
                return values[0], {"values": values, "step_ms": spec.step_ms}
            case Task.ANOMALY:
                score = float(outputs[0] * spec.scale + spec.offset)
                threshold = spec.threshold
                is_anomaly = threshold is not None and score > threshold
                return score, {"score": score, "threshold": threshold, "anomaly": is_anomaly}
            case Task.REGRESSION:
                return float(outputs[0] * spec.scale + spec.offset), None

    def _classes(self, outputs: NDArray[np.float64]) -> tuple[float, dict[str, Any]]:
        labels = self.manifest.output.labels
        best = np.argsort(-outputs, kind="stable")[:_MAX_PROBABILITIES].tolist()
        names = [labels[index] if labels else str(index) for index in best]
        probabilities = {name: float(outputs[index]) for name, index in zip(names, best, strict=True)}
        return float(best[0]), {"label": names[0], "probabilities": probabilities}


def _require_tensors(manifest: Manifest, model: TfliteModel) -> None:
    for side in ("inputs", "outputs"):
        declared, found = getattr(manifest, side), getattr(model, side)
        if len(found) != 1:
            message = f"the model file has {len(found)} {side}; models with one can be run"
            raise BundleRejectedError(message, Reason.UNSUPPORTED_TENSORS)
        if not _is_same(declared[0], found[0]):
            message = f"{side}: the manifest says {_shown(declared[0])}, the model file {_shown(found[0])}"
            raise BundleRejectedError(message, Reason.UNSUPPORTED_TENSORS)


def _is_same(declared: TensorSpec, found: TensorSpec) -> bool:
    return (
        declared.shape == found.shape
        and declared.dtype == found.dtype
        and declared.zero_point == found.zero_point
        and bool(np.isclose(declared.scale, found.scale, rtol=1e-6, atol=0.0))
    )


def _shown(spec: TensorSpec) -> str:
    return f"{spec.dtype.value} {spec.shape} scale {spec.scale:g} zero point {spec.zero_point}"
