"""Which of the judged models is taken: accuracy, size and latency."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atoll_trainer.dataset import UnsuitableDataError
from atoll_trainer.task_tables import Prefer, SearchTable


@dataclass(frozen=True, slots=True)
class Judged:
    """What one model file showed on the validation part.

    Attributes:
        losses: Of each window, shape (n,), the same windows for all.
        size_bytes: Of the file.
        latency_us: Median time of one answer.
        parameters: How many numbers the model has.
    """

    losses: NDArray[np.float64]
    size_bytes: int
    latency_us: float
    parameters: int

    @property
    def loss(self) -> float:
        """The mean loss."""
        return float(self.losses.mean())


@dataclass(frozen=True, slots=True)
class Choice:
    """Which is taken and why.

    Attributes:
        chosen: Its place.
        standard_errors: Of the mean difference of each to the best.
        is_on_front: Whether no other is at least as good in all three and better in one.
        why: For people.
    """

    chosen: int
    standard_errors: list[float]
    is_on_front: list[bool]
    why: str


def choose(found: Sequence[Judged], table: SearchTable) -> Choice:
    """Return the smallest model within one standard error of the best, or the best if that is preferred.

    The standard error is that of the mean difference of the two losses on the same windows: what is hard for
    both does not hide that one is better.

    Raises:
        UnsuitableDataError: None keeps the limits of the task.
    """
    allowed = [place for place, one in enumerate(found) if is_allowed(one.size_bytes, one.latency_us, table)]
    if not allowed:
        size = min(one.size_bytes for one in found)
        latency = min(one.latency_us for one in found)
        raise UnsuitableDataError(
            f"none of {len(found)} candidates keeps max_size_bytes and max_latency_us: the smallest has "
            f"{size:,} bytes, the fastest answers in {latency:.1f} µs"
        )
    best = min(allowed, key=lambda place: (found[place].loss, found[place].size_bytes, place))
    errors = [_standard_error(one.losses - found[best].losses) for one in found]
    front = [not any(_is_better(other, one) for other in found) for one in found]
    if table.prefer is Prefer.ACCURATE:
        return Choice(best, errors, front, f"the best of {len(found)}")
    near = [place for place in allowed if found[place].loss - found[best].loss <= errors[place]]
    chosen = min(near, key=lambda place: (found[place].size_bytes, found[place].loss, place))
    if chosen == best:
        why = f"the best of {len(found)}, and none within one standard error is smaller"
    else:
        more = found[chosen].loss - found[best].loss
        why = (
            f"the smallest within one standard error of the best of {len(found)}: {more:.3g} more loss, "
            f"standard error {errors[chosen]:.3g}, {found[chosen].size_bytes:,} instead of "
            f"{found[best].size_bytes:,} bytes"
        )
    return Choice(chosen, errors, front, why)


def is_allowed(size_bytes: int, latency_us: float, table: SearchTable) -> bool:
    """Whether a file keeps the limits of the task."""
    is_small = table.max_size_bytes is None or size_bytes <= table.max_size_bytes
    return is_small and (table.max_latency_us is None or latency_us <= table.max_latency_us)


def _standard_error(differences: NDArray[np.float64]) -> float:
    if len(differences) < 2:  # noqa: PLR2004
        return 0.0
    return float(differences.std(ddof=1) / np.sqrt(len(differences)))


def _is_better(other: Judged, one: Judged) -> bool:
    ours = (one.loss, one.size_bytes, one.latency_us)
    theirs = (other.loss, other.size_bytes, other.latency_us)
    return all(a <= b for a, b in zip(theirs, ours, strict=True)) and theirs != ours
