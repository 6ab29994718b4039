"""The task file: what a model is to learn, from which readings, and how.

``[task]`` and ``[window]`` become the manifest of the bundle; ``[split]`` and ``[fit]`` say how the
model is made. Every fault is reported at once, with file and key.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Self

from pydantic import ConfigDict, Field, model_validator

from atoll_contract.manifest import (
    MAX_ELEMENTS,
    MAX_WINDOW_LENGTH,
    Dtype,
    Manifest,
    Normalisation,
    OutputSpec,
    PassRules,
    Task,
    TensorSpec,
    ValueSpec,
    WindowSpec,
)
from atoll_link.settings import Id, Table, load

LABEL: Final = "label"
"""The target of a regression: what label messages say."""


ValueName = Annotated[str, Field(min_length=1, max_length=64)]


class TaskKind(StrEnum):
    """What is learnt."""

    REGRESSION = "regression"
    FORECAST = "forecast"

    @property
    def task(self) -> Task:
        """The same in the manifest's words."""
        return Task(self.value)


class InputTable(Table):
    """``[task.values.NAME]``: one value of a reading that the model sees.

    Attributes:
        unit: Unit that the stream sends it in.
        shape: Of an array value; empty for one number.
        low: Least valid number: windows with less are left out here and flagged on the device.
        high: Greatest valid number.
    """

    unit: str | None = None
    shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(max_length=4)] = []
    low: float | None = None
    high: float | None = None

    @model_validator(mode="after")
    def _range_is_one(self) -> Self:
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        return self


class TaskTable(Table):
    """``[task]``: what is learnt.

    Attributes:
        model: Id of the model, as in the agents' settings.
        stream: Id of the stream whose readings it sees.
        kind: ``regression`` (a label per reading) or ``forecast`` (a value, some readings ahead).
        values: What the model sees of a reading, in this order.
        target: ``label``, or of a forecast the name of one of the values.
        horizon: How many readings ahead a forecast looks.
        step_ms: Nominal time between readings.
        unit: Unit of the prediction; of a forecast by default that of its value.
        label_tolerance_ms: How much later than its reading a label may be.
    """

    model: Id
    stream: Id
    kind: TaskKind
    values: Annotated[dict[ValueName, InputTable], Field(min_length=1, max_length=256)]
    target: str = LABEL
    horizon: Annotated[int, Field(ge=1, le=10_000)] = 1
    step_ms: Annotated[float, Field(gt=0)] | None = None
    unit: str | None = None
    label_tolerance_ms: Annotated[float, Field(ge=0)] = 1000.0

    @model_validator(mode="after")
    def _target_fits_the_kind(self) -> Self:
        if self.kind is TaskKind.REGRESSION and self.target != LABEL:
            raise ValueError(f"target {self.target!r}: a regression learns {LABEL!r}")
        if self.kind is TaskKind.FORECAST:
            if self.target not in self.values:
                known = ", ".join(self.values)
                raise ValueError(f"target {self.target!r}: a forecast needs one of the values: {known}")
            if self.values[self.target].shape:
                raise ValueError(f"target {self.target!r}: an array cannot be forecast")
        return self


class WindowTable(Table):
    """``[window]``: how many readings make one input.

    Attributes:
        length: Readings in a window.
        max_gap_ms: Windows with two readings further apart are left out here and flagged on the
            device.
    """

    length: Annotated[int, Field(ge=1, le=MAX_WINDOW_LENGTH)] = 1
    max_gap_ms: Annotated[float, Field(gt=0)] | None = None


class SplitTable(Table):
    """``[split]``: shares of the windows, in order of time; the rest is the untouched test part.

    Attributes:
        train: Learnt from.
        validation: Says when to stop.
    """

    train: Annotated[float, Field(gt=0, lt=1)] = 0.7
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.1

    @model_validator(mode="after")
    def _leaves_a_test_part(self) -> Self:
        if self.train + self.validation >= 1:
            raise ValueError("train and validation together must leave a part for the test")
        return self


class FamilyName(StrEnum):
    """Kinds of models that can be fitted."""

    LINEAR = "linear"


class Optimiser(StrEnum):
    """How the weights follow the gradient."""

    GRADIENT_DESCENT = "gradient_descent"
    ADAM = "adam"


class FitTable(Table):
    """``[fit]``: how the model is fitted.

    Attributes:
        family: Kind of model.
        optimiser: ``gradient_descent`` or ``adam``.
        learning_rate: Length of its steps, on normalised numbers.
        epochs: Most passes over the training part.
        batch: Windows per step; 0: all of them.
        patience: Epochs without a better validation loss before it stops; 0: never stop early.
        seed: Of the random numbers.
    """

    family: FamilyName = FamilyName.LINEAR
    optimiser: Optimiser = Optimiser.ADAM
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    epochs: Annotated[int, Field(ge=1, le=1_000_000)] = 200
    batch: Annotated[int, Field(ge=0)] = 0
    patience: Annotated[int, Field(ge=0)] = 50
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0


class TaskFile(Table):
    """The whole file.

    Attributes:
        task: What is learnt.
        window: How many readings make one input.
        split: What is learnt from and what is kept for the test.
        fit: How the model is fitted.
        passing: ``[pass]``: what a release has to show on live readings before it is the champion.
    """

    model_config = ConfigDict(populate_by_name=True)

    task: TaskTable
    window: WindowTable = WindowTable()
    split: SplitTable = SplitTable()
    fit: FitTable = FitTable()
    passing: PassRules = Field(PassRules(), alias="pass")

    @model_validator(mode="after")
    def _window_is_not_too_large(self) -> Self:
        if (elements := self.window.length * self.columns) > MAX_ELEMENTS:
            raise ValueError(f"window: {elements} numbers; at most {MAX_ELEMENTS} are allowed")
        return self

    @classmethod
    def read(cls, path: Path) -> TaskFile:
        """Return the task in ``path``; the environment does not change it.

        Raises:
            ConfigError: With one line per fault.
        """
        return load(cls, path, environment={})

    @property
    def specs(self) -> list[ValueSpec]:
        """The values as the manifest writes them."""
        return [
            ValueSpec(name=name, unit=value.unit, shape=value.shape, low=value.low, high=value.high)
            for name, value in self.task.values.items()
        ]

    @property
    def columns(self) -> int:
        """How many numbers one reading contributes."""
        return sum(spec.size for spec in self.specs)

    @property
    def target_column(self) -> int:
        """Of a forecast: which column of a row it is about."""
        names = list(self.task.values)
        return sum(spec.size for spec in self.specs[: names.index(self.task.target)])

    @property
    def unit(self) -> str | None:
        """Unit of the prediction."""
        if self.task.unit is None and self.task.kind is TaskKind.FORECAST:
            return self.task.values[self.task.target].unit
        return self.task.unit

    def manifest(
        self, normalisation: Normalisation | None = None, scale: float = 1.0, offset: float = 0.0
    ) -> Manifest:
        """Return the manifest of this task with float tensors, release 1.

        The device's own code makes rows and windows from it; :mod:`atoll_trainer.bundling` puts in
        the tensors of the model file.

        Args:
            normalisation: Of the features; by default none.
            scale: Of the output, to the unit of the prediction.
            offset: Added after the factor.
        """
        names = list(self.task.values)
        identity = Normalisation(mean=[0.0] * len(names), scale=[1.0] * len(names))
        return Manifest(
            model=self.task.model,
            release=1,
            task=self.task.kind.task,
            values=self.specs,
            window=WindowSpec(
                length=self.window.length, step_ms=self.task.step_ms, max_gap_ms=self.window.max_gap_ms
            ),
            features=[*names],
            normalisation=normalisation or identity,
            inputs=[TensorSpec(shape=[1, self.window.length * self.columns], dtype=Dtype.FLOAT32)],
            outputs=[TensorSpec(shape=[1, 1], dtype=Dtype.FLOAT32)],
            output=OutputSpec(scale=scale, offset=offset, unit=self.unit, step_ms=self._output_step_ms),
            passing=self.passing,
        )

    @property
    def _output_step_ms(self) -> float | None:
        if self.task.kind is TaskKind.FORECAST and self.task.step_ms is not None:
            return self.task.step_ms * self.task.horizon
        return None
