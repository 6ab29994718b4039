"""Candidates as devices would run them: made int8, and answered by the device's runtime in a child."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from atoll_contract.manifest import Dtype, Manifest
from atoll_infer.predictor import Predictor
from atoll_trainer.bundling import load, with_tensors
from atoll_trainer.child import in_child

_DEADLINE_S: Final = 1_800.0
_TIMED: Final = 300


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model file to be judged.

    Attributes:
        content: Its bytes.
        dtype: Of its tensors.
        manifest: What it is, with float tensors.
    """

    content: bytes
    dtype: Dtype
    manifest: Manifest


@dataclass(frozen=True, slots=True)
class Told:
    """What a model file said.

    Attributes:
        outputs: In the unit of the prediction: one array, shape (n, outputs), for each set of windows.
        latency_us: Median time of one answer, normalisation and quantisation included.
    """

    outputs: list[NDArray[np.float64]]
    latency_us: float


def judge(files: Sequence[ModelFile], sets: Sequence[NDArray[np.float32]]) -> list[Told]:
    """Return what each file says of each set of windows; of a shorter window it sees the end.

    Raises:
        BundleRejectedError: A file cannot be run.
    """
    return in_child(_judge, list(files), list(sets), deadline_s=_DEADLINE_S)


def _judge(files: list[ModelFile], sets: list[NDArray[np.float32]]) -> list[Told]:
    return [_told(file, sets) for file in files]


def _told(file: ModelFile, sets: list[NDArray[np.float32]]) -> Told:
    model = load(Path("candidate"), file.content, file.dtype)
    predictor = Predictor(with_tensors(file.manifest, model), model)
    rows = file.manifest.rows
    outputs = [
        np.asarray(predictor.numbers(np.ascontiguousarray(windows[:, -rows:]))[0], np.float64)
        for windows in sets
    ]
    times = []
    for window in sets[0][:_TIMED, -rows:]:
        started = time.perf_counter_ns()
        predictor.answer(window)
        times.append(time.perf_counter_ns() - started)
    return Told(outputs, statistics.median(times) / 1e3)
