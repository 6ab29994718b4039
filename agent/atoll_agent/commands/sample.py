"""How a captured payload would be read, step by step down to the tensor. Touches no broker."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np

from atoll_agent.rollout.fit import require_fit
from atoll_contract.bundle import Bundle
from atoll_contract.errors import AtollError, BundleRejectedError, MalformedMessageError, Reason
from atoll_contract.feature import CALENDAR
from atoll_contract.manifest import Manifest
from atoll_contract.messages import Reading
from atoll_infer.predictor import Predictor, quantise
from atoll_infer.runtime import Runtime
from atoll_ingest.dialect import AtollDialect, Told
from atoll_ingest.picture import PictureDialect
from atoll_ingest.reader import Recipe
from atoll_ingest.stream import Stream
from atoll_ingest.topic import TopicPattern, named_part
from atoll_signal.features import Normaliser
from atoll_signal.matrix import FeatureMatrix, Samples
from atoll_signal.numbers import Numbers
from atoll_signal.picture import describe, rows_of, takes_pictures

_MAX_DEVICES: Final = 10_000
_FOR_EVER_MS: Final = 1e16


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a step was the last one.

    Attributes:
        reason: Reason code.
        detail: The same, for people.
    """

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Tried:
    """A topic filter that does not match.

    Attributes:
        stream: Whose filter.
        topic: The filter, as the settings write it.
        why: The first level that differs.
    """

    stream: str
    topic: str
    why: str


@dataclass(slots=True)
class Answer:
    """What one model makes of the readings.

    Attributes:
        model: Its id.
        release: Of the bundle.
        source: Where the bundle comes from.
        window: How many readings an input needs, and how many the payload holds.
        features: Numbers by feature, of the last reading.
        normalised: One input, after normalisation; window and columns.
        tensor: The same as the model gets it.
        quality: Flags that the prediction would carry.
        prediction: What the model says.
        is_assumed: Whether the window was filled with the first reading, since the payload holds too few.
        is_dated_now: Whether features tell the time, and it was taken to be that of now.
        refused: Why it went no further.
    """

    model: str
    release: int | None = None
    source: str | None = None
    window: Mapping[str, Any] | None = None
    features: Mapping[str, Sequence[float]] | None = None
    normalised: Sequence[Sequence[float]] | None = None
    tensor: Mapping[str, Any] | None = None
    quality: Sequence[str] = ()
    prediction: Mapping[str, Any] | None = None
    is_assumed: bool = False
    is_dated_now: bool = False
    refused: Refusal | None = None


@dataclass(slots=True)
class Read:
    """How one stream reads the payload.

    Attributes:
        stream: Its id.
        topic: The filter that matches, as the settings write it.
        device: Whose readings they are.
        dialect: How they are written.
        readings: Time, values with their units, and what else they say.
        answers: What its models make of them.
        refused: Why it went no further.
    """

    stream: str
    topic: str
    device: str | None = None
    dialect: str | None = None
    readings: Sequence[Mapping[str, Any]] = ()
    answers: list[Answer] = field(default_factory=list)
    refused: Refusal | None = None


@dataclass(slots=True)
class Sample:
    """The whole way.

    Attributes:
        topic: Where the payload was captured.
        size_bytes: Its size.
        read: By which streams it is read.
        tried: The filters that do not match.
    """

    topic: str
    size_bytes: int
    read: list[Read] = field(default_factory=list)
    tried: list[Tried] = field(default_factory=list)

    @property
    def is_usable(self) -> bool:
        """Whether a stream reads it and no model refuses it."""
        return any(
            read.refused is None and not any(answer.refused for answer in read.answers) for read in self.read
        )

    def as_json(self) -> dict[str, Any]:
        """Return it for programs."""
        return asdict(self) | {"is_usable": self.is_usable}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that answers a stream, and its bundle.

    Attributes:
        model: Its id.
        stream: Which stream.
        bundle: None: no release of it is stored.
        source: Where the bundle comes from.
    """

    model: str
    stream: str
    bundle: Bundle | None
    source: str


def read_sample(
    topic: str, payload: bytes, streams: Sequence[Stream], candidates: Sequence[Candidate], runtime: Runtime
) -> Sample:
    """Return how ``payload``, captured on ``topic``, would be read if it were the first message of all."""
    sample = Sample(topic, len(payload))
    for stream in streams:
        if not stream.matches(topic):
            sample.tried += _tried(stream, topic)
            continue
        pattern = next(each for each in stream.patterns if each.parts(topic) is not None)
        models = [candidate for candidate in candidates if candidate.stream == stream.name]
        sample.read += _read(pattern, topic, payload, stream, models, runtime)
    return sample


def _tried(stream: Stream, topic: str) -> Iterator[Tried]:
    """Yield why the filters of ``stream`` do not match."""
    for pattern in stream.patterns:
        if pattern.parts(topic) is None:
            yield Tried(stream.name, pattern.text, _why_not(pattern, topic))
    for pattern in stream.ignored:
        if pattern.parts(topic) is not None:
            yield Tried(stream.name, pattern.text, "the stream ignores these topics")


def _why_not(pattern: TopicPattern, topic: str) -> str:
    """Return where ``topic`` first differs from ``pattern``, which does not match it."""
    wanted, found = pattern.text.split("/"), topic.split("/")
    if pattern.is_shared:
        wanted = wanted[2:]
    for number, (level, given) in enumerate(zip(wanted, found, strict=False), start=1):
        part = named_part(level)
        if part is not None and part.is_longer:
            return f"nothing from level {number} on fits {'/'.join(wanted[number - 1 :])!r}"
        if part is not None and not given:
            return f"level {number} is empty, and names the {part.name}"
        if part is None and level not in {"+", given}:
            return f"level {number} is {given!r}, not {level!r}"
    return f"{len(found)} levels, not {len(wanted)}"


def _read(
    pattern: TopicPattern,
    topic: str,
    payload: bytes,
    stream: Stream,
    models: Sequence[Candidate],
    runtime: Runtime,
) -> Iterator[Read]:
    """Yield how the stream reads it: for each device that it speaks of."""
    dialect = _name_of(stream)
    reader = stream.reader(_MAX_DEVICES)
    arrival_ms = time.time() * 1e3
    try:
        told = reader.read(topic, payload, arrival_ms)
    except MalformedMessageError as error:
        yield Read(stream.name, pattern.text, dialect=dialect, refused=_refusal(error))
        return
    # A part of a reading: what would be told of it if nothing more came.
    told += [Told(device, reading) for device, reading, _ in reader.overdue(_FOR_EVER_MS)]
    if not told:
        detail = "it carries none of the stream's values, and is ignored"
        yield Read(stream.name, pattern.text, dialect=dialect, refused=Refusal(Reason.MISSING_VALUE, detail))
    for device in dict.fromkeys(device for device, _ in told):
        readings = [reading for whose, reading in told if whose == device]
        read = Read(stream.name, pattern.text, device, dialect)
        read.readings = [_reading(reading, stream.units) for reading in readings]
        read.answers = [_answer(candidate, readings, arrival_ms, stream, runtime) for candidate in models]
        yield read


def _name_of(stream: Stream) -> str:
    """Return the dialect as the settings call it."""
    if isinstance(stream.dialect, Recipe):
        return stream.dialect.name
    if isinstance(stream.dialect, PictureDialect):
        return "picture"
    return "atoll" if isinstance(stream.dialect, AtollDialect) else "json"


def _reading(reading: Reading, units: Mapping[str, str | None]) -> dict[str, Any]:
    values = reading.values if isinstance(reading.values, dict) else {"value": reading.values}
    time_ms = reading.time_ms
    moment = None if time_ms is None else datetime.fromtimestamp(time_ms / 1e3, UTC).isoformat()
    return {
        "time_ms": reading.time_ms,
        "time": moment,
        "values": {name: {"value": _told(values.get(name)), "unit": unit} for name, unit in units.items()},
        "ignored": sorted(values.keys() - units.keys()),
        "seq": reading.seq,
        "boot": reading.boot,
    }


def _told(value: object) -> object:
    return describe(value) if isinstance(value, bytes) else value


def _answer(
    candidate: Candidate, readings: Sequence[Reading], arrival_ms: float, stream: Stream, runtime: Runtime
) -> Answer:
    answer = Answer(candidate.model, source=candidate.source)
    if candidate.bundle is None:
        return answer
    manifest = candidate.bundle.manifest
    answer.release = manifest.release
    try:
        require_fit(
            manifest,
            model=candidate.model,
            release=manifest.release,
            units=stream.units,
            is_shared=stream.is_shared,
        )
        _infer(answer, candidate.bundle, readings, arrival_ms, stream.units, runtime)
    except (MalformedMessageError, BundleRejectedError) as error:
        answer.refused = _refusal(error)
    return answer


def _infer(
    answer: Answer,
    bundle: Bundle,
    readings: Sequence[Reading],
    arrival_ms: float,
    units: Mapping[str, str | None],
    runtime: Runtime,
) -> None:
    manifest = bundle.manifest
    depth = manifest.depth
    answer.window = {
        "kind": manifest.window.kind.value,
        "needed": depth,
        "held": len(readings),
        "missing": max(0, depth - len(readings)),
    }
    samples = samples_of(answer, manifest, readings[-depth:], arrival_ms, units)
    matrix = FeatureMatrix(manifest).of_each([samples])
    answer.features = _by_feature(manifest, matrix[0, -1].tolist())
    normal = Normaliser(manifest).normalise(matrix)
    spec = manifest.inputs[0]
    tensors, _ = quantise(normal.reshape(1, *spec.shape[1:]), spec)
    answer.normalised = normal[0].tolist()
    answer.tensor = {
        "dtype": spec.dtype.value,
        "shape": list(spec.shape),
        "scale": spec.scale,
        "zero_point": spec.zero_point,
        "numbers": tensors.ravel().tolist(),
    }
    said = Predictor(manifest, runtime.load(bundle.model)).answer(matrix[0])
    answer.quality = [flag.value for flag in said.quality]
    answer.prediction = {"value": said.value, "unit": manifest.output.unit, "output": said.output}


def samples_of(
    answer: Answer,
    manifest: Manifest,
    readings: Sequence[Reading],
    arrival_ms: float,
    units: Mapping[str, str | None],
) -> Samples:
    """Return a whole window: what is missing is taken to be what is there, or what the manifest fills in."""
    if takes_pictures(manifest):
        pictures = rows_of(manifest, units)
        packed = b"".join([pictures.row(reading.values) for reading in readings])  # type: ignore[arg-type]  # by name
        rows = np.frombuffer(packed, np.float32).reshape(len(readings), -1)
    else:
        numbers = Numbers(manifest, units)
        rows = np.array(
            [numbers.of(reading.values, reading.step_ms) for reading in readings],  # type: ignore[arg-type]  # as above
            np.float32,
        )
    answer.is_assumed = len(rows) < manifest.depth or bool(np.isnan(rows).any())
    fills = np.repeat([value.fill or 0.0 for value in manifest.sources], [v.size for v in manifest.sources])
    rows = np.where(np.isnan(rows), fills.astype(np.float32), rows)
    padding = max(0, manifest.depth - len(rows)) if manifest.window.duration_ms is None else 0
    is_undated = any(reading.time_ms is None for reading in readings)
    answer.is_dated_now = is_undated and any(one.kind in CALENDAR for one in manifest.computed)
    times = [arrival_ms if reading.time_ms is None else reading.time_ms for reading in readings]
    return Samples(
        np.concatenate([np.repeat(rows[:1], padding, axis=0), rows]),
        np.array([times[0]] * padding + times),
    )


def _by_feature(manifest: Manifest, numbers: Sequence[float]) -> dict[str, list[float]]:
    found, at = {}, 0
    for label, size in zip(manifest.labels, manifest.sizes, strict=True):
        found[label] = list(numbers[at : at + size])
        at += size
    return found


def _refusal(error: AtollError) -> Refusal:
    return Refusal(error.reason.value, error.detail)
