"""How long one answer takes on this device, and whether several at once cost less each."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from atoll_contract.bundle import Bundle
from atoll_contract.errors import BundleRejectedError
from atoll_infer import golden
from atoll_infer.predictor import Predictor
from atoll_infer.runtime import ModelFailedError, Runtime

BATCH: Final = 32
"""Inputs in a batch. A small network takes 32 in hardly more time than one (measured: 1.8 and 1.4 µs)."""

SLOW_S: Final = 1e-3
"""A model that takes longer than this for one answer is not run beside others in one thread."""

_REPEATS: Final = 5
_LONG_S: Final = 0.25
"""What takes so long is not repeated further."""


def tune(predictor: Predictor, bundle: Bundle, runtime: Runtime) -> None:
    """Measure how long an answer of ``predictor`` takes; let it answer in batches if that is faster.

    A model is taken to allow batches if it can be resized and then gives for many different inputs
    what it gives for each alone.
    """
    samples = golden.windows(bundle.golden, bundle.manifest)
    one_s = predictor.answer_s = least_s(lambda: predictor.invoke(samples[:1]))
    if one_s >= SLOW_S:
        return
    varied = _varied(samples)
    try:
        model = runtime.load(bundle.model, batch=BATCH)
        alone = np.concatenate([predictor.invoke(window[None])[0] for window in varied])
        if not predictor.use_batches(model, pays_from=1):
            return
        together, _ = predictor.invoke(varied)
    except (BundleRejectedError, ModelFailedError):
        predictor.use_no_batches()
        return
    pays_from = max(2, math.ceil(least_s(lambda: predictor.invoke(varied)) / one_s))
    if pays_from > BATCH or not golden.is_close(alone, together, predictor.manifest):
        predictor.use_no_batches()
    else:
        predictor.use_batches(model, pays_from=pays_from)


def _varied(samples: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return as many windows as a batch has, no two alike."""
    full = np.resize(samples, (BATCH, *samples.shape[1:]))
    spread = np.linspace(-0.05, 0.05, BATCH, dtype=np.float32).reshape(BATCH, 1, 1)
    varied: NDArray[np.float32] = full + spread * np.maximum(np.abs(full), 1.0)
    return varied


def least_s(work: Callable[[], object]) -> float:
    """Return the least time of ``work``, the first time left out: other work on the device only adds."""
    work()
    least = math.inf
    began = time.perf_counter()
    for _ in range(_REPEATS):
        started = time.perf_counter()
        work()
        ended = time.perf_counter()
        least = min(least, ended - started)
        if ended - began >= _LONG_S:
            break
    return least
