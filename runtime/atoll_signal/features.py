"""From the values of one reading to one row of the feature matrix, and its normalisation."""

from __future__ import annotations

import math
import struct
from collections.abc import Callable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from atoll_contract.errors import MalformedMessageError, Reason
from atoll_contract.manifest import Manifest
from atoll_contract.messages import Value

_FLOAT32_MAX: Final = float(np.finfo(np.float32).max)
_INFINITY: Final = math.inf


class FeatureRow:
    """Turns the values of readings into rows, in the order of a manifest's features.

    Attributes:
        columns: Width of a row.
    """

    def __init__(self, manifest: Manifest) -> None:
        shapes = {value.name: tuple(value.shape) for value in manifest.values}
        self._features = tuple(manifest.features)
        self._shapes = tuple(shapes[name] for name in manifest.features)
        self._are_numbers = not any(self._shapes)
        self._numbers = _getter(self._features)
        # "=": the native byte order, and an error where a number is too large (without, it is infinite).
        self._pack = struct.Struct(f"={manifest.columns}f").pack

    def row(self, values: Mapping[str, Value]) -> bytes:
        """Return the row of one reading: ``columns`` packed float32 numbers, in the values' units.

        Raises:
            MalformedMessageError: A value is missing, not finite as float32, or has another shape.
        """
        try:
            found = self._numbers(values) if self._are_numbers else self._with_arrays(values)
            # The sum is finite only if all are; what float32 cannot hold overflows in packing.
            if -_INFINITY < sum(found) < _INFINITY:
                return self._pack(*found)
        except (KeyError, TypeError, OverflowError, struct.error) as error:
            raise self._refusal(values) from error
        raise self._refusal(values)

    def _with_arrays(self, values: Mapping[str, Value]) -> list[float | None]:
        found: list[float | None] = []
        for name, shape in zip(self._features, self._shapes, strict=True):
            found += _flat(name, shape, values.get(name))
        return found

    def _refusal(self, values: Mapping[str, Value]) -> MalformedMessageError:
        """Say which value spoilt the row; None became NaN on the way."""
        for name, shape in zip(self._features, self._shapes, strict=True):
            value = values.get(name)
            if value is None:
                return MalformedMessageError(f"value {name!r} is missing", Reason.MISSING_VALUE)
            if shape:
                continue
            if not isinstance(value, int | float):
                what = "an array" if isinstance(value, list) else "a picture"
                message = f"value {name!r} is {what}, the model needs a number"
                return MalformedMessageError(message, Reason.WRONG_SHAPE)
            if not abs(value) <= _FLOAT32_MAX:
                return MalformedMessageError(f"value {name!r} is not finite", Reason.NOT_FINITE)
        return MalformedMessageError("an array holds something else than finite numbers", Reason.NOT_FINITE)


def _getter(names: tuple[str, ...]) -> Callable[[Mapping[str, Value]], Sequence[Any]]:
    """Return what finds the values of these names, all of them at once."""
    if len(names) == 1:
        (name,) = names
        return lambda values: (values[name],)
    return itemgetter(*names)


def _flat(name: str, shape: tuple[int, ...], value: Value) -> list[float | None]:
    """Return the numbers of ``value``, row-major."""
    if not shape:
        return [value]  # type: ignore[list-item]  # an array here is refused by FeatureRow.row
    if value is None:
        raise MalformedMessageError(f"value {name!r} is missing", Reason.MISSING_VALUE)
    try:
        array = np.array(value, np.float64)
    except (TypeError, ValueError) as error:
        message = f"value {name!r} is not an array of numbers"
        raise MalformedMessageError(message, Reason.WRONG_SHAPE) from error
    # One-dimensional arrays may carry any shape: most devices send them flat.
    if array.shape not in {shape, (math.prod(shape),)}:
        message = f"value {name!r} has shape {list(array.shape)}, the model needs {list(shape)}"
        raise MalformedMessageError(message, Reason.WRONG_SHAPE)
    flat: list[float | None] = array.ravel().tolist()
    return flat


class Normaliser:
    """``(x - mean) / scale`` per column, and the valid range of each column.

    An array value is one feature: its mean, scale and range count for all its columns.
    """

    def __init__(self, manifest: Manifest) -> None:
        values = {value.name: value for value in manifest.values}
        features = [values[name] for name in manifest.features]
        sizes = [value.size for value in features]
        self._mean = np.repeat(np.array(manifest.normalisation.mean, np.float32), sizes)
        self._scale = np.repeat(np.array(manifest.normalisation.scale, np.float32), sizes)
        lows = [-math.inf if value.low is None else value.low for value in features]
        highs = [math.inf if value.high is None else value.high for value in features]
        self._low = np.repeat(np.array(lows, np.float32), sizes)
        self._high = np.repeat(np.array(highs, np.float32), sizes)
        self._has_range = bool(np.isfinite(self._low).any() or np.isfinite(self._high).any())

    def normalise(self, samples: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return ``samples``, float32, shape (..., columns), normalised; they are left unchanged."""
        normal = samples - self._mean
        normal /= self._scale
        return normal

    def is_out_of_range(self, windows: NDArray[np.float32]) -> NDArray[np.bool_] | None:
        """Return which windows hold a sample outside its value's valid range; None: none does.

        Args:
            windows: Shape (n, length, columns).
        """
        if not self._has_range:
            return None
        outside = (windows < self._low) | (windows > self._high)
        return outside.any(axis=(1, 2)) if outside.any() else None
