"""From a feature matrix to what a prediction says: the whole path of one model.

normalise -> quantise -> invoke -> dequantise -> units -> meaning of the output by task. Trainer and agent
both use this, so that what was evaluated is what answers.
"""

from __future__ import annotations

import math
from typing import Any, Final

import msgspec.structs
import numpy as np
from numpy.typing import NDArray

from atoll_contract.errors import BundleRejectedError, PeerError, Reason
from atoll_contract.manifest import Dtype, Manifest, Task, TensorSpec
from atoll_contract.messages import Quality
from atoll_contract.reference import Reference
from atoll_infer.model_file import is_same_tensor, shown
from atoll_infer.runtime import Model, ModelFailedError, TfliteModel
from atoll_signal.features import Normaliser
from atoll_signal.picture import require_decoder, takes_pictures

_MAX_PROBABILITIES: Final = 5
_NO_FLAGS: Final[tuple[Quality, ...]] = ()
_LIMITS: Final = {Dtype.INT8: (-128, 127), Dtype.UINT8: (0, 255)}


class ModelOutputError(PeerError):
    """The model answered NaN or infinity, or failed."""

    default_reason = Reason.OUTPUT_NOT_FINITE


class Answer(msgspec.Struct, frozen=True, gc=False):
    """What the model says of one window.

    Attributes:
        value: The one number that a chart shows.
        output: More, by task; None when there is no more.
        quality: Flags that the samples earned.
    """

    value: float
    output: dict[str, Any] | None
    quality: tuple[Quality, ...]


Which = NDArray[np.bool_] | None
"""Which of n windows something is true of, shape (n,); None: of none."""


def quantise(tensors: NDArray[np.float32], spec: TensorSpec) -> tuple[NDArray[Any], Which]:
    """Return ``round(x / scale) + zero_point``, clipped to the dtype, and which of the n were clipped.

    Rounds half to even. Source: TensorFlow Lite 8-bit quantization specification.

    Args:
        tensors: Shape (n, ...).
        spec: How the tensor of the model file is quantised.
    """
    if spec.dtype is Dtype.FLOAT32:
        return tensors, None
    low, high = _LIMITS[spec.dtype]
    exact = np.rint(tensors / np.float32(spec.scale)) + spec.zero_point
    clipped = np.clip(exact, low, high)
    is_clipped = clipped != exact
    which = is_clipped.reshape(len(tensors), -1).any(axis=1) if is_clipped.any() else None
    return clipped.astype(spec.dtype.value), which


def dequantise(tensors: NDArray[Any], spec: TensorSpec) -> NDArray[np.floating[Any]]:
    """Return ``(q - zero_point) * scale``, float64, in the shape of ``tensors``; float ones as they are."""
    if spec.dtype is Dtype.FLOAT32:
        return tensors
    return (tensors.astype(np.float64) - spec.zero_point) * spec.scale


class Predictor:
    """One release, loaded and ready to answer. One owner at a time.

    Attributes:
        manifest: What the release is.
        model: What runs it.
        why: Why that does, for people.
        answer_s: How long one answer takes here, as :func:`atoll_infer.tuning.tune` found; 0 before.
        reference: How features and outputs were spread where it learnt, if its bundle tells.
        reference_fault: Why what the bundle tells of it cannot be used, for people.

    Raises:
        BundleRejectedError: The model file's tensors are not those of the manifest, or it takes pictures
            and nothing here decodes them.
    """

    def __init__(self, manifest: Manifest, model: Model) -> None:
        _require_tensors(manifest, model)
        if takes_pictures(manifest):
            require_decoder()
        self.manifest = manifest
        self.model = model
        self.why = ""
        self._normaliser = Normaliser(manifest)
        self._input = manifest.inputs[0]
        self._output = manifest.outputs[0]
        self._input_shape = tuple(self._input.shape[1:])
        self._base_column = manifest.base_column
        self._batch: _Batch | None = None
        self.answer_s = 0.0
        self.reference: Reference | None = None
        self.reference_fault: str | None = None

    @property
    def backend(self) -> str:
        """What runs it now, for people."""
        return self.model.backend

    def use_batches(self, model: TfliteModel, *, pays_from: int) -> bool:
        """Answer with ``model``, which takes several inputs at once, where ``pays_from`` or more wait.

        Returns False, and nothing is changed, where its tensors are not the manifest's in a batch.
        """
        found, given = model.inputs[0], model.outputs[0]
        size = found.shape[0]
        if given.shape[0] != size or not (_is_batch(self._input, found) and _is_batch(self._output, given)):
            return False
        self._batch = _Batch(model, size, pays_from)
        return True

    def use_no_batches(self) -> None:
        """Answer one input after the other again."""
        self._batch = None

    def invoke(self, windows: NDArray[np.float32]) -> tuple[NDArray[Any], Which]:
        """Return the raw outputs, shape (n, size), and which of the n inputs were saturated.

        Args:
            windows: Feature matrices, float32, shape (n, rows, columns), before normalisation.

        Raises:
            ModelFailedError: The model fails on one of them.
        """
        normal = self._normaliser.normalise(windows).reshape(-1, *self._input_shape)
        tensors, is_saturated = quantise(normal, self._input)
        return self._invoke(tensors), is_saturated

    def numbers(self, windows: NDArray[np.float32]) -> tuple[NDArray[np.floating[Any]], Which]:
        """Return the outputs in the unit of the prediction, shape (n, size), and which inputs were saturated.

        Args:
            windows: As in :meth:`invoke`.

        Raises:
            ModelFailedError: The model fails on one of them.
        """
        tensors, is_saturated = self.invoke(windows)
        numbers = self._in_units(dequantise(tensors, self._output))
        if self._base_column is not None:
            numbers = numbers.astype(np.float64) + windows[:, -1, self._base_column, None]
        return numbers, is_saturated

    def answers(self, windows: NDArray[np.float32]) -> list[Answer | Reason]:
        """Return what the model says of each window (as in :meth:`invoke`), or why it says nothing.

        ``output_not_finite`` stands for an output that holds NaN or infinity, ``model_failed`` for
        none at all.
        """
        try:
            numbers, is_saturated = self.numbers(windows)
        except ModelFailedError as error:
            if len(windows) == 1:
                return [error.reason]
            return [self.answers(window[None])[0] for window in windows]
        outputs: list[list[float]] = numbers.tolist()
        found: list[Any] = [Answer(*self._meaning(output), _NO_FLAGS) for output in outputs]
        self._raise_flags(found, self._normaliser.is_out_of_range(windows), Quality.OUT_OF_RANGE)
        self._raise_flags(found, is_saturated, Quality.SATURATED)
        if self.model.is_degraded:
            self._raise_flags(found, np.ones(len(found), np.bool_), Quality.DEGRADED)
        # The sum is finite only if all are; were it to overflow, the closer look would find nothing.
        # Of a few numbers it is found sooner here than by numpy.
        if not math.isfinite(sum(map(sum, outputs))):
            for place, output in enumerate(outputs):
                if not all(map(math.isfinite, output)):
                    found[place] = Reason.OUTPUT_NOT_FINITE
        return found

    def answer(self, window: NDArray[np.float32]) -> Answer:
        """Return what the model says of one window, shape (rows, columns).

        Raises:
            ModelOutputError: The output holds NaN or infinity, or there is none.
        """
        (found,) = self.answers(window[None])
        if isinstance(found, Reason):
            raise ModelOutputError(f"model {self.manifest.model}: no finite output", found)
        return found

    @staticmethod
    def _raise_flags(found: list[Any], which: Which, flag: Quality) -> None:
        if which is not None:
            for place in np.flatnonzero(which).tolist():
                quality = (*found[place].quality, flag)
                found[place] = msgspec.structs.replace(found[place], quality=quality)

    def _invoke(self, tensors: NDArray[Any]) -> NDArray[Any]:
        if len(tensors) == 1:
            return self.model.invoke(tensors).reshape(1, -1)
        batch = self._batch
        parts: list[NDArray[Any]] = []
        at = 0
        while at < len(tensors):
            if batch is not None and len(tensors) - at >= batch.pays_from:
                part = tensors[at : at + batch.size]
                parts.append(batch.invoke(part))
                at += len(part)
            else:
                parts.append(self.model.invoke(tensors[at : at + 1]).reshape(1, -1))
                at += 1
        return np.concatenate(parts)

    def _in_units(self, outputs: NDArray[np.floating[Any]]) -> NDArray[np.floating[Any]]:
        """Return ``outputs`` in the unit of the prediction; those of a classifier have none."""
        spec = self.manifest.output
        if self.manifest.task is Task.CLASSIFICATION or (spec.scale == 1.0 and spec.offset == 0.0):
            return outputs
        with np.errstate(over="ignore"):  # what overflows is infinite, and told as such
            return outputs.astype(np.float64) * spec.scale + spec.offset

    def _meaning(self, output: list[float]) -> tuple[float, dict[str, Any] | None]:
        spec = self.manifest.output
        match self.manifest.task:
            case Task.REGRESSION:
                if spec.below is None or spec.above is None:
                    return output[0], None
                return output[0], {"low": output[0] - spec.below, "high": output[0] + spec.above}
            case Task.CLASSIFICATION:
                return self._classes(output)
            case Task.FORECAST if len(output) == 1:
                return output[0], None
            case Task.FORECAST:
                return output[0], {"values": output, "step_ms": spec.step_ms}
            case Task.ANOMALY:
                score, threshold = output[0], spec.threshold
                is_anomaly = threshold is not None and score > threshold
                return score, {"score": score, "threshold": threshold, "anomaly": is_anomaly}

    def _classes(self, output: list[float]) -> tuple[float, dict[str, Any]]:
        labels = self.manifest.output.labels
        # Stable: of equal probabilities the label that stands first.
        best = sorted(range(len(output)), key=lambda index: -output[index])[:_MAX_PROBABILITIES]
        names = [labels[index] if labels else str(index) for index in best]
        probabilities = {name: output[index] for name, index in zip(names, best, strict=True)}
        return float(best[0]), {"label": names[0], "probabilities": probabilities}


class _Batch:
    """A model that takes ``size`` inputs at once; fewer are filled up with what was there before."""

    def __init__(self, model: TfliteModel, size: int, pays_from: int) -> None:
        self.size = size
        self.pays_from = pays_from
        self._model = model
        self._staged = np.zeros(model.inputs[0].shape, model.inputs[0].dtype.value)

    def invoke(self, tensors: NDArray[Any]) -> NDArray[Any]:
        """Return the outputs, shape (n, size of an output), for at most ``size`` inputs."""
        self._staged[: len(tensors)] = tensors
        return self._model.invoke(self._staged).reshape(self.size, -1)[: len(tensors)]


def _require_tensors(manifest: Manifest, model: Model) -> None:
    for side in ("inputs", "outputs"):
        declared, found = getattr(manifest, side), getattr(model, side)
        if len(found) != 1:
            message = f"the model file has {len(found)} {side}; models with one can be run"
            raise BundleRejectedError(message, Reason.UNSUPPORTED_TENSORS)
        if not is_same_tensor(declared[0], found[0]):
            message = f"{side}: the manifest says {shown(declared[0])}, the model file {shown(found[0])}"
            raise BundleRejectedError(message, Reason.UNSUPPORTED_TENSORS)


def _is_batch(declared: TensorSpec, found: TensorSpec) -> bool:
    return is_same_tensor(declared, found.model_copy(update={"shape": [1, *found.shape[1:]]}))
