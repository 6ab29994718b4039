"""The task file: what a model is to learn, from which readings, and how.

``[task]`` and ``[window]`` become the manifest of the bundle; ``[split]``, ``[search]`` and ``[fit]`` say
how the model is made. Every fault is reported at once, with file and key.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import ConfigDict, Field, ValidationError, model_validator

from atoll_contract.feature import SUMMARIES
from atoll_contract.manifest import (
    Dtype,
    Feature,
    FeatureKind,
    Imputation,
    Manifest,
    Normalisation,
    OutputSpec,
    PassRules,
    Resampling,
    Task,
    TensorSpec,
    ValueSpec,
    WindowKind,
    WindowSpec,
)
from atoll_link.settings import Id, Table, load
from atoll_trainer.task_tables import (
    AUTO,
    CsvTable,
    FamilyName,
    Order,
    SearchTable,
    SplitTable,
    ThresholdTable,
    WindowLength,
)

LABEL: Final = "label"
"""The target of a regression: what label messages say."""


ValueName = Annotated[str, Field(min_length=1, max_length=64)]


class TaskKind(StrEnum):
    """What is learnt."""

    REGRESSION = "regression"
    FORECAST = "forecast"
    CLASSIFICATION = "classification"
    ANOMALY = "anomaly"

    @property
    def task(self) -> Task:
        """The same in the manifest's words."""
        return Task(self.value)

    @property
    def needs_labels(self) -> bool:
        """Whether it is learnt from labels."""
        return self in {TaskKind.REGRESSION, TaskKind.CLASSIFICATION}

    @property
    def has_labels(self) -> bool:
        """Whether labels say anything of it: an anomaly is learnt without, and judged by them."""
        return self is not TaskKind.FORECAST


FAMILIES: Final[Mapping[TaskKind, tuple[FamilyName, ...]]] = {
    TaskKind.REGRESSION: (FamilyName.LINEAR, FamilyName.MLP, FamilyName.CONV),
    TaskKind.FORECAST: (FamilyName.LINEAR, FamilyName.SEASONAL, FamilyName.MLP, FamilyName.CONV),
    TaskKind.CLASSIFICATION: (FamilyName.LINEAR, FamilyName.SVM, FamilyName.MLP, FamilyName.CONV),
    TaskKind.ANOMALY: (FamilyName.LINEAR, FamilyName.AUTOENCODER),
}


class InputTable(Table):
    """``[task.values.NAME]``: one value of a reading that the model sees.

    Attributes:
        unit: Unit that the stream sends it in.
        shape: Of an array value; empty for one number.
        low: Least valid number: windows with less are left out here and flagged on the device.
        high: Greatest valid number.
        step_ms: Of an array value, time between its elements; readings that say otherwise are refused.
    """

    unit: str | None = None
    shape: Annotated[list[Annotated[int, Field(ge=1)]], Field(max_length=4)] = []
    low: float | None = None
    high: float | None = None
    step_ms: Annotated[float, Field(gt=0)] | None = None

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
        kind: ``regression`` (a label per reading), ``forecast`` (a value, some readings ahead),
            ``classification`` (the label is a class) or ``anomaly`` (learnt without labels; where there are
            some, 0 or 1, they judge it).
        values: What the model sees of a reading, in this order.
        target: ``label``, or of a forecast the name of one of the values.
        horizon: How many readings ahead a forecast looks.
        path: It tells every reading up to the horizon, not the one at it alone.
        labels: Names of the classes; a label is the place of its class in this list; in a CSV file it may be
            the name.
        step_ms: Nominal time between readings.
        unit: Unit of the prediction; of a forecast by default that of its value.
        label_tolerance_ms: How much later than its reading a label may be.
        zone: Time zone of calendar features, as in the IANA database; by default UTC.
    """

    model: Id
    stream: Id
    kind: TaskKind
    values: Annotated[dict[ValueName, InputTable], Field(min_length=1, max_length=256)]
    target: str = LABEL
    horizon: Annotated[int, Field(ge=1, le=10_000)] = 1
    path: bool = False
    labels: Annotated[list[ValueName], Field(max_length=1_000)] = []
    step_ms: Annotated[float, Field(gt=0)] | None = None
    unit: str | None = None
    label_tolerance_ms: Annotated[float, Field(ge=0)] = 1000.0
    zone: Annotated[str, Field(min_length=1, max_length=64)] | None = None

    @model_validator(mode="after")
    def _target_fits_the_kind(self) -> Self:
        if self.kind is not TaskKind.FORECAST and (self.target != LABEL or self.path):
            raise ValueError(f"target {self.target!r}: a {self.kind.value} learns {LABEL!r}, and has no path")
        if (self.kind is TaskKind.CLASSIFICATION) != bool(self.labels) or len(self.labels) == 1:
            raise ValueError("labels: a classification names its classes, two or more; nothing else has any")
        if len(set(self.labels)) < len(self.labels):
            raise ValueError("labels: a name stands twice")
        if self.kind is TaskKind.FORECAST:
            if self.target not in self.values:
                known = ", ".join(self.values)
                raise ValueError(f"target {self.target!r}: a forecast needs one of the values: {known}")
            if self.values[self.target].shape:
                raise ValueError(f"target {self.target!r}: an array cannot be forecast")
        return self


class WindowTable(Table):
    """``[window]``: which readings make one input.

    The last ``length`` readings; with ``duration_ms`` the readings of that time; with ``resample`` the last
    ``length`` steps of the task's ``step_ms``. What the device would flag ``gap`` is left out here.

    Attributes:
        kind: ``sliding`` (a prediction at every reading or step once full) or ``tumbling``.
        length: Readings or steps in a window; with ``duration_ms`` the most that are kept. ``auto``: 1, 8,
            32, 64 and a day, where ``task.step_ms`` is known, are tried.
        max_gap_ms: Two readings further apart than this make a gap.
        duration_ms: Time that a window lasts.
        resample: What a step is made of: ``linear`` (between the readings around it), ``last`` or ``mean``.
        lateness_ms: How late, by event time, a reading may come and still count; by default not at all.
        max_age_ms: Values may come in different readings: what one lacks is the last known, so old at most.
        impute: What stands for a missing number: ``last``, ``linear`` or ``mean`` (of the training part).
    """

    kind: WindowKind = WindowKind.SLIDING
    length: WindowLength = 1
    max_gap_ms: Annotated[float, Field(gt=0)] | None = None
    duration_ms: Annotated[float, Field(gt=0)] | None = None
    resample: Resampling | None = None
    lateness_ms: Annotated[float, Field(ge=0)] | None = None
    max_age_ms: Annotated[float, Field(ge=0)] | None = None
    impute: Imputation | None = None


class FeatureTable(Table):
    """``[[feature]]``: one column of the model's input; without any, the values themselves.

    Attributes:
        kind: ``value`` (as it comes), or how it is computed.
        value: Of which value; calendar features (``hour_sin`` and so on) have none.
        lag: Of ``lag`` and ``difference``: how many readings before.
        scale: Of ``asinh``: what is small, in the unit of the value.
        quantile: Of ``quantile``: 0 to 1.
        low_hz: Of ``band``: its lower edge.
        high_hz: Of ``band``: its upper edge.
    """

    kind: FeatureKind | Literal["value"] = "value"
    value: str | None = None
    lag: Annotated[int, Field(ge=1)] | None = None
    scale: Annotated[float, Field(gt=0)] | None = None
    quantile: Annotated[float, Field(ge=0, le=1)] | None = None
    low_hz: Annotated[float, Field(ge=0)] | None = None
    high_hz: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _is_a_feature(self) -> Self:
        try:
            self.feature()
        except ValidationError as error:
            raise ValueError(first_fault(error)) from error
        return self

    def feature(self) -> str | Feature:
        """Return the same in the manifest's words."""
        if isinstance(self.kind, FeatureKind):
            return Feature(**{**self.model_dump(), "kind": self.kind})
        if self.value is None or self.model_dump(exclude={"kind", "value"}, exclude_none=True):
            raise ValueError("a value as it comes needs its name and nothing else")
        return self.value


class Optimiser(StrEnum):
    """How the weights follow the gradient."""

    GRADIENT_DESCENT = "gradient_descent"
    ADAM = "adam"


class FitTable(Table):
    """``[fit]``: one linear model, fitted by gradient descent, instead of a search.

    Attributes:
        family: Kind of model.
        optimiser: ``gradient_descent`` or ``adam``.
        learning_rate: Length of its steps, on normalised numbers.
        epochs: Most passes over the training part.
        batch: Windows per step; 0: all of them.
        patience: Epochs without a better validation loss before it stops; 0: never stop early.
        seed: Of the random numbers.
    """

    family: Literal[FamilyName.LINEAR] = FamilyName.LINEAR
    optimiser: Optimiser = Optimiser.ADAM
    learning_rate: Annotated[float, Field(gt=0)] = 0.01
    epochs: Annotated[int, Field(ge=1, le=1_000_000)] = 200
    batch: Annotated[int, Field(ge=0)] = 0
    patience: Annotated[int, Field(ge=0)] = 50
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0


def first_fault(error: ValidationError) -> str:
    """Return the first fault of a part of the manifest, for people."""
    return error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")


class TaskFile(Table):
    """The whole file.

    Attributes:
        task: What is learnt.
        window: Which readings make one input.
        feature: What of them the model sees.
        split: What is learnt from and what is kept for the test.
        search: How the best model is looked for.
        fit: One linear model by gradient descent, instead of a search.
        threshold: Of an anomaly.
        csv: What the columns of a CSV file mean.
        passing: ``[pass]``: what a release has to show on live readings before it is the champion.
    """

    model_config = ConfigDict(populate_by_name=True)

    task: TaskTable
    window: WindowTable = WindowTable()
    feature: Annotated[list[FeatureTable], Field(max_length=256)] = []
    split: SplitTable = SplitTable()
    search: SearchTable = SearchTable()
    fit: FitTable | None = None
    threshold: ThresholdTable = ThresholdTable()
    csv: CsvTable = CsvTable()
    passing: PassRules = Field(PassRules(), alias="pass")

    @model_validator(mode="after")
    def _parts_fit_together(self) -> Self:
        try:
            self.manifest()
        except ValidationError as error:
            raise ValueError(first_fault(error)) from error
        is_tumbling_time = self.window.kind is WindowKind.TUMBLING and self.window.duration_ms is not None
        if is_tumbling_time and self.task.kind is TaskKind.FORECAST:
            raise ValueError("window: no forecast from tumbling windows by duration_ms; use resample")
        if self.fit is not None and (
            self.task.kind in {TaskKind.CLASSIFICATION, TaskKind.ANOMALY} or self.task.path
        ):
            raise ValueError(
                "fit: a line by gradient descent is for one number; leave [fit] out for a search"
            )
        possible = FAMILIES[self.task.kind]
        if unsuited := [name.value for name in self.search.families if name not in possible]:
            raise ValueError(
                f"search.families: {', '.join(unsuited)}: of a {self.task.kind.value} there are "
                f"{', '.join(name.value for name in possible)}"
            )
        has_summary = any(table.kind in SUMMARIES for table in self.feature)
        if self.is_auto and (self.fit is not None or has_summary or self.window.duration_ms):
            raise ValueError(
                "window.length: auto goes with a search, without duration_ms and summary features"
            )
        if self.window.impute is Imputation.MEAN and self.split.order is Order.SHUFFLED:
            raise ValueError("window.impute: the mean of the training part needs parts in order of time")
        if unknown := set(self.csv.values) - set(self.task.values):
            raise ValueError(f"csv.values: {', '.join(sorted(unknown))}: the task has no such value")
        return self

    @classmethod
    def read(cls, path: Path) -> TaskFile:
        """Return the task in ``path``; the environment does not change it.

        Raises:
            ConfigError: With one line per fault.
        """
        return load(cls, path, environment={})

    @property
    def is_auto(self) -> bool:
        """Whether the length of the window is looked for."""
        return self.window.length == AUTO

    @property
    def length(self) -> int:
        """The length of the window; 1 while it is looked for."""
        return self.window.length or 1

    def with_length(self, length: int) -> TaskFile:
        """Return the task with a window of that length."""
        window = self.window.model_copy(update={"length": length})
        return self.model_copy(update={"window": window})

    @property
    def steps(self) -> int:
        """How many numbers a prediction has."""
        if self.task.kind is TaskKind.CLASSIFICATION:
            return len(self.task.labels)
        return self.task.horizon if self.task.path else 1

    @property
    def used(self) -> set[str]:
        """Names of the values that features are made of."""
        names = {item if isinstance(item, str) else item.value for item in self.features}
        return {name for name in names if name is not None}

    @property
    def specs(self) -> list[ValueSpec]:
        """The values as the manifest writes them."""
        return [ValueSpec(name=name, **value.model_dump()) for name, value in self.task.values.items()]

    @property
    def features(self) -> list[str | Feature]:
        """The features in the manifest's words."""
        return [table.feature() for table in self.feature] or [*self.task.values]

    @property
    def target_feature(self) -> int | None:
        """Of a forecast: the column of the feature matrix that is the value it is about, if there is one."""
        at = 0
        for item, size in zip(self.features, self.manifest().sizes, strict=True):
            if item == self.task.target:
                return at
            at += size
        return None

    def columns_of(self, manifest: Manifest) -> list[int]:
        """Return which numbers of a reading, as the task orders them, are those of the sources."""
        columns: dict[str, range] = {}
        at = 0
        for spec in self.specs:
            columns[spec.name] = range(at, at + spec.size)
            at += spec.size
        return [column for value in manifest.sources for column in columns[value.name]]

    @property
    def target_column(self) -> int:
        """Of a forecast: which number of a reading it is about."""
        names = list(self.task.values)
        return sum(spec.size for spec in self.specs[: names.index(self.task.target)])

    @property
    def unit(self) -> str | None:
        """Unit of the prediction."""
        if self.task.unit is None and self.task.kind is TaskKind.FORECAST:
            target = self.task.values.get(self.task.target)
            return None if target is None else target.unit
        return self.task.unit

    def manifest(
        self,
        normalisation: Normalisation | None = None,
        scale: float = 1.0,
        offset: float = 0.0,
        fills: Mapping[str, float] | None = None,
        *,
        is_relative: bool = False,
        threshold: float | None = None,
    ) -> Manifest:
        """Return the manifest of this task with float tensors, release 1.

        The device's own code makes rows and windows from it; :mod:`atoll_trainer.bundling` puts in
        the tensors of the model file.

        Args:
            normalisation: Of the features; by default none.
            scale: Of the output, to the unit of the prediction.
            offset: Added after the factor.
            fills: What stands for a missing number of each value; by default 0.
            is_relative: A forecast tells the change from the newest value.
            threshold: Of an anomaly score; by default 0.
        """
        features = self.features
        identity = Normalisation(mean=[0.0] * len(features), scale=[1.0] * len(features))
        window = WindowSpec(**{**self.window.model_dump(), "length": self.length}, step_ms=self.task.step_ms)
        is_anomaly = self.task.kind is TaskKind.ANOMALY
        output = OutputSpec(
            scale=scale,
            offset=offset,
            unit=self.unit,
            labels=self.task.labels,
            threshold=(threshold or 0.0) if is_anomaly else None,
            step_ms=self._output_step_ms,
            relative_to=self.task.target if is_relative else None,
        )
        values = self.specs
        if window.impute is Imputation.MEAN:
            values = [
                value.model_copy(update={"fill": (fills or {}).get(value.name, 0.0)}) for value in values
            ]
        return Manifest.with_float_input(
            model=self.task.model,
            release=1,
            task=self.task.kind.task,
            values=values,
            window=window,
            features=features,
            zone=self.task.zone,
            normalisation=normalisation or identity,
            outputs=[TensorSpec(shape=[1, self.steps], dtype=Dtype.FLOAT32)],
            output=output,
            passing=self.passing,
        )

    @property
    def _output_step_ms(self) -> float | None:
        if self.task.kind is TaskKind.FORECAST and self.task.step_ms is not None:
            return self.task.step_ms * (1 if self.task.path else self.task.horizon)
        return None
