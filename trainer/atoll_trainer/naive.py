"""The guess without a model, which a model has to beat."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from atoll_trainer.dataset import Examples
from atoll_trainer.task import TaskFile, TaskKind


def naive(task: TaskFile, train: Examples, examples: Examples) -> NDArray[np.float64]:
    """Return the guess to beat for each of ``examples``.

    The last value, the training mean, or the most frequent class; of an anomaly how many standard
    deviations the newest reading is off the training mean.
    """
    match task.task.kind:
        case TaskKind.FORECAST if examples.last is not None:
            return np.repeat(examples.last[:, None], task.steps, axis=1).reshape(examples.targets.shape)
        case TaskKind.CLASSIFICATION:
            most = np.bincount(train.targets.astype(np.int64)).argmax()
            return np.full(len(examples), float(most))
        case TaskKind.ANOMALY:
            newest = train.windows[:, -1].astype(np.float64)
            off = np.abs(examples.windows[:, -1] - newest.mean(axis=0))
            worst: NDArray[np.float64] = (off / np.maximum(newest.std(axis=0), 1e-12)).max(axis=1)
            return worst
        case _:
            return np.full(len(examples), train.targets.mean())
