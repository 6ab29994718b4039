"""The lane on a recorded capture instead of a broker: what would have been predicted, decided, commanded.

The way from a message to what leaves is the lane's own. Time is that of the capture: a reading is as
old as it was when it arrived. Nothing is published.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final

from atoll_agent.adapters.store import StateStore
from atoll_agent.compose import decided
from atoll_agent.lane.answering import Answering, kind_of
from atoll_agent.lane.executors import Answered, LaneExecutor
from atoll_agent.lane.outlet import Outlet
from atoll_agent.lane.pending import Pending
from atoll_agent.lane.track import Track
from atoll_agent.rollout.fit import require_fit
from atoll_agent.settings import AgentSettings
from atoll_contract.bundle import Bundle
from atoll_contract.decisions import Decision
from atoll_contract.errors import (
    BundleRejectedError,
    ConfigError,
    MalformedMessageError,
    Reason,
    StorageError,
)
from atoll_contract.messages import decode_prediction
from atoll_contract.topics import PREFIX, PredictionTopic
from atoll_infer import golden
from atoll_infer.predictor import Answer, Predictor
from atoll_infer.runtime import Runtime
from atoll_ingest.stream import Overload, Stream
from atoll_link import recording
from atoll_link.files import storage_error
from atoll_link.session import Delivery, Event, Published
from atoll_signal.picture import decodes_late, unpacker_of

MAX_TOLD: Final = 100_000
"""Decisions and commands that are kept to be shown."""

_MAX_IDS: Final = 65_535


@dataclass(slots=True)
class Range:
    """The predictions of one model for one device.

    Attributes:
        count: How many would have been published.
        low: The lowest value.
        high: The highest.
    """

    count: int = 0
    low: float = 0.0
    high: float = 0.0

    def add(self, value: float) -> None:
        """Take in one more."""
        self.low = min(self.low, value) if self.count else value
        self.high = max(self.high, value) if self.count else value
        self.count += 1


@dataclass(frozen=True, slots=True)
class Told:
    """A decision or a command that would have left.

    Attributes:
        arrival_ms: When: at the arrival of the reading that it follows from.
        topic: Where to.
        payload: Its bytes.
        decision: What it says, if it is a decision.
    """

    arrival_ms: float
    topic: str
    payload: bytes
    decision: Decision | None


@dataclass(slots=True)
class Outcome:
    """What a rehearsal found.

    Attributes:
        messages: Messages of the capture, by stream.
        first_ms: Arrival of the first one.
        last_ms: Arrival of the last one.
        releases: Which release answered, by model.
        predictions: What would have been predicted, by model and device.
        told: Decisions and commands, in order; at most 100,000.
        untold: How many more there were.
        counts: The lane's counters.
        refusals: How many messages were refused, by where and why.
        last_refusal: The latest detail for each of them.
    """

    messages: Counter[str] = field(default_factory=Counter)
    first_ms: float | None = None
    last_ms: float | None = None
    releases: dict[str, int] = field(default_factory=dict)
    predictions: dict[tuple[str, str], Range] = field(default_factory=dict)
    told: list[Told] = field(default_factory=list)
    untold: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    refusals: Counter[tuple[str, Reason]] = field(default_factory=Counter)
    last_refusal: dict[tuple[str, Reason], str] = field(default_factory=dict)


class Tape:
    """Implements ``ports.Wire``: takes down what leaves, acknowledged at once."""

    def __init__(self, outcome: Outcome) -> None:
        self._outcome = outcome
        self._mid = 0
        self._events: list[Event] = []
        self.arrival_ms = 0.0

    def step(self, _timeout_s: float) -> Sequence[Event]:
        """Return the acknowledgements."""
        events, self._events = self._events, []
        return events

    def publish(self, topic: str, payload: bytes, *, qos: int) -> int | None:
        """Take down a message."""
        self._mid += 1
        if qos:
            self._events.append(Published(self._mid))
        levels = topic.split("/")
        kind = levels[4] if topic.startswith(f"{PREFIX}/") and len(levels) > 4 else ""  # noqa: PLR2004
        if kind == "prediction":
            named = PredictionTopic.parse(topic)
            found = self._outcome.predictions.setdefault((named.model, named.device), Range())
            found.add(decode_prediction(payload).value)
        elif len(self._outcome.told) < MAX_TOLD:
            decision = Decision.decode(payload) if kind == "decision" else None
            self._outcome.told.append(Told(self.arrival_ms, topic, payload, decision))
        else:
            self._outcome.untold += 1
        return self._mid

    def take_back(self, _numbers: Collection[int]) -> Sequence[tuple[int, str, bytes]]:
        """Nothing to take back: all is acknowledged."""
        return []

    def acknowledge(self, _delivery: Delivery) -> None:
        """Nothing to tell anybody."""

    def flush(self) -> None:
        """Nothing to write."""

    def close(self, timeout_s: float) -> None:
        """Nothing to end."""


class SetClock:
    """Implements ``ports.ClockState``: the clock of the recorder was right."""

    is_time_unsynced = False

    def look(self) -> bool:
        """Nothing changes."""
        return False


class PictureExecutor(LaneExecutor):
    """Decodes pictures before it answers, in the lane's thread."""

    def __init__(self, predictor: Predictor, policy: Overload) -> None:
        super().__init__(predictor, policy)
        self._unpack = unpacker_of(predictor.manifest)

    def finished(self) -> list[Answered]:
        """Answer what waits."""
        return [(pending, self._answer(pending)) for pending in self.cancel()]

    def _answer(self, pending: Pending) -> Answer | Reason:
        try:
            window = self._unpack(pending.samples)
        except MalformedMessageError as error:
            return error.reason
        return self._predictor.answers(window)[0]


class Rehearsal:
    """Streams, models and rules of an agent, ready for the messages of a capture.

    Attributes:
        outcome: What has been found so far.
    """

    def __init__(
        self, settings: AgentSettings, predictors: Mapping[str, Predictor], *, tape: type[Tape] = Tape
    ) -> None:
        agent = settings.agent
        self.outcome = Outcome(releases={name: one.manifest.release for name, one in predictors.items()})
        rules, exceptions = decided(settings)
        self._outlets = {
            model: Outlet(rules.get(model), exceptions.get(model), SetClock())
            for model in rules.keys() | exceptions.keys()
        }
        self._lines: dict[str, tuple[Track, Tape]] = {}
        used = {model.stream for model in settings.model}
        for stream in (table.build(agent.site) for table in settings.stream if table.name in used):
            line = tape(self.outcome)
            track = Track(
                stream,
                line,
                site=agent.site,
                max_devices=agent.max_devices,
                wall_ms=partial(getattr, line, "arrival_ms"),
            )
            track.change(
                stream,
                max_devices=agent.max_devices,
                trusted_writers=(),
                topic_filters=(),
                outlets=self._outlets,
                now_s=0.0,
            )
            for model in settings.model:
                if model.stream == stream.name and model.name in predictors:
                    track.swap(_answering(predictors[model.name], stream, settings))
            self._lines[stream.name] = track, line
        self._mid = 0

    @property
    def streams(self) -> list[str]:
        """The streams that it answers."""
        return list(self._lines)

    def play(self, row: recording.Row) -> None:
        """Let the lane take in one message of the capture and answer it."""
        outcome = self.outcome
        outcome.messages[row.name] += 1
        outcome.first_ms = row.arrival_ms if outcome.first_ms is None else outcome.first_ms
        outcome.last_ms = row.arrival_ms
        self._mid = self._mid % _MAX_IDS + 1
        track, tape = self._lines[row.name]
        tape.arrival_ms = row.arrival_ms
        arrival_ns = round(row.arrival_ms * 1e6)
        track.heed(
            [
                Delivery(
                    row.topic,
                    row.payload,
                    row.qos,
                    self._mid,
                    False,
                    row.is_retained,
                    2,
                    row.arrival_ms,
                    arrival_ns,
                )
            ]
        )
        while True:
            track.work(row.arrival_ms / 1e3, is_behind=False)
            track.heed(tape.step(0.0))
            if track.is_idle:
                return

    def finish(self) -> Outcome:
        """Return what was found in all."""
        outcome = self.outcome
        for track, _ in self._lines.values():
            outcome.counts.update(track.counts)
            outcome.refusals.update(track.refusals)
            outcome.last_refusal.update(track.last_refusal)
        for outlet in self._outlets.values():
            outcome.counts.update(outlet.counts)
        return outcome


def rehearse(settings: AgentSettings, capture: Path, bundles: Iterable[Path], runtime: Runtime) -> Outcome:
    """Play ``capture``, a recorder's folder or one of its files, through the lane of an agent.

    Models answer with the release in one of ``bundles``, else with their stored champion.

    Raises:
        ConfigError: No model has a release, or a bundle is of no model of the settings.
        BundleRejectedError: A bundle is no good, or does not fit.
        StorageError: The capture or a bundle cannot be read, or holds no reading of the streams.
    """
    rehearsal = Rehearsal(settings, _predictors(settings, bundles, runtime))
    for row in _rows(capture, rehearsal.streams):
        rehearsal.play(row)
    if not rehearsal.outcome.messages:
        wanted = ", ".join(rehearsal.streams)
        raise StorageError(
            f"{capture}: no readings of {wanted}; is it the recorder's folder, or a part of it?"
        )
    return rehearsal.finish()


def _rows(capture: Path, streams: Sequence[str]) -> Iterator[recording.Row]:
    """Yield the readings of ``streams`` in order of arrival."""
    if capture.is_file():
        parts = [_of(recording.read_part(capture), streams)]
    elif capture.is_dir():
        parts = [recording.read(capture, recording.Kind.READING, name) for name in streams]
    else:
        raise StorageError(f"{capture}: there is no such folder or file")
    merged = heapq.merge(*parts, key=lambda row: row.arrival_ms)
    return recording.without_redeliveries(merged)


def _of(rows: Iterable[recording.Row], streams: Sequence[str]) -> Iterator[recording.Row]:
    return (row for row in rows if row.kind is recording.Kind.READING and row.name in streams)


def _predictors(settings: AgentSettings, bundles: Iterable[Path], runtime: Runtime) -> dict[str, Predictor]:
    """Return what answers, by model."""
    streams = {table.name: table.build(settings.agent.site) for table in settings.stream}
    models = {model.name: streams[model.stream] for model in settings.model}
    found: dict[str, Bundle] = {}
    for path in bundles:
        try:
            bundle = Bundle.unpack(path.read_bytes())
        except OSError as error:
            raise storage_error(path, error) from error
        except BundleRejectedError as error:
            raise BundleRejectedError(f"{path}: {error.detail}", error.reason) from error
        if bundle.manifest.model not in models:
            raise ConfigError(f"{path}: of model {bundle.manifest.model!r}, which the settings do not have")
        found[bundle.manifest.model] = bundle
    store = StateStore(settings.agent.state_dir)
    for name in models:
        if name not in found and (stored := store.peek_champion(name)) is not None:
            found[name] = Bundle.unpack(stored[1])
    if not found:
        raise ConfigError("no model has a release here: give --bundle FILE")
    for name, bundle in found.items():
        require_fit(
            bundle.manifest,
            model=name,
            release=bundle.manifest.release,
            units=models[name].units,
            is_shared=models[name].is_shared,
        )
    return {name: golden.self_test(bundle, runtime) for name, bundle in found.items()}


def _answering(predictor: Predictor, stream: Stream, settings: AgentSettings) -> Answering:
    """Return ``predictor`` at work in the lane's own thread, however slow it is."""
    executor = PictureExecutor if decodes_late(predictor.manifest) else LaneExecutor
    return kind_of(predictor.manifest)(
        predictor.manifest,
        executor(predictor, stream.overload),
        stream=stream.name,
        site=settings.agent.site,
        agent=settings.agent.id,
        max_devices=settings.agent.max_devices,
        clock=SetClock(),
        has_restarted=False,
        units=stream.units,
    )
