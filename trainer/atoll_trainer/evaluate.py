"""What the model files are worth: on the untouched part, in the runtime that devices use."""

from __future__ import annotations

import hashlib
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from atoll_contract.manifest import Dtype, Manifest
from atoll_contract.messages import Quality
from atoll_infer.predictor import Predictor
from atoll_trainer.bundling import load, naming, with_tensors
from atoll_trainer.child import in_child
from atoll_trainer.dataset import Examples, naive
from atoll_trainer.runs import Evaluation, Metrics, ModelMetrics, Run
from atoll_trainer.task import TaskKind

_DEADLINE_S: Final = 3_600.0


@dataclass(frozen=True, slots=True)
class Answers:
    """What one model file says of the test part.

    Attributes:
        backend: What ran it.
        lsb: Step of a quantised output, in the unit of the prediction; 0 for a float one.
        values: In the unit of the prediction, shape (n,).
        latency_us: Median time of one answer, normalisation and quantisation included.
        saturated: Windows with a number outside what the input tensor can hold.
    """

    backend: str
    lsb: float
    values: NDArray[np.float64]
    latency_us: float
    saturated: int


def evaluate(run: Run) -> Evaluation:
    """Return the errors of both model files and of the naive guess, and write ``evaluation.json``.

    Each file answers in a child: a damaged one can end the process that loads it.

    Raises:
        ConfigError: This is no complete run folder.
        BundleRejectedError: A model file cannot be run, or is of another kind.
    """
    task, parts, manifest = run.task(), run.split(), run.manifest()
    test = parts.test
    contents = {path: run.model(path) for path in (run.float_model, run.int8_model)}
    found = []
    for (path, content), dtype in zip(contents.items(), (Dtype.FLOAT32, Dtype.INT8), strict=True):
        with naming(path):
            found.append(in_child(answers, path, content, dtype, manifest, test, deadline_s=_DEADLINE_S))
    float_answers, int8_answers = found
    float_sha256, int8_sha256 = (hashlib.sha256(content).hexdigest() for content in contents.values())
    lsb = int8_answers.lsb
    evaluation = Evaluation(
        windows=len(test),
        backend=int8_answers.backend,
        unit=manifest.output.unit,
        naive_kind="last value" if task.task.kind is TaskKind.FORECAST else "training mean",
        naive=metrics(naive(task, parts.train, test), test),
        float_model=_model_metrics(float_answers, test, float_sha256),
        int8_model=_model_metrics(int8_answers, test, int8_sha256),
        parity_lsb=float(np.abs(float_answers.values - int8_answers.values).max()) / lsb,
        lsb=lsb,
    )
    run.write_evaluation(evaluation)
    return evaluation


def answers(path: Path, content: bytes, dtype: Dtype, manifest: Manifest, examples: Examples) -> Answers:
    """Return what a model file says of ``examples``, one after the other, as on the device.

    Raises:
        BundleRejectedError: The file cannot be run, or is of another kind than ``dtype``.
    """
    model = load(path, content, dtype)
    predictor = Predictor(with_tensors(manifest, model), model)
    values, times, saturated = [], [], 0
    for window in examples.windows:
        started = time.perf_counter_ns()
        answer = predictor.answer(window)
        times.append(time.perf_counter_ns() - started)
        values.append(answer.value)
        saturated += Quality.SATURATED in answer.quality
    lsb = predictor.manifest.outputs[0].scale * manifest.output.scale
    return Answers(predictor.backend, lsb, np.array(values), statistics.median(times) / 1e3, saturated)


def metrics(values: NDArray[np.float64], examples: Examples) -> Metrics:
    """Return the errors of ``values`` against the targets of ``examples``."""
    errors = values - examples.targets
    return Metrics(mae=float(np.abs(errors).mean()), rmse=float(np.sqrt((errors**2).mean())))


def _model_metrics(found: Answers, examples: Examples, sha256: str) -> ModelMetrics:
    errors = metrics(found.values, examples)
    return ModelMetrics(
        mae=errors.mae,
        rmse=errors.rmse,
        latency_us=found.latency_us,
        saturated=found.saturated,
        sha256=sha256,
    )
