"""What a report is drawn from; nothing here knows files, runs or runtimes."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from atoll_contract.manifest import Task

Doubles = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table of models.

    Attributes:
        name: ``naive``, ``float``, ``int8``, or that of a champion.
        figures: By name, in the order of the columns.
        size_bytes: Of the model file.
        latency_us: Median time of one answer.
    """

    name: str
    figures: dict[str, float]
    size_bytes: int | None = None
    latency_us: float | None = None


@dataclass(frozen=True, slots=True)
class Candidate:
    """One model of the search.

    Attributes:
        family: Kind of model.
        form: The rest of what it is, in words.
        loss: On the validation part, as int8.
        size_bytes: Of its int8 file.
        latency_us: Median time of one answer.
        is_on_front: No other is better in all three.
        is_chosen: This one was taken.
    """

    family: str
    form: str
    loss: float
    size_bytes: int
    latency_us: float
    is_on_front: bool
    is_chosen: bool


@dataclass(frozen=True, slots=True)
class Importance:
    """How much worse the model is without one feature: its column shuffled among the windows.

    Attributes:
        feature: Its label.
        loss: Mean loss then.
        spread: Standard deviation over the shuffles.
    """

    feature: str
    loss: float
    spread: float


@dataclass(frozen=True, slots=True)
class Shift:
    """How a feature, or the output, was spread in training and is in the test part.

    Attributes:
        name: Its label.
        edges: Of the bins, shape (n + 1,).
        train: Share of the training windows in each bin, shape (n,).
        test: Of the test windows.
        index: Population stability index between the two.
    """

    name: str
    edges: Doubles
    train: Doubles
    test: Doubles
    index: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """All of it.

    Attributes:
        model: Id of the model.
        task: What it does.
        unit: Of the prediction.
        labels: Of a classification.
        threshold: Of an anomaly score.
        times_ms: Of n windows of the test part, rising.
        targets: The truth, shape (n,) or (n, steps); NaN where nobody knows.
        naive: What the naive guess says, shape (n, outputs).
        float_outputs: What the float model says.
        int8_outputs: What the int8 model says.
        lsb: Step of the int8 output.
        loss_name: What the losses below are, in words.
        loss: Mean loss of the model that ships on the windows of the importances; None without truth.
        rows: The table of models.
        candidates: Of the search.
        importances: Of the features.
        shifts: Of features and output.
        facts: What else a reader must know, by heading.
        warnings: What speaks against the model.
        ships: Which model a bundle holds: ``int8`` or ``float``.
        naive_kind: What the naive guess is, in words.
        devices: Whose windows they are, as numbers, shape (n,); None: nobody says.
    """

    model: str
    task: Task
    unit: str | None
    labels: list[str]
    threshold: float | None
    times_ms: Doubles
    targets: Doubles
    naive: Doubles
    float_outputs: Doubles
    int8_outputs: Doubles
    lsb: float
    loss_name: str
    loss: float | None
    rows: list[Row]
    candidates: list[Candidate] = field(default_factory=list)
    importances: list[Importance] = field(default_factory=list)
    shifts: list[Shift] = field(default_factory=list)
    facts: dict[str, str] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    ships: str = "int8"
    naive_kind: str = ""
    devices: NDArray[np.int64] | None = None

    @property
    def outputs(self) -> Doubles:
        """What the model says that ships."""
        return self.float_outputs if self.ships == "float" else self.int8_outputs
