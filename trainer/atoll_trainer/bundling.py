"""From a run, or from a person's own model file, to a bundle. No TensorFlow is needed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pydantic import ValidationError

from atoll_contract.bundle import Bundle
from atoll_contract.errors import BundleRejectedError, ConfigError, Reason
from atoll_contract.manifest import Dtype, Manifest, Training
from atoll_contract.reference import Ahead, ExpectedError
from atoll_infer import golden
from atoll_infer.predictor import Predictor
from atoll_infer.runtime import TfliteModel, choose_runtime
from atoll_signal.matrix import Samples
from atoll_trainer.child import in_child
from atoll_trainer.dataset import Examples
from atoll_trainer.reference import ahead_of, expected_error, reference_of, thinned
from atoll_trainer.runs import Evaluation, Metrics, Run, RunFacts, SearchFacts

_DEADLINE_S: Final = 300.0


@dataclass(frozen=True, slots=True)
class Learnt:
    """What the drift reference is made of.

    Attributes:
        train: Windows of the training part.
        error: On the untouched part; None: it was not evaluated.
        ahead: Where a forecast finds its truth.
    """

    train: Examples
    error: ExpectedError | None
    ahead: Ahead | None


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


def load(path: Path, content: bytes, dtype: Dtype) -> TfliteModel:
    """Return the model file ``path``, whose tensors must be of ``dtype`` and batch 1.

    Raises:
        BundleRejectedError: The runtime cannot load it, or it has other tensors.
    """
    try:
        model = choose_runtime().runtime.load(content)
    except BundleRejectedError as error:
        raise BundleRejectedError(f"{path}: {error.detail}", error.reason) from error
    for tensor in (*model.inputs, *model.outputs):
        if tensor.dtype is not dtype or tensor.shape[0] != 1:
            message = (
                f"{path}: tensor {tensor.name!r} is {tensor.dtype.value} {tensor.shape}, "
                f"not {dtype.value} of batch 1: run atoll-trainer optimise again"
            )
            raise BundleRejectedError(message, Reason.UNSUPPORTED_TENSORS)
    return model


def from_run(run: Run, release: int, *, is_float: bool | None = None) -> bytes:
    """Return the packed bundle of a run's int8 or float model; by default as the search decided.

    Golden vectors are windows of the test part, answered by the runtime that devices use. The work is
    done in a child: a damaged model file can end the process that loads it.

    Raises:
        ConfigError: This is no complete run folder, or it was evaluated with other model files.
        BundleRejectedError: The model file cannot be run, or is of another kind.
    """
    facts = run.facts()
    if is_float is None:
        is_float = facts.ships_float
    path, dtype = run.shipped(is_float=is_float)
    content = run.model(path)
    evaluation = run.evaluation()
    if evaluation is not None:
        _require_same_files(run, evaluation)
    training = _training(facts, evaluation, is_float=is_float)
    changes = {"release": release, "training": training.model_dump()}
    windows = run.golden_samples()
    learnt = Learnt(
        thinned(run.split().train), _expected(evaluation, is_float=is_float), ahead_of(run.task())
    )
    with naming(path):
        return in_child(
            *(_packed, path, content, dtype, run.manifest(), changes, windows, learnt), deadline_s=_DEADLINE_S
        )


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put ``path`` before what a child says of the model file, unless it stands there."""
    try:
        yield
    except BundleRejectedError as error:
        if error.detail.startswith(f"{path}: "):
            raise
        raise BundleRejectedError(f"{path}: {error.detail}", error.reason) from error


def _packed(
    path: Path,
    content: bytes,
    dtype: Dtype,
    manifest: Manifest,
    changes: dict[str, object],
    windows: list[Samples],
    learnt: Learnt,
) -> bytes:
    model = load(path, content, dtype)
    manifest = with_tensors(manifest, model, **changes)
    predictor = Predictor(manifest, model)
    reference = reference_of(predictor, learnt.train, learnt.error, learnt.ahead)
    recorded = golden.record(predictor, windows)
    return seal(
        Bundle(manifest, content, recorded, reference=None if reference is None else reference.encode())
    )


def _expected(evaluation: Evaluation | None, *, is_float: bool) -> ExpectedError | None:
    if evaluation is None:
        return None
    if is_float:
        return expected_error(evaluation.float_model)
    return expected_error(evaluation.int8_model, evaluation.lsb)


def _require_same_files(run: Run, evaluation: Evaluation) -> None:
    for path, model in ((run.float_model, evaluation.float_model), (run.int8_model, evaluation.int8_model)):
        if hashlib.sha256(run.model(path)).hexdigest() != model.sha256:
            raise ConfigError(
                f"{path}: changed since its evaluation: run atoll-trainer evaluate {run.folder} again"
            )


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
        settings=None if facts.search is None else _settings(facts.search),
        cut=True if facts.search is not None and facts.search.is_cut else None,
    )


def _settings(search: SearchFacts) -> dict[str, str]:
    chosen = next(one for one in search.candidates if one.is_chosen)
    return {
        "family": chosen.family,
        "form": chosen.form,
        "window": str(chosen.window),
        "trial": str(chosen.trial),
        "trials": str(len(search.trials)),
        **search.settings,
    }


def _metrics(evaluation: Evaluation, *, is_float: bool) -> dict[str, float]:
    figures = {"naive": evaluation.naive, "float": evaluation.float_model}
    if not is_float:
        figures["int8"] = evaluation.int8_model
    metrics = {
        f"{whose}_{name}": number
        for whose, one in figures.items()
        for name, number in one.model_dump(include=set(Metrics.model_fields), exclude_none=True).items()
    }
    if not is_float:
        metrics["parity_lsb"] = evaluation.parity_lsb
    return metrics
