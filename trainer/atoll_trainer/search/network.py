"""A small network as plain numbers: what is fitted, thinned, written down and turned into a model file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_LEAST_UNITS: Final = 2


class Head(StrEnum):
    """What the numbers of the last layer become."""

    NUMBERS = "numbers"
    """They are the answer."""
    PROBABILITIES = "probabilities"
    """Softmax of them."""
    SCORE = "score"
    """They restore the input; the mean square of what is not restored is the answer."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer.

    Attributes:
        w: Dense: shape (inputs, units); a convolution over time: (kernel, inputs, units).
        b: Shape (units,).
        relu: Whether negative results become 0.
        stride: Of a convolution.
    """

    w: Floats
    b: Floats
    relu: bool = True
    stride: int = 1

    @property
    def is_convolution(self) -> bool:
        """Whether it goes over time."""
        return self.w.ndim == 3  # noqa: PLR2004

    @property
    def units(self) -> int:
        """How many results it has (at each place in time)."""
        return self.w.shape[-1]


@dataclass(frozen=True, slots=True)
class Network:
    """Layers one behind the other: convolutions, their mean over time or all of them, then dense ones.

    Attributes:
        length: Rows of the feature matrix.
        columns: Its columns.
        layers: At least one dense layer at the end; of a score it may be none.
        head: What the last layer's numbers become.
        pools: Whether the mean over time follows the convolutions.
    """

    length: int
    columns: int
    layers: tuple[Layer, ...]
    head: Head
    pools: bool = False

    @property
    def parameters(self) -> int:
        """How many numbers it has."""
        return sum(layer.w.size + layer.b.size for layer in self.layers)

    def with_weights(self, weights: list[Floats]) -> Network:
        """Return the network with other numbers: w and b of each layer in turn."""
        pairs = zip(self.layers, weights[::2], weights[1::2], strict=True)
        return replace(self, layers=tuple(replace(layer, w=w, b=b) for layer, w, b in pairs))

    def scaled(self, factor: float, shift: Floats) -> Network:
        """Return the network whose last layer gives ``factor`` times its numbers, plus ``shift``."""
        last = self.layers[-1]
        changed = replace(
            last, w=(last.w * factor).astype(np.float32), b=(last.b * factor + shift).astype(np.float32)
        )
        return replace(self, layers=(*self.layers[:-1], changed))

    def times(self, layer_number: int) -> int:
        """Return how many places in time are left behind the convolution of that number (from 0)."""
        count = self.length
        for layer in self.layers[: layer_number + 1]:
            if layer.is_convolution:
                count = (count - layer.w.shape[0]) // layer.stride + 1
        return count

    def thinned(self, share: float) -> Network:
        """Return the network without its weakest units: in each layer but the last ``share`` of them stay.

        A unit is as strong as the norm of what comes in times the norm of what goes out. Whole units go, so
        the model file becomes smaller and faster.
        """
        layers = list(self.layers)
        for number in range(len(layers) - 1):
            layer, behind = layers[number], layers[number + 1]
            keep = max(_LEAST_UNITS, round(layer.units * share))
            if keep >= layer.units or not layer.relu:
                continue
            repeats = 1
            if layer.is_convolution and not behind.is_convolution and not self.pools:
                repeats = self.times(number)
            # Rows of the next layer by the unit that they belong to: time first, then units.
            axis = behind.w.ndim - 2
            outgoing = np.moveaxis(behind.w, axis, 0).reshape(repeats, layer.units, -1)
            strength = np.linalg.norm(layer.w.reshape(-1, layer.units), axis=0)
            strength = (strength + np.abs(layer.b)) * np.sqrt((outgoing**2).sum(axis=(0, 2)))
            kept = np.sort(np.argsort(-strength, kind="stable")[:keep])
            places = (np.arange(repeats)[:, None] * layer.units + kept).ravel()
            layers[number] = replace(layer, w=layer.w[..., kept], b=layer.b[kept])
            layers[number + 1] = replace(behind, w=np.take(behind.w, places, axis=axis))
        return replace(self, layers=tuple(layers))


def drawn(
    random: np.random.Generator, length: int, columns: int, plan: Plan, outputs: int, head: Head
) -> Network:
    """Return a network of ``plan`` with numbers drawn as He et al. (2015) say; the last layer starts at 0."""
    layers: list[Layer] = []
    width, times = columns, length
    for filters in plan.filters:
        kernel = min(plan.kernel, times)
        w = random.normal(0, np.sqrt(2 / (kernel * width)), (kernel, width, filters))
        layers.append(Layer(w.astype(np.float32), np.zeros(filters, np.float32), stride=plan.stride))
        width, times = filters, (times - kernel) // plan.stride + 1
    inputs = width if plan.filters and plan.pools else width * times
    for place, units in enumerate((*plan.widths, outputs)):
        is_last = place == len(plan.widths)
        spread = 0.0 if is_last and head is not Head.SCORE else np.sqrt(2 / inputs)
        w = random.normal(0, 1, (inputs, units)) * spread
        layers.append(Layer(w.astype(np.float32), np.zeros(units, np.float32), relu=not is_last))
        inputs = units
    return Network(length, columns, tuple(layers), head, plan.pools and bool(plan.filters))


@dataclass(frozen=True, slots=True)
class Plan:
    """The form of a network.

    Attributes:
        widths: Units of the hidden dense layers.
        filters: Units of the convolutions before them.
        kernel: Places in time that a convolution sees.
        stride: Places in time that it goes on.
        pools: Whether the mean over time follows.
    """

    widths: tuple[int, ...] = ()
    filters: tuple[int, ...] = ()
    kernel: int = 3
    stride: int = 1
    pools: bool = False
