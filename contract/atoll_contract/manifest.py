"""What a bundle says of its model: everything the agent needs to turn readings into predictions.

A manifest is signed with its bundle. Unknown keys are refused: a device that does not know what a
key means must not guess (messages are the opposite, see :mod:`atoll_contract.messages`).
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from atoll_contract.errors import BundleRejectedError, Reason
from atoll_contract.ids import ID_PATTERN
from atoll_contract.messages import MAX_DETAIL_CHARS
from atoll_contract.release import MAX_RELEASE

FORMAT = 1
"""The newest bundle format that this version reads."""

MAX_WINDOW_LENGTH = 100_000
MAX_ELEMENTS = 16_777_216
"""Most numbers in one window."""

DEFAULT_INT8_TOLERANCE_LSB = 2
DEFAULT_FLOAT_TOLERANCE = 1e-5

_FLOAT32_MAX = (2 - 2**-23) * 2.0**127
_FLOAT32_LEAST = 2.0**-149
"""The least number above 0."""


class Task(StrEnum):
    """What a model's output means."""

    REGRESSION = "regression"
    FORECAST = "forecast"
    CLASSIFICATION = "classification"
    ANOMALY = "anomaly"


class WindowKind(StrEnum):
    """How windows follow each other."""

    SLIDING = "sliding"
    TUMBLING = "tumbling"


class Dtype(StrEnum):
    """Element types of input and output tensors."""

    FLOAT32 = "float32"
    INT8 = "int8"
    UINT8 = "uint8"


_ZERO_POINTS = {Dtype.FLOAT32: (0, 0), Dtype.INT8: (-128, 127), Dtype.UINT8: (0, 255)}


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Channels(StrEnum):
    """What the numbers of a pixel are, in order."""

    RGB = "rgb"
    BGR = "bgr"
    GREY = "grey"


class Fit(StrEnum):
    """How a picture of other proportions fills the model's."""

    STRETCH = "stretch"
    """All of it, distorted."""
    CROP = "crop"
    """Its middle, as much as has the model's proportions."""
    PAD = "pad"
    """All of it, in the middle of black."""


class Resampling(StrEnum):
    """How pixels become fewer or more; all but ``nearest`` take the mean of those that become one."""

    NEAREST = "nearest"
    BOX = "box"
    BILINEAR = "bilinear"
    BICUBIC = "bicubic"


class PictureSpec(_Part):
    """How a JPEG or PNG becomes the numbers of an array value, each from 0 to 255.

    Attributes:
        channels: ``rgb``, ``bgr`` or ``grey``.
        fit: ``stretch``, ``crop`` (its middle) or ``pad`` (black around it).
        resampling: ``nearest``, ``box``, ``bilinear`` or ``bicubic``.
    """

    channels: Channels = Channels.RGB
    fit: Fit = Fit.STRETCH
    resampling: Resampling = Resampling.BILINEAR


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
    """

    name: Annotated[str, Field(min_length=1, max_length=64)]
    unit: str | None = None
    shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(max_length=4)] = []
    low: float | None = None
    high: float | None = None
    picture: PictureSpec | None = None

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


class WindowSpec(_Part):
    """How many readings of a device make one input.

    Attributes:
        kind: Sliding windows end at every reading once full; tumbling ones do not overlap.
        length: Readings in a window, counted in order of arrival.
        step_ms: Nominal time between readings, when known.
        max_gap_ms: Two readings of a window further apart than this: the prediction says ``gap``.
    """

    kind: WindowKind = WindowKind.SLIDING
    length: Annotated[int, Field(ge=1, le=MAX_WINDOW_LENGTH)] = 1
    step_ms: Annotated[float, Field(gt=0)] | None = None
    max_gap_ms: Annotated[float, Field(gt=0)] | None = None


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


class TensorSpec(_Part):
    """One input or output tensor of the model file.

    Attributes:
        name: As in the file, for people.
        shape: With the batch dimension, which is 1.
        dtype: Element type.
        scale: Quantisation step; 0 for float tensors.
        zero_point: Quantised number that stands for 0.
    """

    name: str = ""
    shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(min_length=1, max_length=5)]
    dtype: Dtype
    scale: Annotated[float, Field(ge=0)] = 0.0
    zero_point: Annotated[int, Field(ge=-128, le=255)] = 0

    @property
    def size(self) -> int:
        """How many elements the tensor has."""
        return math.prod(self.shape)

    @model_validator(mode="after")
    def _quantised_tensors_have_a_scale(self) -> Self:
        if (self.dtype is Dtype.FLOAT32) != (self.scale == 0.0):
            raise ValueError("scale is 0 for float32 tensors and above 0 for quantised ones")
        low, high = _ZERO_POINTS[self.dtype]
        if not low <= self.zero_point <= high:
            raise ValueError(f"zero_point is in {low} to {high} for {self.dtype.value} tensors")
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
    """

    scale: float = 1.0
    offset: float = 0.0
    unit: str | None = None
    labels: list[str] = []
    threshold: float | None = None
    step_ms: Annotated[float, Field(gt=0)] | None = None
    below: Annotated[float, Field(ge=0)] | None = None
    above: Annotated[float, Field(ge=0)] | None = None

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
            asked for. Both errors count as too large once they are so by three standard errors.
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


class Training(_Part):
    """Where the model comes from.

    Attributes:
        start_ms: Event time of the first reading learnt from.
        end_ms: Event time of the last one.
        rows: How many windows were learnt from.
        data_sha256: Digest of what was learnt from.
        metrics: Figures on the untouched part, by name (``int8_mae``).
        tools: Versions, by name.
        seed: Of the random numbers.
    """

    start_ms: float | None = None
    end_ms: float | None = None
    rows: int | None = None
    data_sha256: str | None = None
    metrics: dict[str, float] = {}
    tools: dict[str, str] = {}
    seed: int | None = None


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
            one feature of as many columns as it has numbers).
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
    features: Annotated[list[str], Field(min_length=1, max_length=256)]
    normalisation: Normalisation
    inputs: Annotated[list[TensorSpec], Field(min_length=1, max_length=16)]
    outputs: Annotated[list[TensorSpec], Field(min_length=1, max_length=16)]
    output: OutputSpec = OutputSpec()
    passing: PassRules = Field(PassRules(), alias="pass")
    tolerance: Annotated[float, Field(ge=0)] | None = None
    training: Training = Training()

    @property
    def columns(self) -> int:
        """Width of the feature matrix: how many numbers one reading contributes."""
        sizes = {value.name: value.size for value in self.values}
        return sum(sizes[name] for name in self.features)

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        names = [value.name for value in self.values]
        if len(set(names)) != len(names):
            raise ValueError("values: a name stands twice")
        if len(names) > 1 and any(value.picture is not None for value in self.values):
            raise ValueError("values: one that is a picture stands alone")
        if len(set(self.features)) != len(self.features):
            raise ValueError("features: a name stands twice")
        if missing := sorted(set(self.features) - set(names)):
            raise ValueError(f"features: {', '.join(missing)} is no value of this manifest")
        for key in ("mean", "scale"):
            if len(getattr(self.normalisation, key)) != len(self.features):
                raise ValueError(f"normalisation.{key}: needs one number per feature")
        elements = self.window.length * self.columns
        if elements > MAX_ELEMENTS:
            raise ValueError(f"window: {elements} numbers, at most {MAX_ELEMENTS} are allowed")
        if len(self.inputs) == 1 and self.inputs[0].size != elements:
            raise ValueError(
                f"inputs: the tensor has {self.inputs[0].size} elements, a window of "
                f"{self.window.length} readings with {self.columns} numbers each has {elements}"
            )
        self._output_fits_the_task()
        return self

    def _output_fits_the_task(self) -> None:
        size = self.outputs[0].size
        if self.task in {Task.REGRESSION, Task.ANOMALY} and size != 1:
            raise ValueError(f"outputs: a {self.task.value} has one output, not {size}")
        if self.task is not Task.REGRESSION and self.output.below is not None:
            raise ValueError(f"output.below: belongs to a regression, not to {self.task.value}")
        if self.task is Task.ANOMALY and self.output.threshold is None:
            raise ValueError("output.threshold: an anomaly model needs one")
        if self.task is Task.CLASSIFICATION and len(self.output.labels) not in {0, size}:
            raise ValueError(f"output.labels: {len(self.output.labels)} labels for {size} outputs")

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
