"""How much a model needs each feature: its column is shuffled among the windows (Breiman, 2001)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from atoll_contract.manifest import Dtype, Manifest
from atoll_infer.predictor import Predictor
from atoll_trainer.bundling import load, with_tensors
from atoll_trainer.dataset import Examples
from atoll_trainer.figures import window_losses
from atoll_trainer.report.evidence import Importance
from atoll_trainer.task import TaskKind

_SHUFFLES: Final = 3
_MOST_WINDOWS: Final = 1_000
_MOST_FEATURES: Final = 64


def importances(
    path: Path, content: bytes, dtype: Dtype, manifest: Manifest, examples: Examples
) -> tuple[float | None, list[Importance]]:
    """Return the mean loss of a model file on some of ``examples``, and what it is without each feature.

    All readings of a window are shuffled together, so that a course over time stays one. Without truth
    there is nothing to tell.

    Raises:
        BundleRejectedError: The file cannot be run.
    """
    model = load(path, content, dtype)
    predictor = Predictor(with_tensors(manifest, model), model)
    kind, threshold = TaskKind(manifest.task.value), manifest.output.threshold or 0.0
    places = np.unique(np.linspace(0, len(examples) - 1, min(len(examples), _MOST_WINDOWS)).astype(np.int64))
    windows, targets = examples.windows[places], examples.targets[places]

    def loss(changed: NDArray[np.float32]) -> float:
        outputs = np.asarray(predictor.numbers(changed)[0], np.float64)
        losses = window_losses(kind, outputs, targets, threshold)
        known = losses[~np.isnan(losses)]
        return float(known.mean()) if len(known) else float("nan")

    before = loss(windows)
    if np.isnan(before):
        return None, []
    random = np.random.default_rng(0)
    found, start = [], 0
    for label, size in list(zip(manifest.labels, manifest.sizes, strict=True))[:_MOST_FEATURES]:
        losses = []
        for _ in range(_SHUFFLES):
            changed = windows.copy()
            columns = slice(start, start + size)
            changed[:, :, columns] = windows[random.permutation(len(windows))][:, :, columns]
            losses.append(loss(changed))
        found.append(Importance(label, float(np.mean(losses)), float(np.std(losses))))
        start += size
    return before, found
