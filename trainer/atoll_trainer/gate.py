"""Whether a new release is good enough to take the champion's place.

Both answer the untouched part of a run where one is given, which is fair. Otherwise the errors that
their manifests tell are compared, which were found on different data.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from atoll_contract.bundle import Bundle
from atoll_contract.manifest import Dtype, Manifest
from atoll_infer import golden
from atoll_infer.runtime import choose_runtime
from atoll_trainer.child import in_child
from atoll_trainer.dataset import Examples

_DEADLINE_S: Final = 3_600.0


@dataclass(frozen=True, slots=True)
class Gate:
    """What a release has to be.

    Attributes:
        worse_by: How much larger than the champion's its mean absolute error may be, as a share.
        examples: What both answer; None: what the manifests say counts.
    """

    worse_by: float
    examples: Examples | None = None

    def refusal(self, bundle: Bundle, champion: Bundle | None) -> str | None:
        """Return why ``bundle`` must not be published, None if it may.

        What is not known refuses nothing.

        Raises:
            BundleRejectedError: A model file cannot be run.
        """
        naive = bundle.manifest.training.metrics.get("naive_mae")
        error = self._error(bundle)
        if error is not None and naive is not None and error >= naive:
            return f"its mean absolute error {error:.4g} is no better than a naive guess ({naive:.4g})"
        if champion is None:
            return None
        if self.examples is not None and not _same_input(bundle.manifest, champion.manifest):
            return f"release {champion.manifest.release} reads other windows: the run compares nothing"
        before = self._error(champion)
        if error is not None and before is not None and error > before * (1 + self.worse_by):
            return (
                f"its mean absolute error {error:.4g} is worse than {before:.4g} of release "
                f"{champion.manifest.release}"
            )
        return None

    def _error(self, bundle: Bundle) -> float | None:
        if self.examples is not None:
            return in_child(_mean_absolute_error, bundle, self.examples, deadline_s=_DEADLINE_S)
        is_quantised = bundle.manifest.inputs[0].dtype is not Dtype.FLOAT32
        return bundle.manifest.training.metrics.get("int8_mae" if is_quantised else "float_mae")


def _same_input(manifest: Manifest, other: Manifest) -> bool:
    return (manifest.window, manifest.features) == (other.window, other.features)


def _mean_absolute_error(bundle: Bundle, examples: Examples) -> float:
    predictor = golden.self_test(bundle, choose_runtime().runtime)
    pairs = zip(examples.windows, examples.targets, strict=True)
    errors = [abs(predictor.answer(window).value - float(target)) for window, target in pairs]
    return sum(errors) / len(errors)
