"""``reference.json`` of a bundle: how features and outputs were spread where the model learnt.

The agent counts what it sees into the same bins and tells how far that has moved. Unknown keys are
ignored: drift is told, and decides nothing on the device.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from atoll_contract.errors import BundleRejectedError
from atoll_contract.messages import MAX_DETAIL_CHARS

MAX_EDGES = 64
"""Most edges of one histogram."""


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)


class Histogram(_Part):
    """How often numbers fell into each bin: below the first edge, between two, at or above the last.

    Attributes:
        edges: Ascending; a number that equals one belongs above it.
        counts: One more than there are edges.
        limit: Population stability index that is more than what the training data have shown themselves.
    """

    edges: Annotated[list[float], Field(min_length=1, max_length=MAX_EDGES)]
    counts: list[Annotated[int, Field(ge=0)]]
    limit: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def _bins_are_counted(self) -> Self:
        if any(low >= high for low, high in pairwise(self.edges)):
            raise ValueError("edges: must ascend")
        if len(self.counts) != len(self.edges) + 1 or not any(self.counts):
            raise ValueError(f"counts: needs {len(self.edges) + 1} numbers, not all of them 0")
        return self


class ExpectedError(_Part):
    """The absolute error on the untouched part; of a classifier 1 for another label.

    Attributes:
        mean: Its mean.
        std: Its standard deviation.
    """

    mean: Annotated[float, Field(ge=0)]
    std: Annotated[float, Field(ge=0)]


class Ahead(_Part):
    """Where a forecast finds its truth: in a later reading of the same device.

    Attributes:
        column: Which number of the newest row of the feature matrix it is.
        after_ms: How much later than the window.
        tolerance_ms: How much earlier or later that reading may be.
    """

    column: Annotated[int, Field(ge=0)]
    after_ms: Annotated[float, Field(gt=0)]
    tolerance_ms: Annotated[float, Field(ge=0)] = 0.0


class Reference(_Part):
    """The whole file.

    Attributes:
        format: Version of the file's form.
        span_s: Time that a comparison covers at least: a part of the training span.
        windows: How many windows a comparison needs at least.
        features: Of the newest row of the feature matrix, one per feature in its order; of an array its
            numbers together.
        output: Of the value that predictions have.
        error: How large the error should be.
        ahead: Of a forecast.
    """

    format: Literal[1] = 1
    span_s: Annotated[float, Field(gt=0)]
    windows: Annotated[int, Field(ge=1, le=1_000_000)]
    features: Annotated[list[Histogram], Field(max_length=256)] = []
    output: Histogram | None = None
    error: ExpectedError | None = None
    ahead: Ahead | None = None

    def encode(self) -> bytes:
        """Return the file's content."""
        return self.model_dump_json(exclude_none=True).encode()

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Return what a file says.

        Raises:
            BundleRejectedError: It is none, or of a newer form.
        """
        try:
            return cls.model_validate_json(payload)
        except ValidationError as error:
            first: Any = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "file"
            message = f"reference.json: {where}: {first['msg'].removeprefix('Value error, ')}"
            raise BundleRejectedError(message[:MAX_DETAIL_CHARS]) from error
