"""What is published, as types that read and write JSON.

Times are milliseconds since the epoch, a JSON number, in keys ending in ``_ms``. Unknown keys are
ignored, so that an older reader understands a newer writer; keys that are null, empty or default
are left out. The two messages on the path of every reading are msgspec structs; a property test
holds them to a pydantic twin. The others are pydantic models.
"""

from __future__ import annotations

import math
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Self

import msgspec
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from atoll_contract.errors import MalformedMessageError, Reason
from atoll_contract.ids import ID_PATTERN
from atoll_contract.release import MAX_RELEASE, STABLE

MAX_PAYLOAD_BYTES = 262_144
"""Longest payload of any message but a chunk that atoll reads."""

MAX_BATCH = 10_000
"""Most readings in one message."""

MIN_TIME_MS = 0.0
MAX_TIME_MS = 253_402_300_799_999.0
"""Year 9999: what :class:`datetime.datetime` can still show."""

MAX_DETAIL_CHARS = 500
"""Longest text for people that is made of somebody else's bytes."""

if TYPE_CHECKING:
    # A list of floats is no list of "float or list": without this, writers would have to cast.
    Array = list[Any]
else:
    Array = list[float | list[float | list[float | list[float]]]]

Value = float | Array | None
"""One value of a reading: a number, an array of numbers (nested up to four deep), or null for
missing."""


class Quality(StrEnum):
    """What a reader should know before trusting a prediction."""

    LATE = "late"
    TIME_UNSYNCED = "time_unsynced"
    GAP = "gap"
    IMPUTED = "imputed"
    DEGRADED = "degraded"
    REPLAYED = "replayed"
    OUT_OF_RANGE = "out_of_range"
    SATURATED = "saturated"


class Reading(msgspec.Struct, frozen=True, omit_defaults=True):
    """The values of one device at one event time.

    Attributes:
        values: One number (the value named ``value``), or values by name. An array belongs to a
            fast sensor (``step_ms`` apart, the first at ``time_ms``) or to a value with a shape.
        time_ms: Event time; without it the time of arrival counts.
        step_ms: Time between the elements of array values.
        seq: Number of the reading in its stream since ``boot``; with ``boot`` it tells readings that come
            twice, and those that never come.
        boot: Token of the device's current run.
    """

    values: float | dict[str, Value]
    time_ms: Annotated[float, msgspec.Meta(ge=MIN_TIME_MS, le=MAX_TIME_MS)] | None = None
    step_ms: Annotated[float, msgspec.Meta(gt=0)] | None = None
    seq: Annotated[int, msgspec.Meta(ge=0, le=2**53)] | None = None
    boot: Annotated[str, msgspec.Meta(min_length=1, max_length=48)] | None = None


class WindowBounds(msgspec.Struct, frozen=True, omit_defaults=True):
    """Which window a prediction speaks of.

    Attributes:
        start_ms: Event time of its first reading or step.
        samples: How many readings or steps it holds.
    """

    start_ms: Annotated[float, msgspec.Meta(ge=MIN_TIME_MS, le=MAX_TIME_MS)]
    samples: Annotated[int, msgspec.Meta(ge=1, le=2**53)]


class Prediction(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a release says of one window; ``value`` is the one number that a chart shows.

    Attributes:
        time_ms: Event time of the reading that completed the window; of a window by time, of its newest
            reading; of equal steps, of the newest of them.
        value: The output in the manifest's unit; for a classifier the index of the label.
        release: Number of the release that answered.
        latency_ms: From the arrival of the reading to the encoding of this message.
        seq: As in the reading.
        boot: As in the reading.
        stream: The stream of the reading.
        window: For windows longer than one sample.
        output: By task: regression {low, high}, forecast {values, step_ms}, classification
            {label, probabilities}, anomaly {score, threshold, anomaly}.
        quality: What to know before trusting it.
    """

    time_ms: Annotated[float, msgspec.Meta(ge=MIN_TIME_MS, le=MAX_TIME_MS)]
    value: float
    release: Annotated[int, msgspec.Meta(ge=1, le=MAX_RELEASE)]
    latency_ms: float
    seq: Annotated[int, msgspec.Meta(ge=0, le=2**53)] | None = None
    boot: Annotated[str, msgspec.Meta(min_length=1, max_length=48)] | None = None
    stream: str | None = None
    window: WindowBounds | None = None
    output: dict[str, Any] | None = None
    quality: list[Quality] | None = None


_READINGS: msgspec.json.Decoder[Reading | list[Reading]] = msgspec.json.Decoder(Reading | list[Reading])
_PREDICTION = msgspec.json.Decoder(Prediction)
_ENCODER = msgspec.json.Encoder()


def decode_readings(payload: bytes | memoryview) -> list[Reading]:
    """Return the reading, or the batch of readings, in ``payload``.

    Raises:
        MalformedMessageError: Not UTF-8 JSON of that form, not finite, too large or too many.
    """
    try:
        found = _READINGS.decode(_text(payload))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed("reading", error) from error
    if isinstance(found, Reading):
        return [found]
    if len(found) > MAX_BATCH:
        message = f"{len(found)} readings in one message: at most {MAX_BATCH} are read"
        raise MalformedMessageError(message, Reason.TOO_LARGE)
    return found


def encode_reading(reading: Reading) -> bytes:
    """Return ``reading`` as JSON.

    Raises:
        ValueError: A value is NaN or infinite: JSON has no such number.
    """
    if not _is_finite(reading.values):
        raise ValueError("a reading's values must be finite; leave a missing one out or null")
    return _ENCODER.encode(reading)


def decode_prediction(payload: bytes) -> Prediction:
    """Return the prediction in ``payload``.

    Raises:
        MalformedMessageError: Not UTF-8 JSON of that form.
    """
    try:
        return _PREDICTION.decode(_text(payload))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise _malformed("prediction", error) from error


def encode_prediction(prediction: Prediction) -> bytes:
    """Return ``prediction`` as JSON. Its numbers must be finite: the pipeline has checked them."""
    return _ENCODER.encode(prediction)


def _text(payload: bytes | memoryview) -> str:
    """Return ``payload`` as text: left alone, msgspec does not look at the keys that it skips."""
    if len(payload) > MAX_PAYLOAD_BYTES:
        message = f"payload of {len(payload)} bytes: at most {MAX_PAYLOAD_BYTES} are read"
        raise MalformedMessageError(message, Reason.TOO_LARGE)
    return str(payload, "utf-8")


def _malformed(what: str, error: Exception | str) -> MalformedMessageError:
    return MalformedMessageError(f"{what}: {error}"[:MAX_DETAIL_CHARS])


def _is_finite(values: object) -> bool:
    match values:
        case float() | int():
            return math.isfinite(values)
        case dict():
            return all(map(_is_finite, values.values()))
        case list():
            return all(map(_is_finite, values))
        case _:
            return values is None


Id = Annotated[str, Field(pattern=ID_PATTERN)]
TimeMs = Annotated[float, Field(ge=MIN_TIME_MS, le=MAX_TIME_MS)]


class Message(BaseModel):
    """Base of the messages off the fast path."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, allow_inf_nan=False)

    def encode(self) -> bytes:
        """Return the message as JSON, without keys that are null or default."""
        return self.model_dump_json(exclude_defaults=True, exclude_none=True).encode()

    @classmethod
    def decode(cls, payload: bytes) -> Self:
        """Return the message in ``payload``.

        Raises:
            MalformedMessageError: Not UTF-8 JSON of this form, or too large.
        """
        if len(payload) > MAX_PAYLOAD_BYTES:
            message = f"payload of {len(payload)} bytes: at most {MAX_PAYLOAD_BYTES} are read"
            raise MalformedMessageError(message, Reason.TOO_LARGE)
        try:
            return cls.model_validate_json(payload)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "message"
            raise _malformed(cls.__name__.lower(), f"{where}: {first['msg']}") from error


class Label(Message):
    """The truth about one device: at one event time, or over a span.

    Attributes:
        value: The truth, in the unit of the prediction; for a classifier the index of the label.
        time_ms: Event time of the reading that it belongs to.
        start_ms: Begin of the span that it belongs to instead.
        end_ms: End of the span; exclusive.
        stream: Stream of the reading.
        source: Who or what knows it, for people.
    """

    value: float
    time_ms: TimeMs | None = None
    start_ms: TimeMs | None = None
    end_ms: TimeMs | None = None
    stream: Id | None = None
    source: str | None = None

    def model_post_init(self, _context: object, /) -> None:
        """Refuse a label that belongs to no time, or to two."""
        given = (self.time_ms is not None, self.start_ms is not None, self.end_ms is not None)
        if given not in {(True, False, False), (False, True, True)}:
            raise ValueError("a label has either time_ms, or start_ms and end_ms")
        if self.start_ms is not None and self.end_ms is not None and self.end_ms <= self.start_ms:
            raise ValueError("end_ms must be after start_ms")


class Command(Message):
    """What a device is told to do.

    Attributes:
        expires_ms: From then on it is worthless.
        value: What to set, where the command's name says enough.
        arguments: More, by name.
    """

    expires_ms: TimeMs
    value: float | str | bool | None = None
    arguments: dict[str, float | str | bool] = {}


class Health(StrEnum):
    """How a writer is: works, works with less, needs a person, or is not connected."""

    READY = "ready"
    DEGRADED = "degraded"
    FAULTED = "faulted"
    OFFLINE = "offline"


class Refusals(Message):
    """How many messages of one stream or model were refused for one reason, since the start.

    Attributes:
        where: The stream or model; ``requests`` for those to the agent.
        reason: Reason code.
        count: How many.
        last: What was wrong with the latest one.
    """

    where: str
    reason: Reason
    count: int
    last: str | None = None


class LoopState(Message):
    """How far a trainer's loop is with one model.

    Attributes:
        model: Id of the model.
        phase: What it is at.
        since_ms: When that began.
        cause: Why it learns anew: ``first``, ``drift``, ``follow_up``, ``labels``, ``schedule``,
            ``request``.
        release: The release that it is about.
        detail: For people: more of the present phase.
        outcome: For people: how the last turn ended.
    """

    model: str
    phase: str
    since_ms: TimeMs
    cause: str | None = None
    release: int | None = None
    detail: str | None = None
    outcome: str | None = None


class Status(Message):
    """How an agent or trainer is; retained, and its last will has ``health`` = offline.

    Attributes:
        health: How it is.
        session: Grows by one with each CONNECT of this writer: a late will has a lower one.
        time_ms: When this was written; absent in a will, whose time nobody knows beforehand.
        started_ms: When the writer started.
        token: First 8 characters of the client token: two agents with one id differ in it.
        version: Version of atoll.
        time_unsynced: The writer's clock has not been set: its times may be anything.
        detail: For people.
        counts: Counters since the start, by name.
        refusals: What was refused, and why.
        loops: Of a trainer: how far it is, model by model.
    """

    health: Health
    session: int
    time_ms: TimeMs | None = None
    started_ms: TimeMs | None = None
    token: str | None = None
    version: str | None = None
    time_unsynced: bool = False
    detail: str | None = None
    counts: dict[str, int] = {}
    refusals: list[Refusals] = []
    loops: list[LoopState] = []


class ReleaseRef(Message):
    """One release.

    Attributes:
        release: Its number.
        sha256: Digest of its bundle.
    """

    release: int
    sha256: str


class Champion(ReleaseRef):
    """The release that answers, and what is the same for all its predictions.

    Attributes:
        release: Its number.
        sha256: Digest of its bundle.
        backend: What runs the model.
        task: What the output means.
        unit: Unit of the predictions' value.
        labels: Of a classifier.
        why: Why this backend.
    """

    backend: str
    task: str
    unit: str | None = None
    labels: list[str] = []
    why: str | None = None


class Challenge(ReleaseRef):
    """The release on its way.

    Attributes:
        release: Its number.
        sha256: Digest of its bundle.
        phase: How far it is.
        start_ms: When this device begins to fetch it, on its own clock, where that is still to come.
        reason: Reason code of what interrupted the last attempt.
        detail: The same, for people.
    """

    phase: str
    start_ms: TimeMs | None = None
    reason: Reason | None = None
    detail: str | None = None


class Refusal(ReleaseRef):
    """A release that was refused, or a champion that could not start again.

    Attributes:
        release: Its number.
        sha256: Digest of its bundle.
        reason: Reason code.
        detail: For people.
        time_ms: When.
    """

    reason: Reason
    detail: str
    time_ms: TimeMs


class SlotStatus(Message):
    """Which release answers for a model on one agent; retained.

    Attributes:
        model: Id of the model.
        time_ms: When this was written.
        channel: The channel that the agent follows for this model, besides ``stable``.
        champion: The release that answers.
        challenger: The release on its way.
        refused: The last one that was refused, until a newer one succeeds.
        note: Reason code of what holds the slot up: ``withdrawn``, or what is wrong with the
            release topics.
    """

    model: str
    time_ms: TimeMs
    channel: str = STABLE
    champion: Champion | None = None
    challenger: Challenge | None = None
    refused: Refusal | None = None
    note: Reason | None = None
