"""What the demo counts: every reading, its prediction, its label. Pure; fed by the watcher."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

import numpy as np

from atoll_contract.messages import Label, Prediction, Reading

_Key = tuple[str, str | None, int | None]


@dataclass(slots=True)
class _Answer:
    release: int
    value: float
    time_ms: float
    arrival_ms: float
    times: int = 1


@dataclass(slots=True)
class Tally:
    """Counts of one demo run.

    One thread counts while another one asks, hence the copies: a dictionary must not grow under a loop.

    Attributes:
        bytes_in: Payload bytes of readings.
        bytes_out: Payload bytes of predictions.
        bytes_release: Payload bytes of chunks and metadata.
    """

    bytes_in: int = 0
    bytes_out: int = 0
    bytes_release: int = 0
    _readings: dict[_Key, float] = field(default_factory=dict)
    _answers: dict[_Key, _Answer] = field(default_factory=dict)
    _labels: dict[tuple[str, float], float] = field(default_factory=dict)

    def reading(self, device: str, reading: Reading, arrival_ms: float) -> None:
        """Count a reading that was published."""
        time_ms = arrival_ms if reading.time_ms is None else reading.time_ms
        self._readings[device, reading.boot, reading.seq] = time_ms

    def prediction(self, device: str, prediction: Prediction, arrival_ms: float) -> None:
        """Count a prediction that was published."""
        key = (device, prediction.boot, prediction.seq)
        known = self._answers.get(key)
        if known is not None:
            known.times += 1
            return
        self._answers[key] = _Answer(prediction.release, prediction.value, prediction.time_ms, arrival_ms)

    def label(self, device: str, label: Label) -> None:
        """Count a label that was published."""
        if label.time_ms is not None:
            self._labels[device, label.time_ms] = label.value

    @property
    def readings(self) -> int:
        """Readings published since the first prediction of their device."""
        return len(self._asked())

    @property
    def predictions(self) -> int:
        """Predictions published, without duplicates."""
        return len(self._answers)

    @property
    def duplicated(self) -> int:
        """Predictions published more than once."""
        return sum(answer.times - 1 for answer in list(self._answers.values()))

    @property
    def lost(self) -> int:
        """Readings since the first prediction of their device that have none."""
        return len(self._asked().difference(list(self._answers)))

    def by_release(self) -> dict[int, int]:
        """Return how many predictions each release made."""
        counts: dict[int, int] = defaultdict(int)
        for answer in list(self._answers.values()):
            counts[answer.release] += 1
        return dict(counts)

    def error(
        self, release: int, since_ms: float = 0.0, until_ms: float = np.inf
    ) -> tuple[float | None, int]:
        """Return the mean absolute error of a release on labelled readings of a time, and their number."""
        errors = [
            abs(answer.value - self._labels[key[0], answer.time_ms])
            for key, answer in list(self._answers.items())
            if answer.release == release
            and since_ms <= answer.time_ms < until_ms
            and (key[0], answer.time_ms) in self._labels
        ]
        return (float(np.mean(errors)) if errors else None), len(errors)

    def latency_ms(self) -> tuple[float, float]:
        """Return median and 99th percentile from a reading's event time to its prediction's arrival."""
        delays = [answer.arrival_ms - answer.time_ms for answer in list(self._answers.values())]
        if not delays:
            return float("nan"), float("nan")
        median, p99 = np.percentile(delays, [50, 99])
        return float(median), float(p99)

    def first_arrival_ms(self, release: int) -> float | None:
        """Return when the first prediction of a release arrived."""
        return min((a.arrival_ms for a in list(self._answers.values()) if a.release == release), default=None)

    def _asked(self) -> set[_Key]:
        first: dict[tuple[str, str | None], int] = {}
        for device, boot, seq in list(self._answers):
            if seq is not None:
                known = first.get((device, boot), seq)
                first[device, boot] = min(known, seq)
        return {
            (device, boot, seq)
            for device, boot, seq in list(self._readings)
            if seq is not None and seq >= first.get((device, boot), 2**63)
        }
