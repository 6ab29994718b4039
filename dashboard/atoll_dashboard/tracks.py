"""What was seen of one device: samples of its readings, and of what each model says of it. Pure."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from statistics import fmean
from typing import Final, NamedTuple

from atoll_contract.decisions import Decision
from atoll_contract.messages import Label, Prediction, Quality, Reading, Value
from atoll_dashboard.ring import Rate, Ring

MOST_MODELS: Final = 16
"""Models, by agent, of one device."""
MOST_MODELS_OF_AGENT: Final = 8
"""Of those: one agent cannot hide what another one says."""
MOST_VALUES: Final = 32
"""Values of the readings of one device."""
MOST_DECISIONS: Final = 40
_MOST_MARKS: Final = 20
_MOST_ERRORS: Final = 240
_LATENCIES: Final = 240
_LABEL_CHARS: Final = 48
_NAME_CHARS: Final = 48
_COMMANDS: Final = 3
_COMMAND_CHARS: Final = 120


class Mark(NamedTuple):
    """When a release said its first word on a device."""

    time_ms: float
    release: int


class Told(NamedTuple):
    """A decision, with whose it is."""

    agent: str
    rule: str
    decision: Decision


class Said(NamedTuple):
    """What is kept of a prediction: an output may be as large as a message."""

    release: int
    value: float
    label: str | None
    quality: tuple[Quality, ...]


def in_brief(decision: Decision) -> Decision:
    """Return ``decision`` with no more text than a page shows."""
    commands = [topic[:_COMMAND_CHARS] for topic in decision.commands[:_COMMANDS]]
    if left := len(decision.commands) - len(commands):
        commands.append(f"and {left} more")
    label = decision.label and decision.label[:_LABEL_CHARS]
    return decision.model_copy(update={"label": label, "commands": commands})


class ModelTrack:
    """What one model on one agent says of a device.

    Attributes:
        agent: Who answers.
        model: With which model.
        predictions: Samples of its values, by event time.
        labels: Samples of the truth, by event time.
        latencies: Samples of ``latency_ms``, by event time.
        errors: Samples of the distance between prediction and label, by event time.
        marks: When releases took over.
        last: What the latest prediction said.
        heard_ms: When that arrived.
        rate: How many come.
    """

    __slots__ = (
        "agent",
        "errors",
        "heard_ms",
        "labels",
        "last",
        "latencies",
        "marks",
        "model",
        "predictions",
        "rate",
    )

    def __init__(self, agent: str, model: str) -> None:
        self.agent = agent
        self.model = model
        self.predictions = Ring()
        self.labels = Ring()
        self.latencies = Ring(_LATENCIES)
        self.errors = Ring(_MOST_ERRORS)
        self.marks: deque[Mark] = deque(maxlen=_MOST_MARKS)
        self.last: Said | None = None
        self.heard_ms = 0.0
        self.rate = Rate()

    def predict(self, prediction: Prediction) -> None:
        """Take a prediction."""
        before = self.last
        time_ms = prediction.time_ms
        if before is None or before.release != prediction.release:
            self.marks.append(Mark(time_ms, prediction.release))
        quality = tuple(prediction.quality or ())
        label = _label_of(prediction.output)
        self.last = Said(prediction.release, prediction.value, label, quality)
        self.predictions.append(time_ms, prediction.value)
        self.latencies.append(time_ms, prediction.latency_ms)

    def label(self, label: Label) -> None:
        """Take the truth."""
        time_ms = label.start_ms if label.time_ms is None else label.time_ms
        if time_ms is None or not self.labels.wants(time_ms):
            return
        self.labels.append(time_ms, label.value)
        predicted = self.predictions.at(time_ms)
        if predicted is not None:
            self.errors.append(time_ms, abs(predicted - label.value))

    @property
    def error(self) -> float | None:
        """Mean distance of the latest predictions to their labels."""
        return fmean(self.errors.values()) if len(self.errors) else None


@dataclass(slots=True, eq=False)
class Device:
    """One device.

    Attributes:
        site: Where it is.
        name: Its id.
        models: What is said of it, by agent and model.
        values: Samples of its readings, by stream and value.
        decisions: The latest ones.
        readings: How many readings come.
        heard_ms: When anything of it or about it arrived last.
        topics: Those whose messages belong to it.
    """

    site: str
    name: str
    models: dict[tuple[str, str], ModelTrack] = field(default_factory=dict)
    values: dict[tuple[str, str], Ring] = field(default_factory=dict)
    decisions: deque[Told] = field(default_factory=lambda: deque(maxlen=MOST_DECISIONS))
    readings: Rate = field(default_factory=Rate)
    heard_ms: float = 0.0
    topics: list[str] = field(default_factory=list)

    def read(self, stream: str, reading: Reading, arrival_ms: float) -> None:
        """Take a reading of a stream."""
        time_ms = arrival_ms if reading.time_ms is None else reading.time_ms
        values = reading.values if isinstance(reading.values, dict) else {"value": reading.values}
        for name, value in values.items():
            ring = self.values.get((stream, name[:_NAME_CHARS]))
            if ring is None:
                if len(self.values) >= MOST_VALUES:
                    continue
                ring = self.values[stream, name[:_NAME_CHARS]] = Ring()
            if ring.wants(time_ms) and (number := _shown(value)) is not None:
                ring.append(time_ms, number)


def _label_of(output: dict[str, object] | None) -> str | None:
    label = (output or {}).get("label")
    return label[:_LABEL_CHARS] if isinstance(label, str) else None


def _shown(value: Value) -> float | None:
    """Return the one number that a chart shows: of an array its mean; of nested ones, pictures, none."""
    match value:
        case bool():
            return None
        case int() | float():
            return float(value)
        case [float() | int(), *_] if all(isinstance(one, int | float) for one in value):
            return fmean(value)
        case _:
            return None
