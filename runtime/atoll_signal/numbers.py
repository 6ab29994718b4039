"""The numbers of a reading as a model needs them, and what stands for those that it lacks."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from atoll_contract.errors import MalformedMessageError, Reason
from atoll_contract.manifest import Imputation, Manifest
from atoll_contract.messages import Value
from atoll_signal.devices import Devices
from atoll_signal.features import FLOAT32_MAX, conversions, flat, missing, refusal_of_number

_STEP_TOLERANCE: Final = 1e-3


class Numbers:
    """Reads the numbers of a manifest's sources, in its units, rounded to float32.

    Args:
        manifest: Says which.
        units: The unit that each value is sent in; by default what the manifest needs.

    Raises:
        ValueError: A value cannot be converted.
    """

    def __init__(self, manifest: Manifest, units: Mapping[str, str | None] | None = None) -> None:
        changes = conversions(manifest, units)
        self._sources = [
            (value.name, tuple(value.shape), change)
            for value, change in zip(manifest.sources, changes, strict=True)
        ]
        self._steps_ms = {
            value.name: value.step_ms for value in manifest.sources if value.step_ms is not None
        }
        spec = manifest.window
        self._may_lack = (spec.resample, spec.impute, spec.max_age_ms) != (None, None, None)
        self._float32 = struct.Struct(f"={manifest.raw_columns}f")

    def of(self, values: Mapping[str, Value], step_ms: float | None) -> tuple[float, ...]:
        """Return the numbers of a reading; NaN for those that it may lack and does.

        Args:
            values: By name.
            step_ms: Time between the elements of its arrays, if it says so.

        Raises:
            MalformedMessageError: A value is missing, not finite as float32, or has another shape or step.
        """
        numbers: list[float] = []
        found = 0
        for name, shape, change in self._sources:
            value = values.get(name)
            if value is None and self._may_lack:
                numbers.append(math.nan)
                continue
            found += 1
            if value is None:
                raise missing(name)
            if not shape and (refusal := refusal_of_number(name, value, change)) is not None:
                raise refusal
            self._require_step(name, step_ms)
            for number in flat(name, shape, value):
                changed = math.nan if number is None else number
                if change is not None:
                    changed = changed * change.scale + change.offset
                if not abs(changed) <= FLOAT32_MAX:
                    detail = f"value {name!r} holds something else than finite numbers"
                    raise MalformedMessageError(detail, Reason.NOT_FINITE)
                numbers.append(changed)
        if not found:
            raise missing(self._sources[0][0])
        return self._float32.unpack(self._float32.pack(*numbers))

    def _require_step(self, name: str, step_ms: float | None) -> None:
        needed = self._steps_ms.get(name)
        if needed is None or step_ms is None or abs(step_ms - needed) <= _STEP_TOLERANCE * needed:
            return
        message = f"value {name!r}: its elements are {step_ms:g} ms apart, the model needs {needed:g} ms"
        raise MalformedMessageError(message, Reason.WRONG_SHAPE)


class Known(msgspec.Struct):
    """What a device said last.

    Attributes:
        times_ms: Event time of each value's number; minus infinity before the first.
        numbers: The numbers.
        imputed_left: After how many more readings the last imputed one has left the window.
    """

    times_ms: list[float]
    numbers: list[float]
    imputed_left: int = 0


class Joining:
    """Completes readings that lack values, each device by what it said before.

    Args:
        manifest: Says by which rule.
        max_devices: For how many devices values are kept.

    Attributes:
        incomplete: How many readings could not be completed.
    """

    def __init__(self, manifest: Manifest, max_devices: int) -> None:
        self.incomplete = 0
        self.devices: Devices[Known] = Devices(max_devices)
        self._max_age_ms = manifest.window.max_age_ms
        self._impute = manifest.window.impute
        self._fills = [value.fill for value in manifest.sources]
        self._depth = manifest.depth

    def fill(
        self, device: str, numbers: Sequence[float], time_ms: float
    ) -> tuple[Sequence[float], bool] | None:
        """Return a whole reading, and whether a number in it is imputed; None: it cannot be made whole."""
        known = self.devices.get(device)
        if known is None:
            known = Known([-math.inf] * len(numbers), [math.nan] * len(numbers))
            self.devices.put(device, known)
        whole, is_imputed, is_whole = list(numbers), False, True
        for place, number in enumerate(numbers):
            if not math.isnan(number):
                known.times_ms[place], known.numbers[place] = time_ms, number
                continue
            # A clock that was set back makes nothing older.
            age_ms = max(0.0, time_ms - known.times_ms[place])
            if self._max_age_ms is not None and age_ms <= self._max_age_ms:
                whole[place] = known.numbers[place]
                continue
            fill = self._fills[place] if self._impute is Imputation.MEAN else None
            if self._impute is Imputation.LAST and age_ms < math.inf:
                fill = known.numbers[place]
            if fill is None:
                is_whole = False
            else:
                whole[place], is_imputed = fill, True
        if not is_whole:
            self.incomplete += 1
            return None
        return whole, is_imputed

    def is_imputed(self, device: str, *, is_imputed: bool) -> bool:
        """Note whether the row that enters a window by count is imputed; return whether one in it is."""
        known = self.devices.get(device)
        if known is None:
            return is_imputed
        known.imputed_left = self._depth if is_imputed else max(0, known.imputed_left - 1)
        return known.imputed_left > 0
