"""The tensors of a model file."""

from __future__ import annotations

import math
from enum import StrEnum
from typing import Annotated, Self

from pydantic import Field, model_validator

from atoll_contract.feature import Part


class Dtype(StrEnum):
    """Element types of input and output tensors."""

    FLOAT32 = "float32"
    INT8 = "int8"
    UINT8 = "uint8"


_ZERO_POINTS = {Dtype.FLOAT32: (0, 0), Dtype.INT8: (-128, 127), Dtype.UINT8: (0, 255)}


class TensorSpec(Part):
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
