"""Whether a new release is good enough to take the champion's place.

Errors that were found on different data cannot be compared. So the champion is a measure only where
both answer the untouched part of one run, window by window; what a manifest tells is held against the
naive guess beside it.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from atoll_contract.bundle import Bundle
from atoll_contract.manifest import Dtype, Manifest, Task
from atoll_infer import golden
from atoll_infer.runtime import choose_runtime
from atoll_trainer.child import in_child
from atoll_trainer.dataset import Examples
from atoll_trainer.figures import window_losses
from atoll_trainer.paired import FEWEST, Paired, compare
from atoll_trainer.search.disturb import disturbed
from atoll_trainer.task import TaskKind

Recut = Callable[[Manifest], tuple[NDArray[np.float32], NDArray[np.bool_]] | None]
_DEADLINE_S: Final = 3_600.0
_SEED: Final = 1
_COIN: Final = 0.5
"""Loss of an anomaly model that always tells the same."""
_TIMED: Final = 1_000
"""Windows whose answers are timed."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a release must not exceed; None: nothing is asked.

    Attributes:
        size_bytes: Of its model file.
        latency_us: Median time of one answer on this machine, measured on the windows of the run.
    """

    size_bytes: int | None = None
    latency_us: float | None = None


@dataclass(frozen=True, slots=True)
class Trial:
    """What a release did with the windows.

    Attributes:
        losses: Of each window, shape (n,).
        latency_us: Median time of one answer.
    """

    losses: NDArray[np.float64]
    latency_us: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says.

    Attributes:
        refusal: Why the release must not be published; None: it may.
        note: What was not compared, for people.
        paired: How both did, where both answered.
        latency_us: Median time of one answer of the release, where it was measured.
    """

    refusal: str | None = None
    note: str | None = None
    paired: Paired | None = None
    latency_us: float | None = None


@dataclass(frozen=True, slots=True)
class Gate:
    """What a release has to be.

    Attributes:
        worse_by: With 95 % confidence it must be better than a champion whose error were larger by this
            share: 0 asks for a better one, 0.05 for one that is hardly worse.
        examples: What both answer; None: the champion is no measure.
        limits: What it must not exceed.
        recut: Returns the windows that a champion of other windows reads at the times of ``examples``, and
            which of them there are; None: the run does not hold what it reads.
    """

    worse_by: float
    examples: Examples | None = None
    limits: Limits = Limits()
    recut: Recut = lambda _: None

    def judge(self, bundle: Bundle, champion: Bundle | None) -> Verdict:
        """Return whether ``bundle`` may be published. What is not known refuses nothing.

        Raises:
            BundleRejectedError: A model file cannot be run.
        """
        refusal = self._by_what_is_told(bundle)
        if refusal is not None or self.examples is None:
            return Verdict(refusal)
        examples = self.examples
        own = in_child(tried, bundle, examples.windows, examples.targets, deadline_s=_DEADLINE_S)
        if self.limits.latency_us is not None and own.latency_us > self.limits.latency_us:
            message = f"it takes {own.latency_us:.1f} µs for an answer, more than {self.limits.latency_us:g}"
            return Verdict(message, latency_us=own.latency_us)
        if champion is None:
            return Verdict(latency_us=own.latency_us)
        windows, known = examples.windows, np.ones(len(examples), np.bool_)
        if not can_answer(champion.manifest, bundle.manifest):
            found = self.recut(champion.manifest)
            if found is None or found[1].sum() < FEWEST:
                return self._uncompared(bundle, own, champion.manifest.release)
            windows, known = found
        losses = np.full(len(examples), np.nan)
        losses[known] = in_child(
            tried, champion, windows[known], examples.targets[known], deadline_s=_DEADLINE_S
        ).losses
        paired = compare(own.losses, losses, examples.times_ms, examples.devices, self.worse_by)
        return Verdict(self._why_not(paired, champion.manifest.release), None, paired, own.latency_us)

    def refusal(self, bundle: Bundle, champion: Bundle | None) -> str | None:
        """Return why ``bundle`` must not be published, None if it may; see :meth:`judge`."""
        return self.judge(bundle, champion).refusal

    def _uncompared(self, bundle: Bundle, own: Trial, release: int) -> Verdict:
        """Judge a release whose champion reads what the run does not hold by the naive guess alone."""
        message = f"release {release} reads other windows: the run compares nothing"
        if bundle.manifest.task is Task.ANOMALY:
            is_better = float(np.nanmean(own.losses)) < _COIN
        else:
            is_better = any(name.startswith("naive_") for name in bundle.manifest.training.metrics)
        if not is_better:
            return Verdict(message, latency_us=own.latency_us)
        return Verdict(None, f"{message}; it is better than a naive guess", None, own.latency_us)

    def _by_what_is_told(self, bundle: Bundle) -> str | None:
        size = len(bundle.model)
        if self.limits.size_bytes is not None and size > self.limits.size_bytes:
            return f"its model file has {size:,} bytes, more than {self.limits.size_bytes:,}"
        metrics = bundle.manifest.training.metrics
        is_quantised = bundle.manifest.inputs[0].dtype is not Dtype.FLOAT32
        whose = "int8" if is_quantised else "float"
        for figure, name in (("mae", "mean absolute error"), ("log_loss", "log loss")):
            told, naive = metrics.get(f"{whose}_{figure}"), metrics.get(f"naive_{figure}")
            if told is not None and naive is not None and told >= naive:
                return f"its {name} {told:.4g} is no better than a naive guess ({naive:.4g})"
        return None

    def _why_not(self, paired: Paired, release: int) -> str | None:
        if paired.is_better:
            return None
        if paired.windows < FEWEST:
            return (
                f"{paired.windows} windows are too few to tell it from release {release}: {FEWEST} are needed"
            )
        found = f"its mean error {paired.challenger:.4g} against {paired.champion:.4g} of release {release}"
        if paired.stretches < FEWEST:
            return (
                f"{found} on {paired.windows:,} windows may be chance: they stay alike for so long that they "
                f"are no more than {paired.stretches:.0f} stretches; with fewer than {FEWEST} it has to err "
                "less than half as much throughout"
            )
        what = "is worse" if paired.low > 0 else "may be chance"
        margin = f", not even with a margin of {self.worse_by:.0%}" if self.worse_by else ""
        return (
            f"{found} on {paired.windows:,} windows {what}: the difference lies between {paired.low:+.3g} "
            f"and {paired.high:+.3g} (90 % interval, p = {paired.p:.3f}), so it is not better{margin}"
        )


def can_answer(manifest: Manifest, other: Manifest) -> bool:
    """Whether a model of ``manifest`` can answer the windows of a model of ``other``.

    It can where it reads the same, and where it reads the end of it: fewer readings of the same values.
    """
    if manifest.features != other.features:
        return False
    if manifest.window == other.window:
        return True
    is_end = manifest.is_plain and other.is_plain and manifest.window.length <= other.window.length
    return is_end and manifest.window == other.window.model_copy(update={"length": manifest.window.length})


def tried(bundle: Bundle, windows: NDArray[np.float32], targets: NDArray[np.float64]) -> Trial:
    """Return what ``bundle`` does with the windows; of longer ones it sees the end.

    Where next to nobody knows what is an anomaly, a loss is the mean of whether a window is told to be one
    and whether its disturbed copy is not, as the search has it.
    """
    predictor = golden.self_test(bundle, choose_runtime().runtime)
    windows = np.ascontiguousarray(windows[:, -bundle.manifest.rows :])

    def outputs(of: NDArray[np.float32]) -> NDArray[np.float64]:
        return np.asarray(predictor.numbers(of)[0], np.float64)

    kind, threshold = TaskKind(bundle.manifest.task.value), bundle.manifest.output.threshold or 0.0
    losses = window_losses(kind, outputs(windows), targets, threshold)
    if kind is TaskKind.ANOMALY and np.isfinite(targets).sum() < FEWEST:
        moved = disturbed(windows, windows.std(axis=(0, 1), dtype=np.float64), _SEED)
        normal, abnormal = (outputs(of)[:, 0] > threshold for of in (windows, moved))
        losses = (normal.astype(np.float64) + ~abnormal) / 2
    times = []
    for window in windows[:_TIMED]:
        started = time.perf_counter_ns()
        predictor.answer(window)
        times.append(time.perf_counter_ns() - started)
    return Trial(losses, statistics.median(times) / 1e3)
