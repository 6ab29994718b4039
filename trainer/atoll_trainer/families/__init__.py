"""Kinds of models, each fitted on normalised numbers and exported as a SavedModel of batch 1.

A family's module holds ``fit(lesson, settings, on_epoch) -> Fitted``; it is imported when asked for,
since it brings TensorFlow with it.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from atoll_trainer.task import FitTable
from atoll_trainer.task_tables import FamilyName

_MODULES: Final = {FamilyName.LINEAR: "atoll_trainer.families.linear"}


@dataclass(frozen=True, slots=True)
class Weights:
    """``y = inputs @ w + b``.

    Attributes:
        w: Shape (length, columns): by place in the window, oldest first, and column.
        b: The rest.
    """

    w: NDArray[np.float64]
    b: float


@dataclass(frozen=True, slots=True)
class Lesson:
    """What a family learns from: normalised, float32.

    Attributes:
        train_inputs: Shape (n, length, columns).
        train_targets: Shape (n,).
        validation_inputs: Shape (m, length, columns); m may be 0.
        validation_targets: Shape (m,).
        guess: Weights of the guess to beat: where a linear model starts from.
    """

    train_inputs: NDArray[np.float32]
    train_targets: NDArray[np.float32]
    validation_inputs: NDArray[np.float32]
    validation_targets: NDArray[np.float32]
    guess: Weights


@dataclass(frozen=True, slots=True)
class Epoch:
    """How far the fit is. Losses are mean squared errors of normalised targets.

    Attributes:
        number: From 1; 0 is the state before the first.
        train_loss: On the training part.
        validation_loss: On the validation part; None without one.
    """

    number: int
    train_loss: float
    validation_loss: float | None

    @property
    def loss(self) -> float:
        """The loss that decides when to stop."""
        return self.train_loss if self.validation_loss is None else self.validation_loss


class Fitted(Protocol):
    """A fitted model.

    Attributes:
        epochs: Every epoch, the state before the first included.
        best: The epoch whose weights it has.
        weights: Of a linear model, on normalised numbers; None for others.
    """

    epochs: list[Epoch]
    best: Epoch
    weights: Weights | None

    def save(self, folder: Path) -> None:
        """Write a SavedModel: float32 [1, length * columns] -> float32 [1, outputs], normalised.

        Raises:
            StorageError: It cannot be written.
        """


class Family(Protocol):
    """A kind of model."""

    def fit(self, lesson: Lesson, settings: FitTable, on_epoch: Callable[[Epoch], None]) -> Fitted:
        """Return a model fitted to ``lesson``; ``on_epoch`` is told of each epoch.

        Raises:
            ConfigError: The settings make the loss grow beyond bounds.
        """


def family(name: FamilyName) -> Family:
    """Return the family called ``name``."""
    module: Family = importlib.import_module(_MODULES[name])
    return module
