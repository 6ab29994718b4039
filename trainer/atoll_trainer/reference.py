"""The drift reference of a release: what devices will hold against what they see."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from atoll_contract.manifest import Manifest, Task
from atoll_contract.reference import MAX_EDGES, Ahead, ExpectedError, Histogram, Reference
from atoll_infer.predictor import Answer, Predictor
from atoll_signal.spread import Columns, Spread, edges_of
from atoll_trainer.dataset import Examples
from atoll_trainer.runs import ModelMetrics
from atoll_trainer.task import TaskFile, TaskKind

_MOST_WINDOWS: Final = 5_000
_MOST_NUMBERS: Final = 4_000_000
_LEAST_WINDOWS: Final = 200
"""In a comparison: of fewer, chance alone moves the index of ten bins by more than 0.05."""
_PARTS: Final = 10
"""A comparison covers a tenth of the training span, unless that holds too few windows."""
_LEAST_LIMIT: Final = 0.25
"""Source: Siddiqi, Credit Risk Scorecards, Wiley 2006: above it a population has shifted significantly."""
_MARGIN: Final = 1.5
"""So much further than any part of the training span must one on the device be from all of it."""
_LEAST_SPREAD: Final = 0.01
"""Of the share of classes that are told wrongly: one that made no error may make some."""
_SPLIT_S: Final = 1.0
"""Shortest comparison."""


def thinned(train: Examples) -> Examples:
    """Return windows spread evenly over ``train``, as many as a reference needs."""
    size = max(1, train.windows[0].size) if len(train) else 1
    count = min(len(train), _MOST_WINDOWS, max(_LEAST_WINDOWS, _MOST_NUMBERS // size))
    chosen = np.linspace(0, len(train) - 1, count).astype(int)
    return Examples(train.windows[chosen], train.targets[chosen], train.times_ms[chosen])


def expected_error(metrics: ModelMetrics, lsb: float = 0.0) -> ExpectedError | None:
    """Return what the errors on the untouched part let one expect; ``lsb``: step of a quantised output.

    Of a classification they are the share that is told wrongly; of an anomaly nothing is expected.
    """
    if metrics.accuracy is not None:
        wrong = 1 - metrics.accuracy
        return ExpectedError(mean=wrong, std=max(math.sqrt(wrong * (1 - wrong)), _LEAST_SPREAD))
    if metrics.mae is None or metrics.rmse is None:
        return None
    variance = max(0.0, metrics.rmse**2 - metrics.mae**2)
    return ExpectedError(mean=metrics.mae, std=max(math.sqrt(variance), lsb / 4))


def ahead_of(task: TaskFile) -> Ahead | None:
    """Return where the forecasts of ``task`` find their truth, if a later reading tells it."""
    if task.task.kind is not TaskKind.FORECAST:
        return None
    column, step_ms, after_ms = task.target_feature, task.task.step_ms, task.manifest().output.step_ms
    if column is None or step_ms is None or after_ms is None:
        return None
    return Ahead(column=column, after_ms=after_ms, tolerance_ms=step_ms / 2)


def reference_of(
    predictor: Predictor, train: Examples, error: ExpectedError | None, ahead: Ahead | None
) -> Reference | None:
    """Return how features and outputs are spread over ``train``; None: it is empty.

    The limit of each index is above what any part of the training span shows, so that a day that is not
    like the week it belongs to is no drift.
    """
    manifest = predictor.manifest
    if not len(train):
        return None
    columns = Columns.of(manifest)
    rows = train.windows[:, -1, :].astype(np.float64)[:, columns.places]
    answers = predictor.answers(train.windows)
    values = np.array([one.value if isinstance(one, Answer) else math.nan for one in answers])
    is_known = np.isfinite(values)
    if not is_known.any():
        return None
    places = np.flatnonzero(is_known)
    places = places[np.argsort(train.times_ms[places], kind="stable")]
    rows, values, times_ms = rows[places], values[places], train.times_ms[places]
    count = len(manifest.features)
    edges = [edges_of(rows[:, columns.features == number]) for number in range(count)]
    edges.append(_output_edges(manifest, values))
    numbers = np.concatenate([rows, values[:, None]], axis=1)
    features = np.append(columns.features, count)
    blank = [Histogram(edges=one, counts=[1] * (len(one) + 1), limit=_LEAST_LIMIT) for one in edges]
    counts = Spread(blank, features).counts(numbers)
    histograms = [
        one.model_copy(update={"counts": counts[number, : len(one.counts)].tolist()})
        for number, one in enumerate(blank)
    ]
    span_s = _span_s(times_ms)
    spread = Spread(histograms, features)
    parts = [
        spread.index(spread.counts(numbers[part]))
        for part in _parts(times_ms, span_s)
        if len(numbers[part]) * 2 >= min(_LEAST_WINDOWS, len(numbers))
    ]
    most = np.max(parts, axis=0) if parts else np.zeros(count + 1)
    limited = [
        one.model_copy(update={"limit": round(max(_LEAST_LIMIT, _MARGIN * float(index)), 4)})
        for one, index in zip(histograms, most, strict=True)
    ]
    return Reference(
        span_s=span_s,
        windows=_LEAST_WINDOWS,
        features=limited[:-1],
        output=limited[-1],
        error=error,
        ahead=ahead,
    )


def _output_edges(manifest: Manifest, values: NDArray[np.float64]) -> list[float]:
    size = manifest.outputs[0].size
    if manifest.task is Task.CLASSIFICATION and 2 <= size <= MAX_EDGES:  # noqa: PLR2004 - one has no edge
        return [number - 0.5 for number in range(1, size)]
    return edges_of(values)


def _span_s(times_ms: NDArray[np.float64]) -> float:
    total_s = float(times_ms.max() - times_ms.min()) / 1e3
    share = max(1 / _PARTS, min(1.0, _LEAST_WINDOWS / len(times_ms)))
    return round(max(_SPLIT_S, total_s * share), 3)


def _parts(times_ms: NDArray[np.float64], span_s: float) -> Iterator[slice]:
    """Yield parts of ``span_s`` that overlap by half."""
    start_ms, end_ms = float(times_ms.min()), float(times_ms.max())
    while start_ms < end_ms:
        low, high = np.searchsorted(times_ms, [start_ms, start_ms + span_s * 1e3])
        yield slice(int(low), int(high))
        start_ms += span_s * 500
