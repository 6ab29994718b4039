"""Which readings of a device make one input of a model."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import Field, model_validator

from atoll_contract.feature import MAX_WINDOW_LENGTH, Part

_MOST_OPEN: Final = 1000
"""Steps that may be open at a time."""


class WindowKind(StrEnum):
    """How windows follow each other."""

    SLIDING = "sliding"
    TUMBLING = "tumbling"


class Resampling(StrEnum):
    """What a step is made of, from the readings around it; a step stands for the time that ends with it."""

    LINEAR = "linear"
    """On the straight line between the reading before and the one after."""
    LAST = "last"
    """The last reading."""
    MEAN = "mean"
    """The mean of the readings since the step before."""


class Imputation(StrEnum):
    """What stands for a number that is missing; the prediction then says ``imputed``."""

    LAST = "last"
    """The device's last known one, however old."""
    LINEAR = "linear"
    """Between the readings on both sides of the gap; only where steps are resampled ``linear``."""
    MEAN = "mean"
    """The ``fill`` of the value."""


class WindowSpec(Part):
    """Which readings of a device make one input.

    Three ways: the last ``length`` readings, counted in order of arrival; with ``duration_ms`` the
    readings of that time, however many; with ``resample`` the last ``length`` steps of ``step_ms``.
    The last two go by event time, steps and tumbling windows from 1970 on.

    Attributes:
        kind: Sliding windows end at every reading (or step) once full; tumbling ones do not overlap.
        length: Readings, or steps, in a window; with ``duration_ms`` the most that are kept.
        step_ms: Time between readings, where it is known; between steps.
        max_gap_ms: Two readings of a window further apart than this: the prediction says ``gap``. Steps
            between them are made as ``impute`` says, or the window begins anew.
        duration_ms: Time that a window lasts.
        resample: What a step is made of.
        lateness_ms: How late, by event time, a reading may come and still enter its window; by default
            not at all. Where time is waited for, predictions come so much later.
        max_age_ms: Values may come in different readings: what a reading lacks is the last known value
            of its device, at most so old.
        impute: What stands for a missing number; null: the reading is refused.
    """

    kind: WindowKind = WindowKind.SLIDING
    length: Annotated[int, Field(ge=1, le=MAX_WINDOW_LENGTH)] = 1
    step_ms: Annotated[float, Field(gt=0)] | None = None
    max_gap_ms: Annotated[float, Field(gt=0)] | None = None
    duration_ms: Annotated[float, Field(gt=0)] | None = None
    resample: Resampling | None = None
    lateness_ms: Annotated[float, Field(ge=0)] | None = None
    max_age_ms: Annotated[float, Field(ge=0)] | None = None
    impute: Imputation | None = None

    @property
    def is_plain(self) -> bool:
        """Whether it takes readings as they come: counted, complete."""
        return (self.duration_ms, self.resample, self.max_age_ms, self.impute) == (None, None, None, None)

    @model_validator(mode="after")
    def _ways_are_not_mixed(self) -> Self:
        if self.resample is None:
            if self.impute is Imputation.LINEAR:
                raise ValueError("impute: linear needs resample = linear, which awaits the reading after")
            if self.lateness_ms is not None and self.duration_ms is None:
                raise ValueError("lateness_ms: readings that are counted are never late")
            return self
        if self.duration_ms is not None or self.max_age_ms is not None:
            raise ValueError("resample: takes neither duration_ms (length steps) nor max_age_ms (max_gap_ms)")
        if self.step_ms is None or self.max_gap_ms is None:
            raise ValueError("resample: needs step_ms, and max_gap_ms: which readings are too far apart")
        if self.impute is Imputation.LINEAR and self.resample is not Resampling.LINEAR:
            raise ValueError("impute: linear needs resample = linear")
        for key, found in (("lateness_ms", self.lateness_ms or 0.0), ("max_gap_ms", self.max_gap_ms)):
            if found > _MOST_OPEN * self.step_ms:
                raise ValueError(f"{key}: at most {_MOST_OPEN} steps")
        return self
