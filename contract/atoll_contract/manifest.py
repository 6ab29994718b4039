"""What a bundle says of its model: everything the agent needs to turn readings into predictions.

A manifest is signed with its bundle. Unknown keys are refused: a device that does not know what a
key means must not guess (messages are the opposite, see :mod:`atoll_contract.messages`).
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from atoll_contract.errors import BundleRejectedError, Reason
from atoll_contract.feature import EARLIER, MAX_WINDOW_LENGTH, SPECTRAL, SUMMARIES, Feature, FeatureKind
from atoll_contract.feature import Part as _Part
from atoll_contract.ids import ID_PATTERN
from atoll_contract.messages import MAX_DETAIL_CHARS
from atoll_contract.picture import Channels, Fit, PictureSpec, PixelResampling
from atoll_contract.release import MAX_RELEASE
from atoll_contract.tensor import Dtype, TensorSpec
from atoll_contract.training import Training
from atoll_contract.window import Imputation, Resampling, WindowKind, WindowSpec

__all__ = [
    "FORMAT",
    "MAX_ELEMENTS",
    "MAX_WINDOW_LENGTH",
    "Channels",
    "Dtype",
    "Feature",
    "FeatureKind",
    "Fit",
    "Imputation",
    "Manifest",
    "Normalisation",
    "OutputSpec",
    "PassRules",
    "PictureSpec",
    "PixelResampling",
    "Resampling",
    "Task",
    "TensorSpec",
    "Training",
    "ValueSpec",
    "WindowKind",
    "WindowSpec",
]

FORMAT = 1
"""The newest bundle format that this version reads."""

MAX_ELEMENTS = 16_777_216
"""Most numbers in one window."""

DEFAULT_INT8_TOLERANCE_LSB = 2
DEFAULT_FLOAT_TOLERANCE = 1e-5

_LEAST_SPECTRUM = 4
_FLOAT32_MAX = (2 - 2**-23) * 2.0**127
_FLOAT32_LEAST = 2.0**-149
"""The least number above 0."""


class Task(StrEnum):
    """What a model's output means."""

    REGRESSION = "regression"
    FORECAST = "forecast"
    CLASSIFICATION = "classification"
    ANOMALY = "anomaly"


class ValueSpec(_Part):
    """One value the model needs from each reading.

    Attributes:
        name: As in the reading.
        unit: As the stream declares it; null when it has none.
        shape: Of an array value, row-major; empty for one number.
        low: Least valid number; below it the prediction is flagged ``out_of_range``.
        high: Greatest valid number.
        picture: The value may arrive as a picture; how it becomes an array of ``shape``, which is
            [height, width, 3], or [height, width] or [height, width, 1] if it is grey.
        step_ms: Of an array value, time between its elements; readings that say otherwise are refused.
        fill: What stands for a missing number where the window's ``impute`` is ``mean``: the mean of
            what the model learnt from.
    """

    name: Annotated[str, Field(min_length=1, max_length=64)]
    unit: str | None = None
    shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(max_length=4)] = []
    low: float | None = None
    high: float | None = None
    picture: PictureSpec | None = None
    step_ms: Annotated[float, Field(gt=0)] | None = None
    fill: float | None = None

    @property
    def size(self) -> int:
        """How many numbers the value has."""
        return math.prod(self.shape)

    @model_validator(mode="after")
    def _shape_is_of_a_picture(self) -> Self:
        if self.picture is None:
            return self
        is_grey = self.picture.channels is Channels.GREY
        channels = self.shape[2:]
        if len(self.shape) < 2 or channels not in ([[], [1]] if is_grey else [[3]]):  # noqa: PLR2004
            needs = "[height, width] or [height, width, 1]" if is_grey else "[height, width, 3]"
            raise ValueError(f"picture: {self.picture.channels.value} needs shape {needs}, not {self.shape}")
        return self

    @model_validator(mode="after")
    def _range_is_one(self) -> Self:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError("low is above high")
        return self


class Normalisation(_Part):
    """``(x - mean) / scale`` per feature, outside the network so that int8 does not mix ranges.

    Attributes:
        mean: One number per feature, in the values' own units.
        scale: One number per feature, above 0. Devices count in float32: neither may be too large for
            it, and no scale so small that it becomes 0.
    """

    mean: list[float]
    scale: list[Annotated[float, Field(gt=0)]]

    @model_validator(mode="after")
    def _fits_float32(self) -> Self:
        for key, numbers in (("mean", self.mean), ("scale", self.scale)):
            if over := [number for number in numbers if abs(number) > _FLOAT32_MAX]:
                raise ValueError(f"{key}: {over[0]:g} is beyond float32")
        if under := [number for number in self.scale if number < _FLOAT32_LEAST]:
            raise ValueError(f"scale: {under[0]:g} is 0 as float32")
        return self


class OutputSpec(_Part):
    """What the dequantised output ``y`` means: ``value = y * scale + offset``.

    Attributes:
        scale: Factor to the unit of the prediction.
        offset: Added after the factor.
        unit: Unit of the prediction's value.
        labels: Of a classifier, in the order of the output's elements.
        threshold: Of an anomaly score: above it the window is an anomaly.
        step_ms: Of a forecast: time between the forecast values.
        below: Of a regression: how far below its value the truth may lie, in its unit; with ``above``
            the prediction tells ``low`` and ``high``.
        above: Of a regression: how far above its value the truth may lie.
        relative_to: Of a forecast: the feature, a value as it comes, whose newest number is added: the model
            tells a change, which int8 resolves finely whatever the level.
    """

    scale: float = 1.0
    offset: float = 0.0
    unit: str | None = None
    labels: list[str] = []
    threshold: float | None = None
    step_ms: Annotated[float, Field(gt=0)] | None = None
    below: Annotated[float, Field(ge=0)] | None = None
    above: Annotated[float, Field(ge=0)] | None = None
    relative_to: Annotated[str, Field(min_length=1, max_length=64)] | None = None

    @model_validator(mode="after")
    def _bounds_go_together(self) -> Self:
        if (self.below is None) != (self.above is None):
            raise ValueError("below and above go together")
        return self


class PassRules(_Part):
    """What a release has to show on live readings before it is the champion.

    In *shadow* it answers the same windows as the champion and nobody hears it; on *probation* it
    answers, and the champion waits. A rule that is null is not asked for. Without a champion there is
    nothing to compare with, and nothing to go back to: the release answers at once.

    Attributes:
        shadow_windows: Windows that it answers in shadow.
        probation_windows: Windows that it answers on probation.
        max_s: A phase that lasts longer is judged by what was seen until then, if anything was.
        max_disagreement: Mean absolute difference to the champion, in the unit of the prediction; for
            a classifier the share of windows with another label, 0 to 1.
        min_labels: Labels that have to arrive before its error is judged. Once one has, they are waited for.
        max_error: Mean absolute error against labels; for a classifier the share that is wrong.
        max_error_ratio: Its error divided by that of the champion, in shadow on the same labels; 0: not
            asked for. Both errors end a phase once they are too large by three standard errors, and fail it
            if they are so by 1.64 when its time is up; else it lasts until they are below by as many.
        label_tolerance_ms: A label belongs to the latest window that ended at most so long before it.
        latency_ms: Median time of one answer on the device.
        low: Least value that it may predict.
        high: Greatest value that it may predict.
    """

    shadow_windows: Annotated[int, Field(ge=0, le=1_000_000)] = 50
    probation_windows: Annotated[int, Field(ge=0, le=1_000_000)] = 50
    max_s: Annotated[float, Field(gt=0)] = 3600.0
    max_disagreement: Annotated[float, Field(ge=0)] | None = None
    min_labels: Annotated[int, Field(ge=1)] = 20
    max_error: Annotated[float, Field(ge=0)] | None = None
    max_error_ratio: Annotated[float, Field(ge=0)] = 1.5
    label_tolerance_ms: Annotated[float, Field(ge=0)] = 0.0
    latency_ms: Annotated[float, Field(gt=0)] | None = None
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _rules_can_be_kept(self) -> Self:
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError("low is above high")
        if self.max_disagreement is not None and self.shadow_windows == 0:
            raise ValueError("max_disagreement: only shadow_windows show it, and there are none")
        return self


class Manifest(_Part):
    """The signed description of one release of one model.

    Attributes:
        format: Version of the bundle format.
        model: Id of the model, as in the agent's settings.
        release: Number of the release; never reused.
        task: What the output means.
        values: What each reading must hold.
        window: How many readings make one input.
        features: Columns of the feature matrix, in order; each names a value (an array value is
            one feature of as many columns as it has numbers) or says how it is computed.
        zone: Time zone of calendar features, as in the IANA database; null: UTC.
        normalisation: Per feature.
        inputs: Input tensors of the model file: exactly one in this format.
        outputs: Output tensors of the model file: exactly one in this format.
        output: What the output means.
        passing: What it has to show on live readings; ``pass`` in JSON.
        tolerance: Allowed difference of a self-test from the golden outputs: steps of the last
            bit for quantised outputs, relative for float ones. Null: 2 and 1e-5.
        training: Where the model comes from.
    """

    model_config = ConfigDict(populate_by_name=True)

    format: int = FORMAT
    model: Annotated[str, Field(pattern=ID_PATTERN)]
    release: Annotated[int, Field(ge=1, le=MAX_RELEASE)]
    task: Task
    values: Annotated[list[ValueSpec], Field(min_length=1, max_length=256)]
    window: WindowSpec = WindowSpec()
    features: Annotated[list[str | Feature], Field(min_length=1, max_length=256)]
    zone: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    normalisation: Normalisation
    inputs: Annotated[list[TensorSpec], Field(min_length=1, max_length=16)]
    outputs: Annotated[list[TensorSpec], Field(min_length=1, max_length=16)]
    output: OutputSpec = OutputSpec()
    passing: PassRules = Field(PassRules(), alias="pass")
    tolerance: Annotated[float, Field(ge=0)] | None = None
    training: Training = Training()

    @property
    def sources(self) -> list[ValueSpec]:
        """The values that features are made of, in the order in which features name them first."""
        values = {value.name: value for value in self.values}
        named = (item if isinstance(item, str) else item.value for item in self.features)
        return [values[name] for name in dict.fromkeys(named) if name is not None]

    @property
    def computed(self) -> list[Feature]:
        """The features that are no values as they come."""
        return [item for item in self.features if isinstance(item, Feature)]

    @property
    def labels(self) -> list[str]:
        """The features' names, for people and tables."""
        return [item if isinstance(item, str) else item.label for item in self.features]

    @property
    def sizes(self) -> list[int]:
        """How many columns each feature has."""
        sizes = {value.name: value.size for value in self.values}
        return [sizes[item] if isinstance(item, str) else 1 for item in self.features]

    @property
    def columns(self) -> int:
        """Width of the feature matrix."""
        return sum(self.sizes)

    @property
    def base_column(self) -> int | None:
        """Which column of the feature matrix the output is relative to; None: to nothing."""
        at = 0
        for item, size in zip(self.features, self.sizes, strict=True):
            if item == self.output.relative_to and size == 1:
                return at
            at += size
        return None

    @property
    def rows(self) -> int:
        """Height of the feature matrix: one row per reading or step, or a single one with a summary."""
        is_one = self.window.duration_ms is not None or any(item.kind in SUMMARIES for item in self.computed)
        return 1 if is_one else self.window.length

    @property
    def raw_columns(self) -> int:
        """How many numbers one reading contributes."""
        return sum(value.size for value in self.sources)

    @property
    def depth(self) -> int:
        """How many readings (or steps) are kept for a window: its own, and those that lags go back to."""
        lag = max((item.lag or 0 for item in self.computed), default=0)
        return max(self.window.length, self.rows + lag)

    @property
    def is_plain(self) -> bool:
        """Whether the input is the values themselves, of readings as they come."""
        has_steps = any(value.step_ms is not None for value in self.sources)
        return self.window.is_plain and not self.computed and not has_steps

    @property
    def keeps_readings(self) -> bool:
        """Whether an answer depends on more than one reading."""
        return self.depth > 1 or not self.window.is_plain

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        names = [value.name for value in self.values]
        if len(set(names)) != len(names):
            raise ValueError("values: a name stands twice")
        if len(names) > 1 and any(value.picture is not None for value in self.values):
            raise ValueError("values: one that is a picture stands alone")
        if len(set(self.labels)) != len(self.features):
            raise ValueError("features: a name stands twice")
        named = {item if isinstance(item, str) else item.value for item in self.features} - {None}
        if missing := sorted(set(map(str, named)) - set(names)):
            raise ValueError(f"features: {', '.join(missing)} is no value of this manifest")
        if not named:
            raise ValueError("features: none is made of a value")
        for key in ("mean", "scale"):
            if len(getattr(self.normalisation, key)) != len(self.features):
                raise ValueError(f"normalisation.{key}: needs one number per feature")
        self._features_fit_the_window()
        elements = max(self.rows * self.columns, self.depth * self.raw_columns)
        if elements > MAX_ELEMENTS:
            raise ValueError(f"window: {elements} numbers, at most {MAX_ELEMENTS} are allowed")
        size = self.rows * self.columns
        if len(self.inputs) == 1 and self.inputs[0].size != size:
            what = (
                f"a window of {self.rows} readings with {self.columns} numbers each"
                if not self.computed
                else f"a feature matrix of {self.rows} x {self.columns}"
            )
            raise ValueError(f"inputs: the tensor has {self.inputs[0].size} elements, {what} has {size}")
        self._output_fits_the_task()
        return self

    def _features_fit_the_window(self) -> None:
        window, values = self.window, {value.name: value for value in self.values}
        if window.impute is Imputation.MEAN and any(value.fill is None for value in self.sources):
            raise ValueError("window.impute: mean needs the fill of every value")
        self._arrays_fit_the_window()
        if self.depth > MAX_WINDOW_LENGTH:
            raise ValueError(f"features: a lag goes back more than {MAX_WINDOW_LENGTH} readings")
        is_tumbling = window.kind is WindowKind.TUMBLING and window.resample is None
        for item in self.computed:
            where = f"features: {item.label}"
            if item.kind in {*EARLIER, FeatureKind.ASINH} and values[str(item.value)].shape:
                raise ValueError(f"{where}: of a number only, not of an array")
            if item.kind in EARLIER and window.duration_ms is not None:
                raise ValueError(f"{where}: readings are not counted in windows by duration_ms; use resample")
            if item.kind in EARLIER and is_tumbling and self.depth > window.length:
                raise ValueError(f"{where}: goes back beyond a tumbling window")
            if item.kind in SPECTRAL:
                self._require_rate(item, values[str(item.value)])

    def _arrays_fit_the_window(self) -> None:
        window, arrays = self.window, [value for value in self.sources if value.shape]
        if any(value.picture is not None for value in arrays) and not self.is_plain:
            raise ValueError("values: a picture is seen as it comes, without computed features")
        is_made = window.resample or window.impute or window.max_age_ms is not None
        if arrays and is_made:
            raise ValueError(f"window: {arrays[0].name} is an array, which is neither resampled nor joined")

    def _require_rate(self, item: Feature, value: ValueSpec) -> None:
        if not value.shape and self.window.duration_ms is not None:
            raise ValueError(f"features: {item.label}: needs samples at equal steps; use resample")
        step_ms = value.step_ms if value.shape else self.window.step_ms
        if step_ms is None:
            key = f"values.{value.name}.step_ms" if value.shape else "window.step_ms"
            raise ValueError(f"features: {item.label}: needs {key}")
        samples, half_hz = value.size if value.shape else self.window.length, 500.0 / step_ms
        if samples < _LEAST_SPECTRUM:
            raise ValueError(f"features: {item.label}: of at least {_LEAST_SPECTRUM} samples")
        if item.high_hz is not None and item.high_hz > half_hz * (1 + 1e-9):
            raise ValueError(f"features: {item.label}: samples {step_ms:g} ms apart end at {half_hz:g} Hz")

    def _output_fits_the_task(self) -> None:
        size = self.outputs[0].size
        if self.task in {Task.REGRESSION, Task.ANOMALY} and size != 1:
            raise ValueError(f"outputs: a {self.task.value} has one output, not {size}")
        if self.task is not Task.REGRESSION and self.output.below is not None:
            raise ValueError(f"output.below: belongs to a regression, not to {self.task.value}")
        if self.output.relative_to is not None and (
            self.task is not Task.FORECAST or self.base_column is None
        ):
            raise ValueError(
                "output.relative_to: of a forecast, one of the features that is a value as it comes"
            )
        if self.task is Task.ANOMALY and self.output.threshold is None:
            raise ValueError("output.threshold: an anomaly model needs one")
        if self.task is Task.CLASSIFICATION and len(self.output.labels) not in {0, size}:
            raise ValueError(f"output.labels: {len(self.output.labels)} labels for {size} outputs")

    @classmethod
    def with_float_input(cls, **parts: Any) -> Self:
        """Return the manifest of ``parts`` with a float32 input tensor of the size that they ask for.

        Raises:
            ValidationError: The parts do not fit together.
        """
        draft = cls.model_construct(**parts, inputs=[])
        try:
            size = draft.rows * draft.columns
        except KeyError:
            size = 1  # a feature of no value, which is told below
        return cls(**parts, inputs=[TensorSpec(shape=[1, size], dtype=Dtype.FLOAT32)])

    def encode(self) -> bytes:
        """Return the manifest as JSON, indented for people, keys in the order of the fields."""
        return self.model_dump_json(
            exclude_defaults=False, exclude_none=True, by_alias=True, indent=1
        ).encode()

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Return the manifest in ``payload``.

        Raises:
            BundleRejectedError: Not a manifest, of a newer format, or of a form this version
                cannot run. The reason tells which.
        """
        try:
            manifest = cls.model_validate_json(payload)
        except ValidationError as error:
            raise _rejection(payload, error) from error
        if manifest.format != FORMAT:
            raise _unknown_format(manifest.format)
        if len(manifest.inputs) != 1 or len(manifest.outputs) != 1:
            message = (
                f"manifest: {len(manifest.inputs)} input and {len(manifest.outputs)} output "
                "tensors; models with one of each can be run"
            )
            raise BundleRejectedError(message, Reason.UNSUPPORTED_TENSORS)
        return manifest


class _FormatOnly(BaseModel):
    model_config = ConfigDict(strict=True)

    format: int


def _unknown_format(number: int) -> BundleRejectedError:
    message = f"manifest: format {number}; this version of atoll reads format {FORMAT}: upgrade it"
    return BundleRejectedError(message, Reason.UNKNOWN_FORMAT)


def _rejection(payload: bytes, error: ValidationError) -> BundleRejectedError:
    try:
        number = _FormatOnly.model_validate_json(payload).format
    except ValidationError:
        number = FORMAT
    if number != FORMAT:
        return _unknown_format(number)
    faults = "; ".join(
        f"{'.'.join(map(str, fault['loc'])) or 'manifest'}: {fault['msg']}"
        for fault in error.errors(include_url=False)[:5]
    )
    return BundleRejectedError(f"manifest: {faults}"[:MAX_DETAIL_CHARS], Reason.MALFORMED_BUNDLE)
