"""From readings to a run folder: windows are cut and parted, a model is found or fitted, and written."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from atoll_trainer import dataset
from atoll_trainer.dataset import Examples, LeftOut, Readings, Split
from atoll_trainer.families import Epoch
from atoll_trainer.runs import Run, RunFacts
from atoll_trainer.suitability import require_change, require_enough
from atoll_trainer.task import TaskFile

if TYPE_CHECKING:
    from atoll_trainer.search.search import Attempt


@dataclass(frozen=True, slots=True)
class Prepared:
    """Windows of a task, before anything is learnt.

    Attributes:
        examples: All of them, of the longest length that is tried.
        left_out: Windows that were not used, by reason.
        lengths: Lengths that are tried.
        parts: The same windows, parted.
    """

    examples: Examples
    left_out: Counter[LeftOut]
    lengths: list[int]
    parts: Split


def prepare(readings: Readings, task: TaskFile) -> Prepared:
    """Return the windows of ``readings``, parted as ``task`` asks for.

    Raises:
        UnsuitableDataError: The readings are not what the task needs.
    """
    examples, left_out, lengths = dataset.cut_longest(readings, task)
    parts = dataset.split(examples, task)
    require_enough(parts, readings.source)
    require_change(parts, readings.source)
    return Prepared(examples, left_out, lengths, parts)


def train(
    run: Run,
    task_path: Path,
    task: TaskFile,
    readings: Readings,
    prepared: Prepared,
    on_epoch: Callable[[Epoch], None] = lambda _: None,
    on_trial: Callable[[Attempt], None] = lambda _: None,
) -> RunFacts:
    """Find the model of ``task`` (or fit it, where the task has ``[fit]``), and write the run folder.

    Args:
        run: Where to.
        task_path: The task as it was given.
        task: The same, read.
        readings: What is learnt from.
        prepared: Their windows.
        on_epoch: Is told of each epoch of a fit.
        on_trial: Is told of each fit of a search.

    Raises:
        ConfigError: The settings of the fit do not work.
        UnsuitableDataError: Nothing can be learnt from the readings.
        BundleRejectedError: A candidate cannot be converted or run.
        StorageError: The folder cannot be written.
    """
    # TensorFlow takes seconds to load: first everything that can fail without it.
    from atoll_trainer import learn  # noqa: PLC0415

    if task.fit is not None:
        outcome = learn.fitted(task, prepared.parts, on_epoch)
    else:
        fills = dataset.fills(readings, task)
        outcome = learn.searched(task, prepared.parts, prepared.lengths, fills, on_trial)
    return learn.store(run, task_path, task, readings, prepared.left_out, outcome)
