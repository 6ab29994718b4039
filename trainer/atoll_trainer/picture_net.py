"""A small convolutional network for pictures; brings TensorFlow with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from atoll_contract.errors import StorageError
from atoll_link.files import storage_error
from atoll_trainer.quiet_tensorflow import tf

_WIDTHS: Final = (8, 16, 32)
_BATCH: Final = 64


@dataclass(frozen=True, slots=True)
class FittedNet:
    """A fitted network.

    Attributes:
        net: The network, normalised pixels in, probabilities out.
        epochs: How many it took; the best one's weights are kept.
        validation_accuracy: Of the best epoch.
    """

    net: Any
    epochs: int
    validation_accuracy: float

    def save(self, folder: Path) -> None:
        """Write a SavedModel: float32 [1, pixels], normalised -> float32 [1, classes], probabilities.

        Raises:
            StorageError: It cannot be written.
        """
        shape = self.net.input_shape[1:]
        # The converter would look for the variables of a Keras model in vain: its weights are constants.
        weights = [tf.constant(one) for one in self.net.trainable_variables]
        others = [tf.constant(one) for one in self.net.non_trainable_variables]

        def probabilities(window: Any) -> dict[str, Any]:
            picture = tf.reshape(window, [1, *shape])
            found, _ = self.net.stateless_call(weights, others, picture, training=False)
            return {"probabilities": found}

        module = tf.Module()
        module.predict = tf.function(
            probabilities,
            input_signature=[tf.TensorSpec([1, int(np.prod(shape))], tf.float32, name="window")],
        )
        try:
            tf.saved_model.save(module, str(folder), signatures=module.predict)
        except OSError as error:
            raise storage_error(folder, error) from error
        except tf.errors.OpError as error:  # as it tells a full disk
            raise StorageError(f"{folder}: the model cannot be written: {error.message[:300]}") from error


def fit(
    pictures: NDArray[np.float32],
    classes: NDArray[np.int64],
    ends: tuple[int, int],
    *,
    count: int,
    epochs: int,
    seed: int,
) -> FittedNet:
    """Return a network fitted to the training part; rare classes weigh as much as frequent ones.

    Args:
        pictures: Normalised, shape (n, height, width, channels), in order of time.
        classes: What each shows, shape (n,).
        ends: Where the training part and the validation part end.
        count: How many classes there are.
        epochs: Most passes; it stops when the validation part gains no more.
        seed: Of the random numbers.
    """
    tf.keras.utils.set_random_seed(seed)
    layers = tf.keras.layers
    net = tf.keras.Sequential([layers.Input(pictures.shape[1:])])
    for width in _WIDTHS:
        net.add(layers.Conv2D(width, 3, strides=2, padding="same", activation="relu"))
    net.add(layers.Flatten())
    net.add(layers.Dense(32, activation="relu"))
    net.add(layers.Dense(count, activation="softmax"))
    net.compile(tf.keras.optimizers.Adam(2e-3), "sparse_categorical_crossentropy", metrics=["accuracy"])
    train, validation = slice(0, ends[0]), slice(*ends)
    seen = np.bincount(classes[train], minlength=count)
    weights = {number: len(classes[train]) / count / max(1, int(many)) for number, many in enumerate(seen)}
    stopping = tf.keras.callbacks.EarlyStopping(patience=6, restore_best_weights=True)
    history = net.fit(
        pictures[train],
        classes[train],
        validation_data=(pictures[validation], classes[validation]),
        batch_size=_BATCH,
        epochs=epochs,
        class_weight=weights,
        callbacks=[stopping],
        verbose=0,
    ).history
    best = int(np.argmin(history["val_loss"]))
    return FittedNet(net, len(history["loss"]), float(history["val_accuracy"][best]))
