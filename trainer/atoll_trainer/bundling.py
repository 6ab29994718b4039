"""From a run, or from a person's own model file, to a bundle. No TensorFlow is needed."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from pydantic import ValidationError

from atoll_contract.bundle import Bundle
from atoll_contract.errors import BundleRejectedError
from atoll_contract.manifest import Manifest, Training
from atoll_infer import golden
from atoll_infer.predictor import Predictor
from atoll_infer.runtime import TfliteModel, choose_runtime
from atoll_trainer.runs import Evaluation, Run, RunFacts

_MOST_CASES: Final = 32
_MOST_NUMBERS: Final = 262_144
"""In all golden vectors together: they travel with every release."""


def with_tensors(manifest: Manifest, model: TfliteModel, **changes: object) -> Manifest:
    """Return ``manifest`` with the tensors that the model file has, and ``changes``.

    Raises:
        BundleRejectedError: The file does not fit; each fault is told with its key.
    """
    document = {
        **manifest.model_dump(),
        "inputs": [tensor.model_dump() for tensor in model.inputs],
        "outputs": [tensor.model_dump() for tensor in model.outputs],
        **changes,
    }
    try:
        return Manifest.model_validate(document)
    except ValidationError as error:
        faults = [
            f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}".removeprefix(": ").replace(
                "Value error, ", ""
            )
            for fault in error.errors(include_url=False)
        ]
        raise BundleRejectedError(
            f"the model file does not fit its description: {'; '.join(faults)}"
        ) from error


def from_run(run: Run, release: int, *, is_float: bool = False) -> bytes:
    """Return the packed bundle of a run's int8 model, or of its float model.

    Golden vectors are windows of the test part, answered by the runtime that devices use.

    Raises:
        ConfigError: This is no complete run folder.
    """
    facts = run.facts()
    content = run.model(run.float_model if is_float else run.int8_model)
    model = choose_runtime().runtime.load(content)
    training = _training(facts, run.evaluation(), is_float=is_float)
    manifest = with_tensors(run.manifest(), model, release=release, training=training.model_dump())
    windows = spread(run.split().test.windows)
    return seal(Bundle(manifest, content, golden.record(Predictor(manifest, model), windows)))


def spread(windows: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return windows spread evenly over ``windows``, as many as golden vectors are made (1 to 32)."""
    count = min(len(windows), _MOST_CASES, max(1, _MOST_NUMBERS // windows[0].size))
    chosen: NDArray[np.float32] = windows[np.linspace(0, len(windows) - 1, count).astype(int)]
    return chosen


def seal(bundle: Bundle) -> bytes:
    """Return ``bundle`` packed, after it was read back and its golden vectors were played.

    Raises:
        BundleRejectedError: A device would refuse it.
    """
    content = bundle.pack()
    golden.self_test(Bundle.unpack(content), choose_runtime().runtime)
    return content


def _training(facts: RunFacts, evaluation: Evaluation | None, *, is_float: bool) -> Training:
    span = facts.spans["train"]
    return Training(
        start_ms=span.start_ms,
        end_ms=span.end_ms,
        rows=span.windows,
        data_sha256=facts.data_sha256,
        metrics={} if evaluation is None else _metrics(evaluation, is_float=is_float),
        tools=facts.tools,
        seed=facts.seed,
    )


def _metrics(evaluation: Evaluation, *, is_float: bool) -> dict[str, float]:
    metrics = {
        "naive_mae": evaluation.naive.mae,
        "naive_rmse": evaluation.naive.rmse,
        "float_mae": evaluation.float_model.mae,
        "float_rmse": evaluation.float_model.rmse,
    }
    if not is_float:
        metrics |= {
            "int8_mae": evaluation.int8_model.mae,
            "int8_rmse": evaluation.int8_model.rmse,
            "parity_lsb": evaluation.parity_lsb,
        }
    return metrics
