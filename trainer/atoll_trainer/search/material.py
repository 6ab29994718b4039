"""What a search learns from: the parts of a task, normalised, for each length of window that is tried."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from atoll_contract.manifest import Manifest, Normalisation
from atoll_signal.features import Normaliser
from atoll_trainer.dataset import Examples, Split
from atoll_trainer.figures import one_hot
from atoll_trainer.search.part import Part
from atoll_trainer.task import TaskFile, TaskKind

_REACH: Final = 8.0
"""Scales that an int8 input spans on each side at most: what is heavy-tailed gets a larger scale."""
_RARE: Final = 0.2


@dataclass(frozen=True, slots=True)
class Material:
    """A task with one length of window, ready to be fitted.

    Attributes:
        task: With that length.
        manifest: With the normalisation, and the scale and offset of the target.
        train: Learnt from.
        validation: Says when to stop.
        parts: The same before normalisation, and the test part.
    """

    task: TaskFile
    manifest: Manifest
    train: Part
    validation: Part
    parts: Split

    @property
    def is_relative(self) -> bool:
        """Whether the target is the change from the newest value."""
        return self.manifest.output.relative_to is not None

    def inputs(self, windows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return windows normalised, float32."""
        return Normaliser(self.manifest).normalise(windows)

    def numbers(self, outputs: NDArray[np.float32], part: Examples) -> NDArray[np.float64]:
        """Return a network's outputs in the unit of the prediction, as a device tells them."""
        found = outputs.astype(np.float64)
        if self.task.task.kind is not TaskKind.FORECAST and self.task.task.kind is not TaskKind.REGRESSION:
            return found
        found = found * self.manifest.output.scale + self.manifest.output.offset
        return found + base_of(self.manifest, part.windows)[:, None]


def material(task: TaskFile, split: Split, length: int, fills: dict[str, float]) -> Material:
    """Return ``split`` for windows of ``length``, normalised by its training part."""
    own = task.with_length(length)
    parts = Split(*(part.shortened(own) for _, part in split))
    train = parts.train
    scales = _scales(own, train)
    is_relative = own.task.kind is TaskKind.FORECAST and own.target_feature is not None
    draft = own.manifest(scales, fills=fills, is_relative=is_relative)
    scale, offset = 1.0, 0.0
    if own.task.kind in {TaskKind.FORECAST, TaskKind.REGRESSION}:
        aims = train.targets.reshape(len(train), -1) - base_of(draft, train.windows)[:, None]
        scale, offset = float(aims.std()) or 1.0, float(aims.mean())
    manifest = own.manifest(scales, scale, offset, fills, is_relative=is_relative)
    return Material(own, manifest, _part(manifest, own, train), _part(manifest, own, parts.validation), parts)


def base_of(manifest: Manifest, windows: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return what a forecast is relative to, shape (n,); 0 where it is to nothing."""
    column = manifest.base_column
    if column is None:
        return np.zeros(len(windows))
    found: NDArray[np.float64] = windows[:, -1, column].astype(np.float64)
    return found


def class_shares(task: TaskFile, part: Examples) -> NDArray[np.float64]:
    """Return the share of each class."""
    counts = np.bincount(part.targets.astype(np.int64), minlength=task.steps)
    shares: NDArray[np.float64] = counts / counts.sum()
    return shares


def is_rare(task: TaskFile, part: Examples) -> bool:
    """Whether a class is so rare that it may have to count more."""
    if task.task.kind is not TaskKind.CLASSIFICATION:
        return False
    shares = class_shares(task, part)
    return bool(shares[shares > 0].min() < _RARE)


def _scales(task: TaskFile, train: Examples) -> Normalisation:
    means, scales, start = [], [], 0
    for size in task.manifest().sizes:
        part = train.windows[:, :, start : start + size].astype(np.float64)
        start += size
        mean = float(part.mean())
        widest = float(np.abs(part - mean).max()) / _REACH
        means.append(mean)
        # As float32, which devices count in, a scale must not be 0 either.
        scales.append(float(np.float32(max(float(part.std()), widest))) or 1.0)
    return Normalisation(mean=means, scale=scales)


def _part(manifest: Manifest, task: TaskFile, examples: Examples) -> Part:
    inputs = Normaliser(manifest).normalise(examples.windows)
    kind, count = task.task.kind, len(examples)
    if kind is TaskKind.CLASSIFICATION:
        targets = one_hot(examples.targets, task.steps)
    elif kind is TaskKind.ANOMALY:
        targets = np.zeros((count, 1))
    else:
        aims = examples.targets.reshape(count, -1) - base_of(manifest, examples.windows)[:, None]
        targets = (aims - manifest.output.offset) / manifest.output.scale
    weights = np.ones(count, np.float32)
    if kind is TaskKind.ANOMALY:
        # What is known to be abnormal is not learnt as normal.
        weights = np.where(examples.targets > 0, 0.0, 1.0).astype(np.float32)
    return Part(inputs, targets.astype(np.float32), weights)
