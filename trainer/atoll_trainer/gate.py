"""Whether a new release is good enough to take the champion's place.

Errors that were found on different data cannot be compared. So the champion is a measure only where
both answer the untouched part of one run; what a manifest tells is held against the naive guess beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from atoll_contract.bundle import Bundle
from atoll_contract.manifest import Dtype, Manifest
from atoll_infer import golden
from atoll_infer.runtime import choose_runtime
from atoll_trainer.child import in_child
from atoll_trainer.dataset import Examples
from atoll_trainer.figures import window_losses
from atoll_trainer.task import TaskKind

_DEADLINE_S: Final = 3_600.0


@dataclass(frozen=True, slots=True)
class Gate:
    """What a release has to be.

    Attributes:
        worse_by: How much larger than the champion's its mean absolute error may be, as a share.
        examples: What both answer; None: the champion is no measure.
    """

    worse_by: float
    examples: Examples | None = None

    def refusal(self, bundle: Bundle, champion: Bundle | None) -> str | None:
        """Return why ``bundle`` must not be published, None if it may.

        What is not known refuses nothing.

        Raises:
            BundleRejectedError: A model file cannot be run.
        """
        metrics = bundle.manifest.training.metrics
        is_quantised = bundle.manifest.inputs[0].dtype is not Dtype.FLOAT32
        whose = "int8" if is_quantised else "float"
        for figure, name in (("mae", "mean absolute error"), ("log_loss", "log loss")):
            told, naive = metrics.get(f"{whose}_{figure}"), metrics.get(f"naive_{figure}")
            if told is not None and naive is not None and told >= naive:
                return f"its {name} {told:.4g} is no better than a naive guess ({naive:.4g})"
        if champion is None or self.examples is None:
            return None
        number = champion.manifest.release
        if not _same_input(bundle.manifest, champion.manifest):
            return f"release {number} reads other windows: the run compares nothing"
        error, before = (
            in_child(_mean_loss, one, self.examples, deadline_s=_DEADLINE_S) for one in (bundle, champion)
        )
        if error > before * (1 + self.worse_by):
            return f"its mean error {error:.4g} is worse than {before:.4g} of release {number}"
        return None


def _same_input(manifest: Manifest, other: Manifest) -> bool:
    return (manifest.window, manifest.features) == (other.window, other.features)


def _mean_loss(bundle: Bundle, examples: Examples) -> float:
    predictor = golden.self_test(bundle, choose_runtime().runtime)
    outputs, _ = predictor.numbers(examples.windows)
    kind, threshold = TaskKind(bundle.manifest.task.value), bundle.manifest.output.threshold or 0.0
    losses = window_losses(kind, np.asarray(outputs, np.float64), examples.targets, threshold)
    known = losses[~np.isnan(losses)]
    return float(known.mean()) if len(known) else 0.0
