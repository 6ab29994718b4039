"""Linear regression, ``y = wx + b``, by gradient descent on the mean squared error."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atoll_contract.errors import ConfigError, StorageError
from atoll_link.files import storage_error
from atoll_trainer.families import Epoch, Lesson, Weights
from atoll_trainer.quiet_tensorflow import tf
from atoll_trainer.task import FitTable, Optimiser


@dataclass(slots=True)
class FittedLinear:
    """A fitted linear regression; see :class:`atoll_trainer.families.Fitted`."""

    epochs: list[Epoch]
    best: Epoch
    weights: Weights | None

    def save(self, folder: Path) -> None:
        """Write a SavedModel: float32 [1, length * columns] -> float32 [1, 1], normalised.

        Raises:
            StorageError: It cannot be written.
        """
        if self.weights is None:
            raise ValueError("a linear model has weights")
        module = tf.Module()
        module.w = tf.Variable(self.weights.w.reshape(-1, 1), dtype=tf.float32, name="w")
        module.b = tf.Variable([self.weights.b], dtype=tf.float32, name="b")
        # One matrix product and nothing else: the smallest graph, which also takes larger batches.
        module.predict = tf.function(
            lambda window: {"prediction": tf.linalg.matmul(window, module.w) + module.b},
            input_signature=[tf.TensorSpec([1, self.weights.w.size], tf.float32, name="window")],
            autograph=False,
        )
        try:
            tf.saved_model.save(module, str(folder), signatures=module.predict)
        except OSError as error:
            raise storage_error(folder, error) from error
        except tf.errors.OpError as error:  # as it tells a full disk
            raise StorageError(f"{folder}: the model cannot be written: {error.message[:300]}") from error


def fit(lesson: Lesson, settings: FitTable, on_epoch: Callable[[Epoch], None]) -> FittedLinear:
    """Return ``y = wx + b`` fitted to ``lesson``, with the weights of its best epoch.

    Starts from the guess of ``lesson``. Ends after ``settings.epochs``, or when the loss of the
    validation part (of the training part, without one) has not fallen for ``settings.patience`` epochs.

    Raises:
        ConfigError: The learning rate makes the loss grow beyond bounds.
    """
    descent = _Descent(lesson, settings)
    best = descent.state(0)
    weights = descent.weights()
    epochs = [best]
    on_epoch(best)
    for number in range(1, settings.epochs + 1):
        descent.run_epoch()
        epoch = descent.state(number)
        if not math.isfinite(epoch.train_loss):
            raise ConfigError(
                f"fit.learning_rate: the loss is out of bounds after {number} epochs; "
                f"take less than {settings.learning_rate:g}"
            )
        epochs.append(epoch)
        on_epoch(epoch)
        if epoch.loss < best.loss:
            best, weights = epoch, descent.weights()
        elif settings.patience and number - best.number >= settings.patience:
            break
    return FittedLinear(epochs, best, weights)


class _Descent:
    """The weights on their way down."""

    def __init__(self, lesson: Lesson, settings: FitTable) -> None:
        tf.random.set_seed(settings.seed)
        self._random = np.random.default_rng(settings.seed)
        self._shape = lesson.guess.w.shape
        self._count = len(lesson.train_targets)
        self._batch = min(settings.batch or self._count, self._count)
        self._train = _flat(lesson.train_inputs, lesson.train_targets)
        self._validation = _flat(lesson.validation_inputs, lesson.validation_targets)
        self._has_validation = len(lesson.validation_targets) > 0
        self._w = tf.Variable(lesson.guess.w.reshape(-1, 1), dtype=tf.float32)
        self._b = tf.Variable([lesson.guess.b], dtype=tf.float32)
        optimisers = tf.keras.optimizers
        kinds = {Optimiser.GRADIENT_DESCENT: optimisers.SGD, Optimiser.ADAM: optimisers.Adam}
        self._optimiser = kinds[settings.optimiser](settings.learning_rate)
        self._step = tf.function(self._descend, reduce_retracing=True, autograph=False)
        self._mean_square = tf.function(self._loss, reduce_retracing=True, autograph=False)

    def run_epoch(self) -> None:
        """Go once through the training part, shuffled when it is taken in batches."""
        inputs, targets = self._train
        if self._batch == self._count:
            self._step(inputs, targets)
            return
        order = self._random.permutation(self._count)
        for start in range(0, self._count, self._batch):
            chosen = order[start : start + self._batch]
            self._step(tf.gather(inputs, chosen), tf.gather(targets, chosen))

    def state(self, number: int) -> Epoch:
        """Return the losses with the present weights."""
        train_loss = float(self._mean_square(*self._train))
        return Epoch(
            number, train_loss, float(self._mean_square(*self._validation)) if self._has_validation else None
        )

    def weights(self) -> Weights:
        """Return a copy of the present weights."""
        w: NDArray[np.float64] = self._w.numpy().astype(np.float64).reshape(self._shape)
        return Weights(w, float(self._b.numpy()[0]))

    def _loss(self, inputs: Any, targets: Any) -> Any:
        return tf.reduce_mean(tf.square(tf.linalg.matmul(inputs, self._w) + self._b - targets))

    def _descend(self, inputs: Any, targets: Any) -> None:
        with tf.GradientTape() as tape:
            loss = self._loss(inputs, targets)
        variables = [self._w, self._b]
        self._optimiser.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))


def _flat(inputs: NDArray[np.float32], targets: NDArray[np.float32]) -> tuple[Any, Any]:
    # Not -1 for the width: there may be no row to tell it from.
    width = math.prod(inputs.shape[1:])
    return tf.constant(inputs.reshape(-1, width)), tf.constant(targets.reshape(-1, 1))
