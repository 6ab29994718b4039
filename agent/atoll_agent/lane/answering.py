"""One model that answers in the lane: a reading in, a prediction's bytes out."""

from __future__ import annotations

import time
from typing import Final

import msgspec

from atoll_contract.messages import Prediction, Quality, Reading, WindowBounds, encode_prediction
from atoll_contract.topics import PredictionTopic
from atoll_infer.predictor import Predictor
from atoll_signal.features import FeatureRow
from atoll_signal.window import Windows

MAX_WINDOW_BYTES: Final = 256 * 1024 * 1024
"""Memory for the windows of one model; with large windows fewer devices have one."""


class Origin(msgspec.Struct, frozen=True, gc=False):
    """Where a reading came from.

    Attributes:
        stream: Its stream.
        device: Its device.
        arrival_ms: When it arrived, milliseconds since the epoch: its event time if it has none.
        arrival_ns: The same on the monotonic clock.
        is_replayed: The broker had kept it.
    """

    stream: str
    device: str
    arrival_ms: float
    arrival_ns: int
    is_replayed: bool


class Answering:
    """A release at work: its windows and its predictor."""

    def __init__(
        self, predictor: Predictor, *, site: str, agent: str, max_devices: int, has_restarted: bool
    ) -> None:
        manifest = predictor.manifest
        self.model = manifest.model
        self.release = manifest.release
        self._predictor = predictor
        self._site = site
        self._agent = agent
        self._row = FeatureRow(manifest)
        self._length = manifest.window.length
        self._max_devices = max_devices
        # Every row is held twice, as float32, and its time as float64.
        window_bytes = self._length * 2 * (4 * self._row.columns + 8)
        self._windows = Windows(
            manifest.window,
            self._row.columns,
            max_devices=max(1, min(max_devices, MAX_WINDOW_BYTES // window_bytes)),
            has_restarted=has_restarted,
        )
        self._topics: dict[str, str] = {}

    @property
    def devices(self) -> int:
        """How many devices it has answered."""
        return len(self._topics)

    @property
    def forgotten(self) -> int:
        """How many devices lost their window to make room."""
        return self._windows.forgotten

    def succeed(self, champion: Answering) -> None:
        """Take over the windows of ``champion``, if both are made of the same columns."""
        if self._predictor.manifest.features == champion._predictor.manifest.features and (
            self._row.columns == champion._row.columns
        ):
            self._windows.adopt(champion._windows)

    def answer(self, reading: Reading, origin: Origin) -> tuple[str, bytes] | None:
        """Return topic and payload of the prediction that ``reading`` completes, if it does.

        Raises:
            MalformedMessageError: The reading lacks what the model needs.
            ModelOutputError: The model answered NaN or infinity.
        """
        values = reading.values if isinstance(reading.values, dict) else {"value": reading.values}
        row = self._row.row(values)
        time_ms = origin.arrival_ms if reading.time_ms is None else reading.time_ms
        bounds = None
        has_gap = False
        if self._length == 1:
            rows = row[None]  # nothing to remember: no window is kept
        else:
            window = self._windows.push(origin.device, row, time_ms)
            if window is None:
                return None
            rows = window.rows
            bounds = WindowBounds(float(window.times_ms[0]), self._length)
            has_gap = self._windows.has_gap(window)
        answer = self._predictor.answer(rows)
        quality = list(answer.quality)
        if has_gap:
            quality.append(Quality.GAP)
        if origin.is_replayed:
            quality.append(Quality.REPLAYED)
        prediction = Prediction(
            time_ms=time_ms,
            value=answer.value,
            release=self.release,
            latency_ms=round((time.monotonic_ns() - origin.arrival_ns) / 1e6, 3),
            seq=reading.seq,
            boot=reading.boot,
            stream=origin.stream,
            window=bounds,
            output=answer.output,
            quality=quality or None,
        )
        return self._topic(origin.device), encode_prediction(prediction)

    def _topic(self, device: str) -> str:
        topic = self._topics.get(device)
        if topic is None:
            if len(self._topics) >= self._max_devices:
                self._topics.clear()  # devices come and go; their topics are cheap to make again
            topic = str(PredictionTopic(self._site, self._agent, device, self.model))
            self._topics[device] = topic
        return topic
