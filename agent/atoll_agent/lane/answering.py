"""One model that answers in the lane: readings in, the bytes of predictions out."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import Final, TypedDict, Unpack

from atoll_agent.lane.executors import Executor
from atoll_agent.lane.ledger import Entry
from atoll_agent.lane.pending import Pending
from atoll_agent.ports import ClockState
from atoll_contract.manifest import Manifest
from atoll_contract.messages import Prediction, Quality, Reading, Value, WindowBounds, encode_prediction
from atoll_contract.topics import PredictionTopic
from atoll_infer.predictor import Answer
from atoll_ingest.time import is_undated
from atoll_link.session import Delivery
from atoll_signal.frames import Frames, FramesState
from atoll_signal.kept import columns
from atoll_signal.picture import waiting_rows_of
from atoll_signal.window import Window, Windows

MAX_WINDOW_BYTES: Final = 256 * 1024 * 1024
"""Memory for the windows of one model; with large windows fewer devices have one."""

_GAP: Final = (Quality.GAP,)


class Surroundings(TypedDict):
    """Where a release answers.

    Attributes:
        stream: Id of its stream.
        site: Id of the site.
        agent: Id of the agent.
        max_devices: For how many devices windows are kept.
        clock: Whether this machine knows the time.
        has_restarted: Whether predictions are missing before its first windows.
        units: The unit that each value is sent in.
    """

    stream: str
    site: str
    agent: str
    max_devices: int
    clock: ClockState
    has_restarted: bool
    units: Mapping[str, str | None]


class Answering:
    """A release at work: its windows, and who runs its model.

    Attributes:
        model: Its model.
        release: Its release.
        executor: Who runs it.
        keeps_readings: Whether its answers depend on more than one reading.

    Raises:
        ValueError: The stream's units cannot be converted; BundleRejectedError: the time zone is unknown
            here. A bundle that fits the stream and has passed its self-test does neither.
    """

    def __init__(self, manifest: Manifest, executor: Executor, **others: Unpack[Surroundings]) -> None:
        self.model = manifest.model
        self.executor = executor
        self.manifest = manifest
        self.release = manifest.release
        self._stream = others["stream"]
        self._clock = others["clock"]
        self._site = others["site"]
        self._agent = others["agent"]
        self.keeps_readings = manifest.keeps_readings
        self._max_devices = others["max_devices"]
        self._row = waiting_rows_of(manifest, others["units"])
        self._topics: dict[str, str] = {}

    @property
    def devices(self) -> int:
        """How many devices it has answered."""
        return len(self._topics)

    def known_devices(self, most: int) -> tuple[str, ...]:
        """Return devices that it has answered, those first that it has known longest."""
        return tuple(islice(self._topics, most))

    @property
    def counts(self) -> Mapping[str, int]:
        """Counters of its windows, by name."""
        return {}

    def adjust(self, max_devices: int, units: Mapping[str, str | None]) -> None:
        """Answer so many devices at the most (those that go are forgotten as others come), in other units."""
        self._max_devices = max_devices
        self._row = waiting_rows_of(self.manifest, units)

    def succeed(self, champion: Answering) -> None:
        """Begin with the windows of ``champion``, if both are made of the same columns."""

    def state(self) -> FramesState:
        """Return its windows as they survive a restart."""
        return FramesState()

    def restore(self, state: FramesState) -> None:
        """Begin with windows that survived a restart.

        Raises:
            ValueError: They are of other columns.
        """

    def take(self, reading: Reading, device: str, delivery: Delivery, entry: Entry | None) -> Pending | None:
        """Take in ``reading``; return what it asks of the model if it completes a window.

        Raises:
            MalformedMessageError: The reading lacks what the model needs.
        """
        raise NotImplementedError

    def shift(self, step_ms: float) -> None:
        """Move the times in windows that came from arrival: the wall clock was set by ``step_ms``."""

    def prediction(self, pending: Pending, answer: Answer, now_ns: int) -> tuple[str, bytes]:
        """Return topic and payload of the prediction that tells ``answer``; monotonic time."""
        return self._topic(pending.device), self._encode(pending, answer, now_ns)

    def quality(self, pending: Pending, answer: Answer) -> list[Quality]:
        """Return what a reader of the prediction should know before trusting it."""
        quality = [*answer.quality, *pending.quality]
        if pending.delivery.is_retained:
            quality.append(Quality.REPLAYED)
        if pending.reading.time_ms is None and (self._clock.is_time_unsynced or is_undated(pending.reading)):
            quality.append(Quality.TIME_UNSYNCED)
        return quality

    def _encode(self, pending: Pending, answer: Answer, now_ns: int) -> bytes:
        reading, delivery = pending.reading, pending.delivery
        return encode_prediction(
            Prediction(  # in the order of its fields: keywords cost more than the encoding
                pending.time_ms,
                answer.value,
                self.release,
                (now_ns - delivery.arrival_ns) // 1000 / 1000,
                reading.seq,
                reading.boot,
                self._stream,
                pending.bounds,
                answer.output,
                self.quality(pending, answer) or None,
            )
        )

    def _topic(self, device: str) -> str:
        topic = self._topics.get(device)
        if topic is None:
            if len(self._topics) >= self._max_devices:
                self._topics.clear()  # devices come and go; their topics are cheap to make again
            topic = str(PredictionTopic(self._site, self._agent, device, self.model))
            self._topics[device] = topic
        return topic

    def _is_like(self, other: Answering) -> bool:
        return columns(self.manifest) == columns(other.manifest)

    def _affordable(self, size_bytes: int) -> int:
        return max(1, min(self._max_devices, MAX_WINDOW_BYTES // size_bytes))


class SingleAnswering(Answering):
    """Of single readings: nothing to remember, no window is kept."""

    def take(self, reading: Reading, device: str, delivery: Delivery, entry: Entry | None) -> Pending | None:
        """See :class:`Answering`."""
        row = self._row.row(reading.values)  # type: ignore[arg-type]  # dialects give values by name
        time_ms = delivery.arrival_ms if reading.time_ms is None else reading.time_ms
        return Pending(device, reading, delivery, entry, time_ms, row, None)


class WindowAnswering(Answering):
    """Of the last readings as they come."""

    def __init__(self, manifest: Manifest, executor: Executor, **others: Unpack[Surroundings]) -> None:
        super().__init__(manifest, executor, **others)
        self._length = manifest.window.length
        self._windows = Windows(
            manifest.window,
            manifest.columns,
            max_devices=self._affordable(Window.size_bytes(manifest.window, manifest.columns)),
            has_restarted=others["has_restarted"],
        )
        self._by_arrival: set[str] = set()

    @property
    def counts(self) -> Mapping[str, int]:
        """See :class:`Answering`."""
        return {"windows_forgotten": self._windows.forgotten}

    def adjust(self, max_devices: int, units: Mapping[str, str | None]) -> None:
        """See :class:`Answering`."""
        super().adjust(max_devices, units)
        size_bytes = Window.size_bytes(self.manifest.window, self.manifest.columns)
        self._windows.max_devices = self._affordable(size_bytes)

    def succeed(self, champion: Answering) -> None:
        """See :class:`Answering`."""
        if isinstance(champion, WindowAnswering) and self._is_like(champion):
            self._windows.adopt(champion._windows)  # noqa: SLF001 - of its own class
            self._by_arrival |= champion._by_arrival  # noqa: SLF001 - as above

    def state(self) -> FramesState:
        """See :class:`Answering`."""
        return FramesState(counted=self._windows.state())

    def restore(self, state: FramesState) -> None:
        """See :class:`Answering`."""
        self._windows.restore(state.counted)

    def take(self, reading: Reading, device: str, delivery: Delivery, entry: Entry | None) -> Pending | None:
        """See :class:`Answering`."""
        row = self._row.row(reading.values)  # type: ignore[arg-type]  # dialects give values by name
        time_ms = reading.time_ms
        if time_ms is None:
            time_ms = delivery.arrival_ms
            self._note_arrival(device)
        window = self._windows.push(device, row, time_ms)
        if window is None:
            return None
        bounds = WindowBounds(window.start_ms, self._length)
        quality = _GAP if window.take_gap() else ()
        return Pending(device, reading, delivery, entry, time_ms, window.packed, bounds, quality)

    def shift(self, step_ms: float) -> None:
        """See :class:`Answering`."""
        self._windows.shift(step_ms, self._by_arrival)

    def _note_arrival(self, device: str) -> None:
        """Note that the times in the window of ``device`` come from arrival."""
        if len(self._by_arrival) > 2 * self._max_devices:
            self._by_arrival &= {known for known, _ in self._windows}
        self._by_arrival.add(device)


class FrameAnswering(Answering):
    """Of windows by time, of steps, of readings that are completed, of computed features."""

    def __init__(self, manifest: Manifest, executor: Executor, **others: Unpack[Surroundings]) -> None:
        super().__init__(manifest, executor, **others)
        self._units = others["units"]
        self._frames = self._new_frames(has_restarted=others["has_restarted"])
        self._has_arrivals = False

    @property
    def counts(self) -> Mapping[str, int]:
        """See :class:`Answering`."""
        frames = self._frames
        return {
            "windows_forgotten": frames.forgotten,
            "readings_late": frames.late,
            "readings_incomplete": frames.incomplete,
            "windows_skipped": frames.skipped,
        }

    def adjust(self, max_devices: int, units: Mapping[str, str | None]) -> None:
        """See :class:`Answering`."""
        super().adjust(max_devices, units)
        self._units = units
        self._frames.adjust(self._affordable(Frames.size_bytes(self.manifest)), units)

    def succeed(self, champion: Answering) -> None:
        """See :class:`Answering`."""
        if isinstance(champion, FrameAnswering) and self._is_like(champion):
            self._frames.adopt(champion._frames)  # noqa: SLF001 - of its own class
            self._has_arrivals |= champion._has_arrivals  # noqa: SLF001 - as above

    def state(self) -> FramesState:
        """See :class:`Answering`."""
        return self._frames.state()

    def restore(self, state: FramesState) -> None:
        """See :class:`Answering`."""
        self._frames.restore(state)

    def take(self, reading: Reading, device: str, delivery: Delivery, entry: Entry | None) -> Pending | None:
        """See :class:`Answering`."""
        time_ms = reading.time_ms
        if time_ms is None:
            time_ms = delivery.arrival_ms
            self._has_arrivals = True
        values: Mapping[str, Value] = reading.values  # type: ignore[assignment]  # as above
        frame = self._frames.take(device, values, time_ms, reading.step_ms)
        if frame is None:
            return None
        bounds = WindowBounds(frame.start_ms, frame.count) if self.keeps_readings else None
        return Pending(device, reading, delivery, entry, frame.time_ms, frame.features, bounds, frame.quality)

    def shift(self, step_ms: float) -> None:  # noqa: ARG002 - as others have it
        """See :class:`Answering`. Steps and spans of a wrong clock fit no other: the windows begin anew."""
        if self._has_arrivals:
            self._frames = self._new_frames(has_restarted=True)
            self._has_arrivals = False

    def _new_frames(self, *, has_restarted: bool) -> Frames:
        return Frames(
            self.manifest,
            self._units,
            max_devices=self._affordable(Frames.size_bytes(self.manifest)),
            has_restarted=has_restarted,
        )


def kind_of(manifest: Manifest) -> type[Answering]:
    """Return who answers with a release: the fastest that can."""
    if not manifest.is_plain:
        return FrameAnswering
    return WindowAnswering if manifest.keeps_readings else SingleAnswering
