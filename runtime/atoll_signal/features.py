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
from atoll_contract.manifest import Manifest, ValueSpec
from atoll_contract.messages import Value
from atoll_signal.units import Conversion, conversion

FLOAT32_MAX: Final = float(np.finfo(np.float32).max)
_INFINITY: Final = math.inf


class FeatureRow:
    """Turns the values of readings into rows: the numbers of the values that features are made of.

    Args:
        manifest: Says which, in which order, in which units.
        units: The unit that each value is sent in; by default what the manifest needs.

    Raises:
        ValueError: A value cannot be converted.
    """

    def __init__(self, manifest: Manifest, units: Mapping[str, str | None] | None = None) -> None:
        self._sources = tuple(value.name for value in manifest.sources)
        self._shapes = tuple(tuple(value.shape) for value in manifest.sources)
        self._are_numbers = not any(self._shapes)
        self._conversions = conversions(manifest, units)
        self._numbers = _getter(self._sources)
        if any(self._conversions):
            self._numbers = _converting(self._numbers, self._conversions)
        # "=": the native byte order, and an error where a number is too large (without, it is infinite).
        self._pack = struct.Struct(f"={manifest.raw_columns}f").pack

    def row(self, values: Mapping[str, Value]) -> bytes:
        """Return the row of one reading: packed float32 numbers, in the units that the manifest names.

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
        for name, shape, change in zip(self._sources, self._shapes, self._conversions, strict=True):
            numbers = flat(name, shape, values.get(name))
            found += numbers if change is None else _converted(numbers, change)
        return found

    def _refusal(self, values: Mapping[str, Value]) -> MalformedMessageError:
        """Say which value spoilt the row; None became NaN on the way."""
        for name, shape, change in zip(self._sources, self._shapes, self._conversions, strict=True):
            value = values.get(name)
            if value is None:
                return missing(name)
            if not shape and (refusal := refusal_of_number(name, value, change)) is not None:
                return refusal
        return MalformedMessageError("an array holds something else than finite numbers", Reason.NOT_FINITE)


def missing(name: str) -> MalformedMessageError:
    """Return the refusal of a reading that lacks a value."""
    return MalformedMessageError(f"value {name!r} is missing", Reason.MISSING_VALUE)


def refusal_of_number(name: str, value: Value, change: Conversion | None) -> MalformedMessageError | None:
    """Return why ``value``, which is there, is no number for a model; None if it is one."""
    if value is not None and not isinstance(value, int | float):
        what = "an array" if isinstance(value, list) else "a picture"
        message = f"value {name!r} is {what}, the model needs a number"
        return MalformedMessageError(message, Reason.WRONG_SHAPE)
    number = math.nan if value is None else value
    if change is not None:
        number = number * change.scale + change.offset
    if abs(number) <= FLOAT32_MAX:
        return None
    return MalformedMessageError(f"value {name!r} is not finite", Reason.NOT_FINITE)


def conversions(manifest: Manifest, units: Mapping[str, str | None] | None) -> tuple[Conversion | None, ...]:
    """Return how each source of ``manifest`` is converted from ``units``; None: not at all.

    Raises:
        ValueError: One cannot be.
    """

    def of(value: ValueSpec) -> Conversion | None:
        return conversion(value.unit if units is None else units.get(value.name), value.unit)

    return tuple(map(of, manifest.sources))


def _getter(names: tuple[str, ...]) -> Callable[[Mapping[str, Value]], Sequence[Any]]:
    """Return what finds the values of these names, all of them at once."""
    if len(names) == 1:
        (name,) = names
        return lambda values: (values[name],)
    return itemgetter(*names)


def _converting(
    numbers: Callable[[Mapping[str, Value]], Sequence[Any]], changes: Sequence[Conversion | None]
) -> Callable[[Mapping[str, Value]], Sequence[Any]]:
    terms = [(1.0, 0.0) if change is None else (change.scale, change.offset) for change in changes]
    return lambda values: [
        number * scale + offset for number, (scale, offset) in zip(numbers(values), terms, strict=True)
    ]


def _converted(numbers: list[float | None], change: Conversion) -> list[float | None]:
    return [None if number is None else number * change.scale + change.offset for number in numbers]


def flat(name: str, shape: tuple[int, ...], value: Value) -> list[float | None]:
    """Return the numbers of ``value``, row-major; where a number is wanted it is passed on as it is.

    Raises:
        MalformedMessageError: It is missing, or has another shape.
    """
    if not shape:
        return [value]  # type: ignore[list-item]  # an array here is refused by FeatureRow.row
    if value is None:
        raise missing(name)
    try:
        array = np.array(value, np.float64)
    except (TypeError, ValueError) as error:
        message = f"value {name!r} is not an array of numbers"
        raise MalformedMessageError(message, Reason.WRONG_SHAPE) from error
    # One-dimensional arrays may carry any shape: most devices send them flat.
    if array.shape not in {shape, (math.prod(shape),)}:
        message = f"value {name!r} has shape {list(array.shape)}, the model needs {list(shape)}"
        raise MalformedMessageError(message, Reason.WRONG_SHAPE)
    numbers: list[float | None] = array.ravel().tolist()
    return numbers


def valid_range(values: Sequence[ValueSpec]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return the least and the greatest valid number of each column, infinite where there is none."""
    sizes = [value.size for value in values]
    lows = [-math.inf if value.low is None else value.low for value in values]
    highs = [math.inf if value.high is None else value.high for value in values]
    return np.repeat(np.array(lows, np.float32), sizes), np.repeat(np.array(highs, np.float32), sizes)


class Normaliser:
    """``(x - mean) / scale`` per column, and the valid range of each column.

    An array value is one feature: its mean, scale and range count for all its columns.
    """

    def __init__(self, manifest: Manifest) -> None:
        self._mean = np.repeat(np.array(manifest.normalisation.mean, np.float32), manifest.sizes)
        self._scale = np.repeat(np.array(manifest.normalisation.scale, np.float32), manifest.sizes)
        self._low, self._high = valid_range(manifest.sources)
        # Ranges are of values: where features are computed, their samples are looked at before.
        has_range = bool(np.isfinite(self._low).any() or np.isfinite(self._high).any())
        self._has_range = has_range and manifest.is_plain

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
