"""How long one answer takes on this device, and whether several at once cost less each."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Final

import numpy as np

from atoll_contract.bundle import Bundle
from atoll_contract.errors import BundleRejectedError
from atoll_infer import golden
from atoll_infer.predictor import Predictor
from atoll_infer.runtime import Runtime

BATCH: Final = 32
"""Inputs in a batch. A small network takes 32 in hardly more time than one (measured: 1.8 and 1.4 µs)."""

SLOW_S: Final = 1e-3
"""A model that takes longer than this for one answer is not run beside others in one thread."""

_REPEATS: Final = 5


def tune(predictor: Predictor, bundle: Bundle, runtime: Runtime) -> None:
    """Measure how long an answer of ``predictor`` takes; let it answer in batches if that is faster.

    A model is taken to allow batches if it can be resized and then gives its golden outputs.
    """
    samples = golden.windows(bundle.golden)
    one_s = predictor.answer_s = _median_s(lambda: predictor.invoke(samples[:1]))
    if one_s >= SLOW_S:
        return
    try:
        model = runtime.load(bundle.model, batch=BATCH)
        if not predictor.use_batches(model, pays_from=1):
            return
        golden.play(bundle.golden, predictor)
    except BundleRejectedError:
        predictor.use_no_batches()
        return
    full = np.resize(samples, (BATCH, *samples.shape[1:]))
    pays_from = max(2, math.ceil(_median_s(lambda: predictor.invoke(full)) / one_s))
    if pays_from > BATCH:
        predictor.use_no_batches()
    else:
        predictor.use_batches(model, pays_from=pays_from)


def _median_s(work: Callable[[], object]) -> float:
    """Return the median time of ``work``, the first time left out."""
    work()
    times = []
    for _ in range(_REPEATS):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
        if times[0] >= SLOW_S:
            break
    return statistics.median(times)
