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
from atoll_infer.predictor import Predictor
from atoll_trainer.bundling import load, naming, with_tensors
from atoll_trainer.child import in_child
from atoll_trainer.dataset import Examples, Split
from atoll_trainer.figures import metrics, window_losses
from atoll_trainer.naive import naive
from atoll_trainer.runs import Evaluation, ModelMetrics, Run, SearchFacts
from atoll_trainer.task import TaskFile, TaskKind

_DEADLINE_S: Final = 3_600.0


_TIMED: Final = 2_000
"""Windows whose answers are timed one by one."""


@dataclass(frozen=True, slots=True)
class Answers:
    """What one model file says of the test part.

    Attributes:
        backend: What ran it.
        lsb: Step of a quantised output, in the unit of the prediction; 0 for a float one.
        outputs: In the unit of the prediction, or probabilities, or scores, shape (n, outputs).
        latency_us: Median time of one answer, normalisation and quantisation included.
        saturated: Windows with a number outside what the input tensor can hold.
    """

    backend: str
    lsb: float
    outputs: NDArray[np.float64]
    latency_us: float
    saturated: int


@dataclass(frozen=True, slots=True)
class Evaluated:
    """An evaluation with all that it was made of, to be drawn.

    Attributes:
        evaluation: The figures.
        kind: Of the task.
        labels: Of a classification.
        threshold: Of an anomaly score.
        times_ms: Of n windows of the test part.
        targets: The truth, shape (n,) or (n, steps).
        naive: What the naive guess says, shape (n, outputs).
        float_outputs: What the float model says, shape (n, outputs).
        int8_outputs: What the int8 model says.
        search: How the model was found, with every candidate; None: it was fitted as ``[fit]`` says.
    """

    evaluation: Evaluation
    kind: TaskKind
    labels: list[str]
    threshold: float | None
    times_ms: NDArray[np.float64]
    targets: NDArray[np.float64]
    naive: NDArray[np.float64]
    float_outputs: NDArray[np.float64]
    int8_outputs: NDArray[np.float64]
    search: SearchFacts | None

    @property
    def losses(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The loss of each window, of the float and of the int8 model, shape (n,) each."""
        both = (self.float_outputs, self.int8_outputs)
        first, second = (
            window_losses(self.kind, outputs, self.targets, self.threshold or 0.0) for outputs in both
        )
        return first, second


def evaluate(run: Run) -> Evaluation:
    """Return the figures of both model files and of the naive guess, and write ``evaluation.json``.

    Raises:
        ConfigError: This is no complete run folder.
        BundleRejectedError: A model file cannot be run, or is of another kind.
    """
    return examine(run).evaluation


def examine(run: Run) -> Evaluated:
    """Return what :func:`evaluate` does, with the answers themselves.

    Each file answers in a child: a damaged one can end the process that loads it.

    Raises:
        ConfigError: This is no complete run folder.
        BundleRejectedError: A model file cannot be run, or is of another kind.
    """
    task, parts, manifest = run.task(), run.split(), run.manifest()
    kind, test = task.task.kind, parts.test
    contents = {path: run.model(path) for path in (run.float_model, run.int8_model)}
    found = []
    for (path, content), dtype in zip(contents.items(), (Dtype.FLOAT32, Dtype.INT8), strict=True):
        with naming(path):
            found.append(in_child(answers, path, content, dtype, manifest, test, deadline_s=_DEADLINE_S))
    float_answers, int8_answers = found
    float_sha256, int8_sha256 = (hashlib.sha256(content).hexdigest() for content in contents.values())
    lsb = int8_answers.lsb
    threshold = manifest.output.threshold or 0.0
    guess = _guess(task, parts)
    limit = threshold
    if kind is TaskKind.ANOMALY:
        normal = naive(task, parts.train, parts.train)[~(parts.train.targets > 0)]
        limit = float(np.quantile(normal, 1 - task.threshold.false_alarms))
    evaluation = Evaluation(
        windows=len(test),
        backend=int8_answers.backend,
        unit=manifest.output.unit,
        naive_kind=_NAIVE[kind],
        naive=metrics(kind, guess, test.targets, limit),
        float_model=_model_metrics(kind, float_answers, test, float_sha256, threshold),
        int8_model=_model_metrics(kind, int8_answers, test, int8_sha256, threshold),
        parity_lsb=float(np.abs(float_answers.outputs - int8_answers.outputs).max()) / lsb,
        lsb=lsb,
    )
    run.write_evaluation(evaluation)
    return Evaluated(
        evaluation,
        kind,
        task.task.labels,
        manifest.output.threshold,
        test.times_ms,
        test.targets,
        guess,
        float_answers.outputs,
        int8_answers.outputs,
        run.facts().search,
    )


def answers(path: Path, content: bytes, dtype: Dtype, manifest: Manifest, examples: Examples) -> Answers:
    """Return what a model file says of ``examples``, one after the other, as on the device.

    Raises:
        BundleRejectedError: The file cannot be run, or is of another kind than ``dtype``.
    """
    model = load(path, content, dtype)
    predictor = Predictor(with_tensors(manifest, model), model)
    outputs, saturated = predictor.numbers(examples.windows)
    times = []
    for window in examples.windows[:: max(1, len(examples) // _TIMED)]:
        started = time.perf_counter_ns()
        predictor.answer(window)
        times.append(time.perf_counter_ns() - started)
    lsb = predictor.manifest.outputs[0].scale * manifest.output.scale
    return Answers(
        predictor.backend,
        lsb,
        np.asarray(outputs, np.float64),
        statistics.median(times) / 1e3,
        0 if saturated is None else int(saturated.sum()),
    )


def _guess(task: TaskFile, parts: Split) -> NDArray[np.float64]:
    """Return what the naive guess says of the test part, shape (n, outputs)."""
    count = len(parts.test)
    if task.task.kind is TaskKind.CLASSIFICATION:
        shares = np.bincount(parts.train.targets.astype(np.int64), minlength=task.steps) / len(parts.train)
        return np.repeat(shares[None], count, axis=0)
    return naive(task, parts.train, parts.test).reshape(count, -1)


def _model_metrics(
    kind: TaskKind, found: Answers, examples: Examples, sha256: str, threshold: float
) -> ModelMetrics:
    figures = metrics(kind, found.outputs, examples.targets, threshold)
    return ModelMetrics(
        **figures.model_dump(), latency_us=found.latency_us, saturated=found.saturated, sha256=sha256
    )


_NAIVE: Final = {
    TaskKind.FORECAST: "last value",
    TaskKind.REGRESSION: "training mean",
    TaskKind.CLASSIFICATION: "most frequent class",
    TaskKind.ANOMALY: "distance to the mean",
}
