"""What the model files are worth: on the untouched part, in the runtime that devices use."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atoll_contract.messages import Quality
from atoll_infer.predictor import Predictor
from atoll_infer.runtime import choose_runtime
from atoll_trainer.bundling import with_tensors
from atoll_trainer.dataset import Examples, naive
from atoll_trainer.runs import Evaluation, Metrics, ModelMetrics, Run
from atoll_trainer.task import TaskKind


@dataclass(frozen=True, slots=True)
class Answers:
    """What one model file says of the test part.

    Attributes:
        values: In the unit of the prediction, shape (n,).
        latency_us: Median time of one answer, normalisation and quantisation included.
        saturated: Windows with a number outside what the input tensor can hold.
    """

    values: NDArray[np.float64]
    latency_us: float
    saturated: int


def evaluate(run: Run) -> Evaluation:
    """Return the errors of both model files and of the naive guess, and write ``evaluation.json``.

    Raises:
        ConfigError: This is no complete run folder.
    """
    task, parts, manifest = run.task(), run.split(), run.manifest()
    choice = choose_runtime()
    float_predictor, int8_predictor = (
        Predictor(with_tensors(manifest, model), model)
        for model in (choice.runtime.load(run.model(path)) for path in (run.float_model, run.int8_model))
    )
    test = parts.test
    float_answers, int8_answers = answers(float_predictor, test), answers(int8_predictor, test)
    lsb = int8_predictor.manifest.outputs[0].scale * manifest.output.scale
    evaluation = Evaluation(
        windows=len(test),
        backend=int8_predictor.backend,
        unit=manifest.output.unit,
        naive_kind="last value" if task.task.kind is TaskKind.FORECAST else "training mean",
        naive=metrics(naive(task, parts.train, test), test),
        float_model=_model_metrics(float_answers, test),
        int8_model=_model_metrics(int8_answers, test),
        parity_lsb=float(np.abs(float_answers.values - int8_answers.values).max()) / lsb,
        lsb=lsb,
    )
    run.write_evaluation(evaluation)
    return evaluation


def answers(predictor: Predictor, examples: Examples) -> Answers:
    """Return what ``predictor`` says of ``examples``, one after the other, as on the device."""
    values, times, saturated = [], [], 0
    for window in examples.windows:
        started = time.perf_counter_ns()
        answer = predictor.answer(window)
        times.append(time.perf_counter_ns() - started)
        values.append(answer.value)
        saturated += Quality.SATURATED in answer.quality
    return Answers(np.array(values), statistics.median(times) / 1e3, saturated)


def metrics(values: NDArray[np.float64], examples: Examples) -> Metrics:
    """Return the errors of ``values`` against the targets of ``examples``."""
    errors = values - examples.targets
    return Metrics(mae=float(np.abs(errors).mean()), rmse=float(np.sqrt((errors**2).mean())))


def _model_metrics(found: Answers, examples: Examples) -> ModelMetrics:
    errors = metrics(found.values, examples)
    return ModelMetrics(
        mae=errors.mae, rmse=errors.rmse, latency_us=found.latency_us, saturated=found.saturated
    )
