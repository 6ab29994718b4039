"""Two releases of a model on one recording: where they differ, and which is nearer to the truth.

Readings become windows by the code of the device, and the runtime of the device answers them.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from atoll_contract.errors import ConfigError, MalformedMessageError, Reason, StorageError
from atoll_contract.manifest import Manifest, Task
from atoll_contract.messages import Label, Value
from atoll_infer.predictor import Answer, Predictor
from atoll_ingest.dialect import AtollDialect, Told
from atoll_ingest.stream import Stream
from atoll_link import recording
from atoll_link.recording import Kind, Row
from atoll_signal.numbers import Numbers
from atoll_signal.picture import rows_of, takes_pictures
from atoll_signal.recorded import recorded

LABEL_TOLERANCE_MS: Final = 1000.0
_AT_ONCE: Final = 1024
_MAX_DEVICES: Final = 65_536

Place = tuple[str, float]
"""Device, and event time of a window's newest reading."""


@dataclass(frozen=True, slots=True)
class Both:
    """What two releases say of one window.

    Attributes:
        device: Whose it is.
        time_ms: Event time of its newest reading.
        first: What the first release says.
        second: What the second one says.
        first_label: The same of a classifier.
        second_label: The same of a classifier.
        truth: What a label says, if there is one.
    """

    device: str
    time_ms: float
    first: float
    second: float
    first_label: str | None = None
    second_label: str | None = None
    truth: float | None = None

    @property
    def difference(self) -> float:
        """How far they are apart."""
        return abs(self.first - self.second)

    @property
    def is_other(self) -> bool:
        """Whether they say another thing: of a classifier another class, else another number."""
        return (
            self.first != self.second if self.first_label is None else self.first_label != self.second_label
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """What came of it.

    Attributes:
        model: Id of the model.
        unit: Of its predictions.
        releases: The two releases.
        is_classifier: Whether they name classes.
        both: The windows that both answered, in order of time.
        only_first: How many only the first one answered.
        only_second: How many only the second one did.
        refused: Messages that neither could read, by reason.
    """

    model: str
    unit: str | None
    releases: tuple[int, int]
    is_classifier: bool
    both: Sequence[Both]
    only_first: int
    only_second: int
    refused: Counter[Reason]

    @property
    def share_other(self) -> float:
        """Share of the windows of which they say another thing."""
        return sum(one.is_other for one in self.both) / len(self.both)

    def mean_difference(self, device: str | None = None) -> float:
        """Return how far they are apart in the mean, over all devices or of one."""
        found = [one.difference for one in self.both if device in {None, one.device}]
        return math.fsum(found) / len(found)

    def errors(self) -> tuple[float, float, int] | None:
        """Return how wrong each is where there are labels, and of how many windows; None: there are none.

        Of a classifier the share of wrong answers, else the mean absolute error.
        """
        labelled = [(one, one.truth) for one in self.both if one.truth is not None]
        if not labelled:
            return None

        def wrong(said: float, truth: float) -> float:
            return float(said != truth) if self.is_classifier else abs(said - truth)

        count = len(labelled)
        first = math.fsum(wrong(one.first, truth) for one, truth in labelled) / count
        return first, math.fsum(wrong(one.second, truth) for one, truth in labelled) / count, count

    def devices(self) -> list[tuple[str, int, float, float]]:
        """Return device, windows, mean difference, share of other answers; those that differ most first."""
        by_device: dict[str, list[Both]] = defaultdict(list)
        for one in self.both:
            by_device[one.device].append(one)
        found = [
            (
                device,
                len(ones),
                math.fsum(one.difference for one in ones) / len(ones),
                sum(one.is_other for one in ones) / len(ones),
            )
            for device, ones in by_device.items()
        ]
        return sorted(found, key=lambda one: (-(one[3] if self.is_classifier else one[2]), one[0]))


def compare(
    folder: Path, first: Predictor, second: Predictor, stream_name: str, stream: Stream | None
) -> Comparison:
    """Return how two releases of one model answer the readings of a recording.

    Args:
        folder: Of the recording.
        first: One of them, ready to answer.
        second: The other.
        stream_name: The stream whose readings they see.
        stream: How its messages are read; by default as our own dialect.

    Raises:
        ConfigError: They are of two models or tasks.
        StorageError: The recording is damaged, or holds nothing that both answer.
    """
    manifests = first.manifest, second.manifest
    if manifests[0].model != manifests[1].model or manifests[0].task is not manifests[1].task:
        told = " and ".join(f"{one.model} ({one.task.value})" for one in manifests)
        raise ConfigError(f"the bundles are of two kinds: {told}; give two releases of one model")
    refused: Counter[Reason] = Counter()
    readings = list(_readings(folder, stream_name, stream, refused))
    answers = [_answered(predictor, readings, refused, stream) for predictor in (first, second)]
    truths = _truths(folder, manifests[0].model, stream_name)
    is_classifier = manifests[0].task is Task.CLASSIFICATION
    both = [
        Both(
            *place,
            answers[0][place].value,
            answers[1][place].value,
            _label(answers[0][place]),
            _label(answers[1][place]),
            truths(place),
        )
        for place in sorted(answers[0].keys() & answers[1].keys(), key=lambda place: (place[1], place[0]))
    ]
    if not both:
        names = ", ".join(recording.names(folder, Kind.READING)) or "no stream at all"
        raise StorageError(
            f"{folder}: no window of stream {stream_name!r} that both answer; it holds {names}, "
            f"and {refused.total()} readings were refused"
        )
    return Comparison(
        model=manifests[0].model,
        unit=manifests[0].output.unit,
        releases=(manifests[0].release, manifests[1].release),
        is_classifier=is_classifier,
        both=both,
        only_first=len(answers[0].keys() - answers[1].keys()),
        only_second=len(answers[1].keys() - answers[0].keys()),
        refused=refused,
    )


def _readings(
    folder: Path, name: str, stream: Stream | None, refused: Counter[Reason]
) -> Iterator[tuple[str, float, Told]]:
    """Yield device, event time and reading of each message, in order of arrival."""
    read = _reader(stream)
    for row in recording.without_redeliveries(recording.read(folder, Kind.READING, name)):
        try:
            told = read(row)
        except MalformedMessageError as error:
            refused[error.reason] += 1
            continue
        for one in told:
            time_ms = one.reading.time_ms
            yield one.device, row.arrival_ms if time_ms is None else time_ms, one


def _reader(stream: Stream | None) -> Callable[[Row], list[Told]]:
    if stream is None:
        dialect = AtollDialect()
        return lambda row: [Told(row.device, reading) for reading in dialect.decode(row.payload)]
    reader = stream.reader(_MAX_DEVICES)
    return lambda row: reader.read(row.topic, row.payload, row.arrival_ms)


def _answered(
    predictor: Predictor,
    readings: Sequence[tuple[str, float, Told]],
    refused: Counter[Reason],
    stream: Stream | None,
) -> dict[Place, Answer]:
    """Return the answer to every window; of two at one time of a device the later one."""
    manifest = predictor.manifest
    units = None if stream is None else stream.units
    cut = _pictures if takes_pictures(manifest) else _windows
    found: dict[Place, Answer] = {}
    for places, windows in cut(manifest, readings, units, refused):
        for start in range(0, len(places), _AT_ONCE):
            chosen = slice(start, start + _AT_ONCE)
            for place, answer in zip(places[chosen], predictor.answers(windows[chosen]), strict=True):
                if isinstance(answer, Answer):
                    found[place] = answer
                else:
                    refused[answer] += 1
    return found


def _windows(
    manifest: Manifest,
    readings: Sequence[tuple[str, float, Told]],
    units: Mapping[str, str | None] | None,
    refused: Counter[Reason],
) -> Iterator[tuple[list[Place], NDArray[np.float32]]]:
    try:
        numbers = Numbers(manifest, units)
    except ValueError as error:
        raise ConfigError(f"the stream's units do not fit release {manifest.release}: {error}") from error
    rows: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    times: dict[str, list[float]] = defaultdict(list)
    for device, time_ms, told in readings:
        values: dict[str, Value] = told.reading.values if isinstance(told.reading.values, dict) else {}
        try:
            rows[device].append(numbers.of(values, told.reading.step_ms))
        except MalformedMessageError as error:
            refused[error.reason] += 1
            continue
        times[device].append(time_ms)
    for device, own in rows.items():
        if own:
            found = recorded(manifest, np.array(own, np.float32), np.array(times[device]))
            yield [(device, float(end_ms)) for end_ms in found.end_ms], found.features


def _pictures(
    manifest: Manifest,
    readings: Sequence[tuple[str, float, Told]],
    units: Mapping[str, str | None] | None,
    refused: Counter[Reason],
) -> Iterator[tuple[list[Place], NDArray[np.float32]]]:
    row_of = rows_of(manifest, units)
    for device, time_ms, told in readings:
        values: dict[str, Value] = told.reading.values if isinstance(told.reading.values, dict) else {}
        try:
            packed = row_of.row(values)
        except MalformedMessageError as error:
            refused[error.reason] += 1
            continue
        yield [(device, time_ms)], np.frombuffer(packed, np.float32).reshape(1, 1, -1)


def _truths(folder: Path, model: str, stream: str) -> Callable[[Place], float | None]:
    """Return what finds the label of a window: of its time, of a span around it, or a little later."""
    exact: dict[Place, float] = {}
    spans: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for row in recording.without_redeliveries(recording.read(folder, Kind.LABEL, model)):
        label = Label.decode(row.payload)
        if label.stream not in {None, stream}:
            continue
        if label.time_ms is not None:
            exact[row.device, label.time_ms] = label.value
            spans[row.device].append((label.time_ms - LABEL_TOLERANCE_MS, label.time_ms, label.value))
        elif label.start_ms is not None and label.end_ms is not None:
            spans[row.device].append((label.start_ms, label.end_ms, label.value))
    starts = {}
    for device, own in spans.items():
        own.sort()
        starts[device] = np.array([start for start, _, _ in own])

    def truth(place: Place) -> float | None:
        if place in exact:
            return exact[place]
        device, time_ms = place
        if device not in starts:
            return None
        at = int(np.searchsorted(starts[device], time_ms, side="right")) - 1
        if at < 0:
            return None
        _, end_ms, value = spans[device][at]
        return value if time_ms < end_ms else None

    return truth


def _label(answer: Answer) -> str | None:
    label = (answer.output or {}).get("label")
    return label if isinstance(label, str) else None
