"""Networks fitted by TensorFlow: Adam in one graph per epoch, with early stopping."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from atoll_trainer.quiet_tensorflow import tf
from atoll_trainer.search.how import Fit, LossKind
from atoll_trainer.search.network import Head, Network
from atoll_trainer.search.part import Part

_AT_ONCE: Final = 8_192
_FIRST, _SECOND, _LEAST = 0.9, 0.999, 1e-7
"""Of Adam: Kingma and Ba, 2015."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A fitted network.

    Attributes:
        network: With the weights of the best epoch.
        losses: Of training and validation part after each epoch, from the state before the first.
        best: Which of them it has.
    """

    network: Network
    losses: list[tuple[float, float]]
    best: int


def prepare() -> None:
    """Make what TensorFlow computes the same each time; small networks are fastest in one thread.

    Threads are as they were where this process has computed something before.
    """
    with suppress(RuntimeError):
        tf.config.threading.set_intra_op_parallelism_threads(1)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    tf.config.experimental.enable_op_determinism()


def fit(network: Network, train: Part, validation: Part, how: Fit, deadline_s: float = math.inf) -> Fitted:
    """Return ``network`` fitted to ``train``, with the weights that serve ``validation`` best.

    Args:
        network: Where it starts from.
        train: Learnt from.
        validation: Says when to stop.
        how: How.
        deadline_s: Moment of the monotonic clock after which no further epoch begins.
    """
    descent = _Descent(network, train, how)
    later = _tensors(validation)
    losses = [(descent.loss(_tensors(train)), descent.loss(later))]
    best, weights = 0, descent.weights()
    for epoch in range(1, how.epochs + 1):
        train_loss = descent.run_epoch(0.5 * (1 + math.cos(math.pi * (epoch - 1) / how.epochs)))
        losses.append((train_loss, descent.loss(later)))
        if losses[-1][1] < losses[best][1]:
            best, weights = epoch, descent.weights()
        elif epoch - best >= how.patience or not math.isfinite(losses[-1][0]):
            break
        if time.monotonic() > deadline_s:
            break
    return Fitted(network.with_weights(weights), losses, best)


def outputs(network: Network, inputs: NDArray[np.float32], *, is_raw: bool = False) -> NDArray[np.float32]:
    """Return what ``network`` gives for ``inputs``, shape (n, outputs); raw: before its head."""
    weights = [tf.constant(array) for layer in network.layers for array in (layer.w, layer.b)]
    run = tf.function(
        lambda x: _answer(network, weights, x, is_raw=is_raw), reduce_retracing=True, autograph=False
    )
    flat = inputs.reshape(len(inputs), -1)
    parts = [run(flat[at : at + _AT_ONCE]).numpy() for at in range(0, len(flat), _AT_ONCE)]
    found: NDArray[np.float32] = np.concatenate(parts)
    return found


def export(network: Network, folder: str) -> None:
    """Write a SavedModel: float32 [1, length * columns] -> float32 [1, outputs]."""
    module = tf.Module()
    module.weights = [
        tf.Variable(array, trainable=False) for layer in network.layers for array in (layer.w, layer.b)
    ]
    module.predict = tf.function(
        lambda window: {"prediction": _answer(network, module.weights, window, is_raw=False)},
        input_signature=[tf.TensorSpec([1, network.length * network.columns], tf.float32, name="window")],
        autograph=False,
    )
    tf.saved_model.save(module, folder, signatures=module.predict)


def _answer(network: Network, weights: list[Any], flat: Any, *, is_raw: bool) -> Any:
    if not network.layers:
        # Not tf.square: the converter has no int8 form of it.
        return tf.reduce_mean(tf.multiply(flat, flat), axis=1, keepdims=True)
    found = _forward(network, weights, flat)
    if is_raw or network.head is Head.NUMBERS:
        return found
    if network.head is Head.PROBABILITIES:
        return tf.nn.softmax(found)
    return tf.reduce_mean(tf.math.squared_difference(flat, found), axis=1, keepdims=True)


def _forward(network: Network, weights: list[Any], flat: Any, dropout: float = 0.0) -> Any:
    """Return the numbers of the last layer; time and columns are two axes of a picture of width 1."""
    found = flat
    if network.layers[0].is_convolution:
        found = tf.reshape(flat, [-1, network.length, 1, network.columns])
    for number, layer in enumerate(network.layers):
        w, b = weights[2 * number], weights[2 * number + 1]
        if layer.is_convolution:
            # What does not fit is left out at the old end: the newest reading says most.
            rest = (network.times(number - 1) - layer.w.shape[0]) % layer.stride
            found = found[:, rest:] if rest else found
            found = tf.nn.conv2d(found, tf.expand_dims(w, 1), [1, layer.stride, 1, 1], "VALID") + b
        else:
            if len(found.shape) > 2:  # noqa: PLR2004
                units = found.shape[-1]
                width = units * network.times(number - 1)
                found = (
                    tf.reduce_mean(found, axis=[1, 2]) if network.pools else tf.reshape(found, [-1, width])
                )
            found = tf.linalg.matmul(found, w) + b
        if layer.relu:
            found = tf.nn.relu(found)
            if dropout:
                found = tf.nn.dropout(found, dropout)
    return found


class _Descent:
    """The weights on their way down."""

    def __init__(self, network: Network, train: Part, how: Fit) -> None:
        tf.random.set_seed(how.seed)
        self._network, self._how = network, how
        self._random = np.random.default_rng(how.seed)
        self._count = len(train.inputs)
        self._batch = min(how.batch, self._count)
        self._data = _tensors(train)
        arrays = [array for layer in network.layers for array in (layer.w, layer.b)]
        self._weights = [tf.Variable(array) for array in arrays]
        self._first = [tf.Variable(np.zeros_like(array)) for array in arrays]
        self._second = [tf.Variable(np.zeros_like(array)) for array in arrays]
        self._step = tf.Variable(0.0)
        # Only the loop over the batches is for TensorFlow to translate: there is none in the rest.
        self._unconverted = tf.autograph.experimental.do_not_convert(self._loss)
        self._epoch = tf.function(self._descend)
        self._mean_loss = tf.function(self._loss, reduce_retracing=True, autograph=False)

    def run_epoch(self, share: float) -> float:
        """Go once through the training part in random order, at ``share`` of the rate; return its loss."""
        order = self._random.permutation(self._count).astype(np.int32)
        total, weight = self._epoch(
            tf.constant(order), tf.constant(self._how.rate * share, tf.float32)
        ).numpy()
        return float(total / max(weight, 1e-12))

    def loss(self, part: tuple[Any, Any, Any]) -> float:
        """Return the loss of a part with the present weights."""
        sums = [
            np.array(self._mean_loss(*(tensor[at : at + _AT_ONCE] for tensor in part)))
            for at in range(0, int(part[0].shape[0]), _AT_ONCE)
        ]
        total, weight = np.sum(sums, axis=0)
        return float(total / max(weight, 1e-12))

    def weights(self) -> list[NDArray[np.float32]]:
        """Return a copy of the present weights."""
        return [variable.numpy() for variable in self._weights]

    def _loss(self, inputs: Any, targets: Any, weights: Any, dropout: float = 0.0) -> Any:
        used = [_rounded(w) if w.shape.rank > 1 else w for w in self._weights]
        found = _forward(self._network, used if self._how.is_quantised else self._weights, inputs, dropout)
        each = _EACH[self._how.loss](found, inputs if self._network.head is Head.SCORE else targets)
        return tf.stack([tf.reduce_sum(each * weights), tf.reduce_sum(weights)])

    def _descend(self, order: Any, rate: Any) -> Any:
        inputs, targets, weights = self._data
        seen = tf.zeros([2])
        for number in tf.range(-(-self._count // self._batch)):
            chosen = order[number * self._batch : (number + 1) * self._batch]
            with tf.GradientTape() as tape:
                parts = [tf.gather(tensor, chosen) for tensor in (inputs, targets, weights)]
                total = self._unconverted(parts[0], parts[1], parts[2], self._how.dropout)
                loss = total[0] / tf.maximum(total[1], 1e-12)
            seen += total
            gradients = tape.gradient(loss, self._weights)
            self._step.assign_add(1.0)
            size = rate * tf.sqrt(1 - _SECOND**self._step) / (1 - _FIRST**self._step)
            moments = zip(self._weights, gradients, self._first, self._second, strict=True)
            for weight, gradient, first, second in moments:
                first.assign(_FIRST * first + (1 - _FIRST) * gradient)
                second.assign(_SECOND * second + (1 - _SECOND) * tf.square(gradient))
                if weight.shape.rank > 1:
                    weight.assign_sub(rate * self._how.decay * weight)
                weight.assign_sub(size * first / (tf.sqrt(second) + _LEAST))
        return seen


def _rounded(w: Any) -> Any:
    """Return weights as the int8 file holds them; gradients pass unchanged."""
    most = tf.maximum(tf.reduce_max(tf.abs(w)), 1e-6)
    return tf.quantization.fake_quant_with_min_max_vars(w, -most, most, num_bits=8, narrow_range=True)


def _huber(found: Any, targets: Any) -> Any:
    off = tf.abs(found - targets)
    return tf.reduce_mean(tf.where(off < 1, 0.5 * tf.square(off), off - 0.5), axis=1)


_EACH: Final[dict[LossKind, Callable[[Any, Any], Any]]] = {
    LossKind.SQUARE: lambda found, targets: tf.reduce_mean(tf.square(found - targets), axis=1),
    LossKind.RESTORATION: lambda found, inputs: tf.reduce_mean(tf.square(found - inputs), axis=1),
    LossKind.ABSOLUTE: lambda found, targets: tf.reduce_mean(tf.abs(found - targets), axis=1),
    LossKind.HUBER: _huber,
    LossKind.CROSS_ENTROPY: lambda found, targets: tf.nn.softmax_cross_entropy_with_logits(targets, found),
    LossKind.SQUARED_HINGE: lambda found, targets: tf.reduce_mean(
        tf.square(tf.nn.relu(1 - (2 * targets - 1) * found)), axis=1
    ),
}


def _tensors(part: Part) -> tuple[Any, Any, Any]:
    return (
        tf.constant(part.inputs.reshape(len(part.inputs), -1)),
        tf.constant(part.targets),
        tf.constant(part.weights),
    )
