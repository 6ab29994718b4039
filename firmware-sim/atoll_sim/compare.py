"""Two releases of a model on one recording: where they differ, and which is nearer to the truth.

Readings become windows by the code of the device, and the runtime of the device answers them.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

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
from atoll_signal.labels import Arrived, LabelJoin
from atoll_signal.numbers import Numbers
from atoll_signal.picture import rows_of, takes_pictures
from atoll_signal.recorded import recorded

LABEL_TOLERANCE_MS: Final = 1000.0
"""How much later than its reading a label may be: what a task says unless it says otherwise."""
_AT_ONCE: Final = 1024
_MAX_DEVICES: Final = 65_536

Place = tuple[str, float]
"""Device, and event time of a window's newest reading or step."""


class _Read(NamedTuple):
    """A reading of the recording."""

    device: str
    time_ms: float
    arrival_ms: float
    told: Told


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
        refused: Messages that could not be read, by reason.
        unused: Of each release, readings and windows that it cannot use, by reason.
    """

    model: str
    unit: str | None
    releases: tuple[int, int]
    is_classifier: bool
    both: Sequence[Both]
    only_first: int
    only_second: int
    refused: Counter[Reason]
    unused: tuple[Counter[Reason], Counter[Reason]]

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
    unused: tuple[Counter[Reason], Counter[Reason]] = Counter(), Counter()
    answers = [
        _answered(predictor, readings, counts, stream)
        for predictor, counts in zip((first, second), unused, strict=True)
    ]
    truths = _truths(folder, manifests[0], stream_name, readings)
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
            f"{refused.total()} messages could not be read, and {unused[0].total()} and {unused[1].total()} "
            f"readings not be used"
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
        unused=unused,
    )


def _readings(folder: Path, name: str, stream: Stream | None, refused: Counter[Reason]) -> Iterator[_Read]:
    """Yield the readings of each message, in order of arrival."""
    read = _reader(stream)
    for row in recording.without_redeliveries(recording.read(folder, Kind.READING, name)):
        try:
            told = read(row)
        except MalformedMessageError as error:
            refused[error.reason] += 1
            continue
        for one in told:
            time_ms = one.reading.time_ms
            yield _Read(one.device, row.arrival_ms if time_ms is None else time_ms, row.arrival_ms, one)


def _reader(stream: Stream | None) -> Callable[[Row], list[Told]]:
    if stream is None:
        dialect = AtollDialect()
        return lambda row: [Told(row.device, reading) for reading in dialect.decode(row.payload)]
    reader = stream.reader(_MAX_DEVICES)
    return lambda row: reader.read(row.topic, row.payload, row.arrival_ms)


def _answered(
    predictor: Predictor,
    readings: Sequence[_Read],
    unused: Counter[Reason],
    stream: Stream | None,
) -> dict[Place, Answer]:
    """Return the answer to every window; of two at one time of a device the later one."""
    manifest = predictor.manifest
    units = None if stream is None else stream.units
    cut = _pictures if takes_pictures(manifest) else _windows
    found: dict[Place, Answer] = {}
    for places, windows in cut(manifest, readings, units, unused):
        for start in range(0, len(places), _AT_ONCE):
            chosen = slice(start, start + _AT_ONCE)
            for place, answer in zip(places[chosen], predictor.answers(windows[chosen]), strict=True):
                if isinstance(answer, Answer):
                    found[place] = answer
                else:
                    unused[answer] += 1
    return found


def _windows(
    manifest: Manifest,
    readings: Sequence[_Read],
    units: Mapping[str, str | None] | None,
    unused: Counter[Reason],
) -> Iterator[tuple[list[Place], NDArray[np.float32]]]:
    try:
        numbers = Numbers(manifest, units)
    except ValueError as error:
        raise ConfigError(f"the stream's units do not fit release {manifest.release}: {error}") from error
    rows: dict[str, list[tuple[float, ...]]] = defaultdict(list)
    times: dict[str, list[float]] = defaultdict(list)
    for device, time_ms, _, told in readings:
        values: dict[str, Value] = told.reading.values if isinstance(told.reading.values, dict) else {}
        try:
            rows[device].append(numbers.of(values, told.reading.step_ms))
        except MalformedMessageError as error:
            unused[error.reason] += 1
            continue
        times[device].append(time_ms)
    for device, own in rows.items():
        if own:
            found = recorded(manifest, np.array(own, np.float32), np.array(times[device]))
            yield [(device, float(end_ms)) for end_ms in found.end_ms], found.features


def _pictures(
    manifest: Manifest,
    readings: Sequence[_Read],
    units: Mapping[str, str | None] | None,
    unused: Counter[Reason],
) -> Iterator[tuple[list[Place], NDArray[np.float32]]]:
    row_of = rows_of(manifest, units)
    for device, time_ms, _, told in readings:
        values: dict[str, Value] = told.reading.values if isinstance(told.reading.values, dict) else {}
        try:
            packed = row_of.row(values)
        except MalformedMessageError as error:
            unused[error.reason] += 1
            continue
        yield [(device, time_ms)], np.frombuffer(packed, np.float32).reshape(1, 1, -1)


def _truths(
    folder: Path, manifest: Manifest, stream: str, readings: Sequence[_Read]
) -> Callable[[Place], float | None]:
    """Return what finds the label of a window's newest reading, joined as labels are to be learnt from."""
    labels = (
        Arrived(row.device, row.arrival_ms, label)
        for row in recording.without_redeliveries(recording.read(folder, Kind.LABEL, manifest.model))
        if (label := Label.decode(row.payload)).stream in {None, stream}
    )
    times = np.array([one.time_ms for one in readings], np.float64)
    arrivals = np.array([one.arrival_ms for one in readings], np.float64)
    values, _ = LabelJoin([one.device for one in readings], times, arrivals, LABEL_TOLERANCE_MS).join(labels)
    found: dict[str, dict[float, float]] = defaultdict(dict)
    for one, value in zip(readings, values.tolist(), strict=True):
        if not math.isnan(value) or one.time_ms not in found[one.device]:
            found[one.device][one.time_ms] = value
    read_at = {device: np.sort(np.array(list(own))) for device, own in found.items()}
    # Of equal steps the newest reading lies within the last step, else where the window ends.
    window = manifest.window
    step_ms = 0.0 if window.resample is None or window.step_ms is None else window.step_ms

    def truth(place: Place) -> float | None:
        device, end_ms = place
        newest = int(np.searchsorted(read_at[device], end_ms, side="right")) - 1
        if newest < 0:
            return None
        time_ms = float(read_at[device][newest])
        value = found[device][time_ms]
        is_of_window = time_ms == end_ms or end_ms - time_ms < step_ms
        return value if is_of_window and not math.isnan(value) else None

    return truth


def _label(answer: Answer) -> str | None:
    label = (answer.output or {}).get("label")
    return label if isinstance(label, str) else None
