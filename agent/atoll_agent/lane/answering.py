"""One model that answers in the lane: readings in, the bytes of predictions out."""

from __future__ import annotations

from itertools import islice
from typing import Final

from atoll_agent.lane.executors import Executor
from atoll_agent.lane.ledger import Entry
from atoll_agent.lane.pending import Pending
from atoll_agent.ports import ClockState
from atoll_contract.manifest import Manifest
from atoll_contract.messages import Prediction, Quality, Reading, WindowBounds, encode_prediction
from atoll_contract.topics import PredictionTopic
from atoll_infer.predictor import Answer
from atoll_ingest.time import is_undated
from atoll_link.session import Delivery
from atoll_signal.features import FeatureRow
from atoll_signal.window import Window, Windows

MAX_WINDOW_BYTES: Final = 256 * 1024 * 1024
"""Memory for the windows of one model; with large windows fewer devices have one."""


class Answering:
    """A release at work: its windows, and who runs its model.

    Attributes:
        model: Its model.
        release: Its release.
        executor: Who runs it.
        length: How many readings a window of it holds.
    """

    def __init__(
        self,
        manifest: Manifest,
        executor: Executor,
        *,
        stream: str,
        site: str,
        agent: str,
        max_devices: int,
        clock: ClockState,
        has_restarted: bool,
    ) -> None:
        self.model = manifest.model
        self.executor = executor
        self._manifest = manifest
        self.release = manifest.release
        self._stream = stream
        self._clock = clock
        self._site = site
        self._agent = agent
        self._row = FeatureRow(manifest)
        self.length = manifest.window.length
        self._max_devices = max_devices
        self._windows = Windows(
            manifest.window,
            manifest.columns,
            max_devices=self._most_windows(max_devices),
            has_restarted=has_restarted,
        )
        self._topics: dict[str, str] = {}
        self._by_arrival: set[str] = set()

    @property
    def devices(self) -> int:
        """How many devices it has answered."""
        return len(self._topics)

    def known_devices(self, most: int) -> tuple[str, ...]:
        """Return devices that it has answered, those first that it has known longest."""
        return tuple(islice(self._topics, most))

    @property
    def forgotten(self) -> int:
        """How many devices lost their window to make room."""
        return self._windows.forgotten

    def limit(self, max_devices: int) -> None:
        """Answer so many devices at the most; those that go are forgotten as others come."""
        self._max_devices = max_devices
        self._windows.max_devices = self._most_windows(max_devices)

    def succeed(self, champion: Answering) -> None:
        """Begin with the windows of ``champion``, if both are made of the same columns."""
        if _columns(self._manifest) == _columns(champion._manifest):
            self._windows.adopt(champion._windows)
            self._by_arrival |= champion._by_arrival

    def take(self, reading: Reading, device: str, delivery: Delivery, entry: Entry | None) -> Pending | None:
        """Take in ``reading``; return what it asks of the model if it completes a window.

        Raises:
            MalformedMessageError: The reading lacks what the model needs.
        """
        row = self._row.row(reading.values)  # type: ignore[arg-type]  # dialects give values by name
        time_ms = delivery.arrival_ms if reading.time_ms is None else reading.time_ms
        if self.length == 1:  # nothing to remember: no window is kept
            return Pending(device, reading, delivery, entry, time_ms, row, None, False)
        if reading.time_ms is None:
            self._note_arrival(device)
        window = self._windows.push(device, row, time_ms)
        if window is None:
            return None
        bounds = WindowBounds(window.start_ms, self.length)
        return Pending(device, reading, delivery, entry, time_ms, window.packed, bounds, window.take_gap())

    def shift(self, step_ms: float) -> None:
        """Move the times in windows that came from arrival: the wall clock was set by ``step_ms``."""
        self._windows.shift(step_ms, self._by_arrival)

    def _note_arrival(self, device: str) -> None:
        """Note that the times in the window of ``device`` come from arrival."""
        if len(self._by_arrival) > 2 * self._max_devices:
            self._by_arrival &= {known for known, _ in self._windows}
        self._by_arrival.add(device)

    def prediction(self, pending: Pending, answer: Answer, now_ns: int) -> tuple[str, bytes]:
        """Return topic and payload of the prediction that tells ``answer``; monotonic time."""
        return self._topic(pending.device), self._encode(pending, answer, now_ns)

    def quality(self, pending: Pending, answer: Answer) -> list[Quality]:
        """Return what a reader of the prediction should know before trusting it."""
        quality = [*answer.quality]
        if pending.has_gap:
            quality.append(Quality.GAP)
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

    def _most_windows(self, max_devices: int) -> int:
        window_bytes = Window.size_bytes(self._manifest.window, self._manifest.columns)
        return max(1, min(max_devices, MAX_WINDOW_BYTES // window_bytes))

    def _topic(self, device: str) -> str:
        topic = self._topics.get(device)
        if topic is None:
            if len(self._topics) >= self._max_devices:
                self._topics.clear()  # devices come and go; their topics are cheap to make again
            topic = str(PredictionTopic(self._site, self._agent, device, self.model))
            self._topics[device] = topic
        return topic


def _columns(manifest: Manifest) -> list[tuple[str, tuple[int, ...], str | None]]:
    """Return what the columns of a row stand for, in order."""
    values = {value.name: value for value in manifest.values}
    return [(name, tuple(values[name].shape), values[name].unit) for name in manifest.features]
