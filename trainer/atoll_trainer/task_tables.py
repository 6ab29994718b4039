"""Tables of a task file that say how a model is found, and how the rows of a CSV file are read."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Final, Self

from pydantic import BeforeValidator, Field, WithJsonSchema, model_validator

from atoll_contract.feature import MAX_WINDOW_LENGTH
from atoll_contract.ids import ID_PATTERN
from atoll_link.settings import Table


class Order(StrEnum):
    """By what windows go to the parts of a split."""

    TIME = "time"
    """The oldest first."""
    SHUFFLED = "shuffled"
    """By lot: neighbours then stand on both sides, and what is alike is told again."""


class SplitTable(Table):
    """``[split]``: shares of the windows, in order of time; the rest is the untouched test part.

    Attributes:
        train: Learnt from.
        validation: Says when to stop and which model is taken.
        order: ``time``, or ``shuffled``, by lot and with equal shares of each class. Windows that follow each
            other are alike: shuffled, a figure says how well the known is recognised, not what is new.
        grouped: All windows of a device stand in one part; devices are dealt in the order of their names.
        test_from: Windows from this moment on are the test part: ``2016-12-06``, with or without a time, UTC.
            The shares then are of those before; what they leave joins the training.
        fold: Shuffled: which of ``folds`` equal parts is the test; the shares are of the others.
        folds: Into how many parts.
        seed: Of the lot.
    """

    train: Annotated[float, Field(gt=0, lt=1)] = 0.7
    validation: Annotated[float, Field(ge=0, lt=1)] = 0.1
    order: Order = Order.TIME
    grouped: bool = False
    test_from: Annotated[str, Field(pattern=r"^\d{4}-\d\d-\d\d")] | None = None
    fold: Annotated[int, Field(ge=0)] | None = None
    folds: Annotated[int, Field(ge=2, le=100)] = 5
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0

    @model_validator(mode="after")
    def _leaves_a_test_part(self) -> Self:
        has_own_test = self.test_from is not None or self.fold is not None
        if self.train + self.validation >= 1 and not has_own_test:
            raise ValueError("train and validation together must leave a part for the test")
        if self.fold is not None and (self.order is not Order.SHUFFLED or self.fold >= self.folds):
            raise ValueError(f"fold: needs order = shuffled, and must be below folds ({self.folds})")
        if self.grouped and (self.order is not Order.TIME or self.test_from is not None):
            raise ValueError("grouped: whole devices are neither shuffled nor cut by test_from")
        return self


class FamilyName(StrEnum):
    """Kinds of models."""

    LINEAR = "linear"
    """One matrix product; of an anomaly, the principal components of normal windows."""
    SEASONAL = "seasonal"
    """A forecast: a linear map of the smoothed window, and one of what smoothing takes away."""
    SVM = "svm"
    """Linear classifier with the squared hinge loss, one class against the rest."""
    MLP = "mlp"
    """Dense layers."""
    CONV = "conv"
    """Convolutions over time, then a dense layer."""
    AUTOENCODER = "autoencoder"
    """Of an anomaly: dense layers that squeeze a window and restore it."""


class Prefer(StrEnum):
    """Which of the good models is taken."""

    SMALL = "small"
    """The smallest within one standard error of the best."""
    ACCURATE = "accurate"
    """The best."""


class SearchTable(Table):
    """``[search]``: how the best small model is looked for, by trying many, unless there is ``[fit]``.

    Attributes:
        families: Kinds of models that are tried; by default all that fit the task.
        trials: How many fits are tried.
        epochs: Most passes over the training part in each.
        patience: Epochs without a better validation loss before a fit stops.
        candidates: The best so many become int8 and are judged in the runtime that devices use.
        prefer: ``small``: the smallest within one standard error of the best; or ``accurate``.
        max_int8_loss: Share of its accuracy that a model may lose as int8; one that loses more is tuned for
            int8, and if that does not help is shipped as float.
        max_size_bytes: A larger file is not taken; where all are larger the search fails.
        max_latency_us: Nor one that answers more slowly here.
        time_limit_s: Ends a search that runs away; the run then says ``cut``.
        seed: Of the random numbers.
    """

    families: list[FamilyName] = []
    trials: Annotated[int, Field(ge=1, le=10_000)] = 16
    epochs: Annotated[int, Field(ge=1, le=100_000)] = 40
    patience: Annotated[int, Field(ge=1)] = 10
    candidates: Annotated[int, Field(ge=1, le=100)] = 6
    prefer: Prefer = Prefer.SMALL
    max_int8_loss: Annotated[float, Field(ge=0)] = 0.01
    max_size_bytes: Annotated[int, Field(ge=1)] | None = None
    max_latency_us: Annotated[float, Field(gt=0)] | None = None
    time_limit_s: Annotated[float, Field(gt=0)] = 900.0
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0


class ThresholdTable(Table):
    """``[threshold]``: above which score a window is an anomaly, from the training part alone.

    Attributes:
        false_alarms: Share of normal windows that may lie above it, before the margin.
        margin: Factor on that score.
        left_out: It is raised by how much larger scores are on stretches that were not learnt from; without,
            a model that has learnt windows by heart tells many more false alarms than that share.
    """

    false_alarms: Annotated[float, Field(ge=0, lt=1)] = 0.001
    margin: Annotated[float, Field(gt=0)] = 1.0
    left_out: bool = True


class CsvValue(Table):
    """A value that is made of cells.

    Attributes:
        column: The column it stands in.
        per: It is divided by the number in this column.
        words: It is a word: the number is its place in this list.
    """

    column: str
    per: str | None = None
    words: Annotated[list[str], Field(max_length=256)] = []

    @model_validator(mode="after")
    def _is_one_of_both(self) -> Self:
        if self.per is not None and self.words:
            raise ValueError("per divides numbers, and words are none")
        return self


class CsvTable(Table):
    """``[csv]``: what the columns of a CSV file mean; options of the command line count more.

    Attributes:
        time: Columns of the event time, joined by a space; without any, rows are ``step_ms`` apart.
        time_format: ``iso8601``, ``s``, ``ms``, ``us``, ``ns``, or a format of ``strptime``.
        values: Column of each value; by default the one of its name.
        label: Column of the label; several, where each class has a column that is 1 for it.
        device: Id of the device of all rows.
        device_column: Column with the name of the device.
        separator: What stands between two cells.
        decimal: The decimal sign.
        missing: What stands for a missing number, beside nothing and nan; ``-200`` also for ``-200.0``.
    """

    time: list[str] = []
    time_format: str = "iso8601"
    values: dict[str, str | CsvValue] = {}
    label: str | Annotated[list[str], Field(min_length=2)] | None = None
    device: Annotated[str, Field(pattern=ID_PATTERN)] = "csv"
    device_column: str | None = None
    separator: Annotated[str, Field(min_length=1, max_length=1)] = ","
    decimal: Annotated[str, Field(min_length=1, max_length=1)] = "."
    missing: list[str] = []


AUTO: Final = 0
"""Stands for a length of window that is looked for."""


def _length(given: object) -> object:
    if given == "auto":
        return AUTO
    if isinstance(given, int) and not 1 <= given <= MAX_WINDOW_LENGTH:
        raise ValueError(f"must be 1 to {MAX_WINDOW_LENGTH}, or auto")
    return given


_LENGTH_SCHEMA: Final = {
    "anyOf": [{"type": "integer", "minimum": 1, "maximum": MAX_WINDOW_LENGTH}, {"const": "auto"}]
}
WindowLength = Annotated[int, BeforeValidator(_length), WithJsonSchema(_LENGTH_SCHEMA)]
"""Of ``[window]``: 1 or more, or ``auto``, which is :data:`AUTO` below."""
