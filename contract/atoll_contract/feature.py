"""What a column of the feature matrix can be, beside a value itself.

A *row* feature says something of each reading of a window (a value of an earlier reading, the hour of
the day); a *summary* says one thing of the whole window (a mean, the energy in a band). As soon as one
feature is a summary the matrix has one row: its row features are then those of the newest reading.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

MAX_WINDOW_LENGTH: Final = 100_000


class Part(BaseModel):
    """Base of everything in a manifest."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class FeatureKind(StrEnum):
    """How a feature is computed from the samples of its value; times are those of the readings."""

    LAG = "lag"
    """The value ``lag`` readings before."""
    DIFFERENCE = "difference"
    """The value less the one ``lag`` readings before."""
    ASINH = "asinh"
    """Inverse hyperbolic sine of the value divided by ``scale``: in proportion to the value below ``scale``,
    to its logarithm far beyond, with its sign. Spreads out what lies in powers of ten."""
    MEAN = "mean"
    STD = "std"
    """Standard deviation of the samples themselves: divided by their number."""
    MIN = "min"
    MAX = "max"
    RANGE = "range"
    """Greatest less least sample."""
    RMS = "rms"
    """Root of the mean square."""
    ROUGHNESS = "roughness"
    """Root of the mean square of the steps from sample to sample; 0 of one sample."""
    SLOPE = "slope"
    """Of the straight line with the least squares, per sample."""
    QUANTILE = "quantile"
    """Below it lies the share ``quantile`` of the samples, linear in between."""
    KURTOSIS = "kurtosis"
    """Excess over that of a normal distribution; 0 of equal samples."""
    CREST = "crest"
    """Greatest magnitude divided by the root of the mean square; 0 of zeros."""
    BAND = "band"
    """Mean square of what lies from ``low_hz`` to below ``high_hz``, mean removed, Hann window."""
    PEAK_HZ = "peak_hz"
    """The frequency, above 0, with the most energy; 0 of equal samples."""
    HOUR_SIN = "hour_sin"
    """Sine of the time of day: a turn a day."""
    HOUR_COS = "hour_cos"
    WEEK_SIN = "week_sin"
    """Sine of the time of the week: a turn a week, from Monday 0:00."""
    WEEK_COS = "week_cos"


EARLIER: Final = frozenset({FeatureKind.LAG, FeatureKind.DIFFERENCE})
CALENDAR: Final = frozenset(
    {FeatureKind.HOUR_SIN, FeatureKind.HOUR_COS, FeatureKind.WEEK_SIN, FeatureKind.WEEK_COS}
)
SPECTRAL: Final = frozenset({FeatureKind.BAND, FeatureKind.PEAK_HZ})
SUMMARIES: Final = frozenset(FeatureKind) - EARLIER - CALENDAR - {FeatureKind.ASINH}

_PARAMETERS: Final = ("lag", "scale", "quantile", "low_hz", "high_hz")
_KEYS: Final = {
    FeatureKind.LAG: ("lag",),
    FeatureKind.DIFFERENCE: ("lag",),
    FeatureKind.ASINH: ("scale",),
    FeatureKind.QUANTILE: ("quantile",),
    FeatureKind.BAND: ("low_hz", "high_hz"),
}


class Feature(Part):
    """A feature that is computed; a value itself stands in the list by its name alone.

    Attributes:
        kind: How it is computed.
        value: Of which value; calendar features have none.
        lag: Of ``lag`` and ``difference``: how many readings before, 1 or more.
        scale: Of ``asinh``: what is small, in the unit of the value.
        quantile: Of ``quantile``: 0 to 1.
        low_hz: Of ``band``: its lower edge.
        high_hz: Of ``band``: its upper edge, which belongs to the next one.
    """

    kind: FeatureKind
    value: str | None = None
    lag: Annotated[int, Field(ge=1, lt=MAX_WINDOW_LENGTH)] | None = None
    scale: Annotated[float, Field(ge=1e-30, le=1e30)] | None = None
    quantile: Annotated[float, Field(ge=0, le=1)] | None = None
    low_hz: Annotated[float, Field(ge=0)] | None = None
    high_hz: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _keys_fit_the_kind(self) -> Self:
        if (self.value is None) != (self.kind in CALENDAR):
            needs = "belongs to no value" if self.kind in CALENDAR else "needs a value"
            raise ValueError(f"{self.kind.value} {needs}")
        wanted = _KEYS.get(self.kind, ())
        for key in _PARAMETERS:
            if (getattr(self, key) is not None) != (key in wanted):
                raise ValueError(f"{self.kind.value} {'needs' if key in wanted else 'takes no'} {key}")
        if self.low_hz is not None and self.high_hz is not None and not self.low_hz < self.high_hz:
            raise ValueError("low_hz must be below high_hz")
        return self

    @property
    def label(self) -> str:
        """Name for people and tables.

        >>> Feature(kind=FeatureKind.BAND, value="vibration", low_hz=10.0, high_hz=50.0).label
        'vibration.band(10,50)'
        """
        keys = ",".join(f"{getattr(self, key):g}" for key in _KEYS.get(self.kind, ()))
        name = f"{self.kind.value}({keys})" if keys else self.kind.value
        return name if self.value is None else f"{self.value}.{name}"
