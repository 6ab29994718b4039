"""What happens when in a simulated world: pure, in virtual time.

Readings and labels of all devices come out in one order, the same in every run of the same world.
How fast, and how late, they are published is not known here, nor which readings leave their device:
whoever publishes them says whose labels are to come.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass

from atoll_sim.device import Device, Sample
from atoll_sim.firmware import Taken


@dataclass(frozen=True, slots=True)
class ReadingDue:
    """A device takes a reading now."""

    device: Device
    sample: Sample


@dataclass(frozen=True, slots=True)
class LabelDue:
    """The truth about the reading of ``reading_s``, by the device's clock, becomes known now."""

    device: Device
    model: str
    reading_s: float
    value: float


Occurrence = ReadingDue | LabelDue


class Schedule:
    """Takes the readings of ``devices`` in order of time, and the labels that are expected of them.

    It ends after ``readings`` readings, sent or not, and the labels; None: never.
    """

    def __init__(self, devices: Sequence[Device], readings: int | None = None) -> None:
        self._devices = devices
        self._left = readings
        self._readings = [(device.next_s, index) for index, device in enumerate(devices)]
        heapq.heapify(self._readings)
        self._labels: list[tuple[float, int, LabelDue]] = []
        self._labels_made = 0

    @property
    def pending_labels(self) -> int:
        """How many labels are known to come."""
        return len(self._labels)

    @property
    def next_s(self) -> float | None:
        """When the next thing happens, in seconds since the world began; None: nothing will."""
        candidates = [queue[0][0] for queue in (self._due_readings, self._labels) if queue]
        return min(candidates, default=None)

    def take(self) -> Occurrence:
        """Take what happens next; at one time readings go before labels.

        Raises:
            IndexError: Nothing happens any more: ``next_s`` is None.
        """
        readings = self._due_readings
        if readings and (not self._labels or readings[0][0] <= self._labels[0][0]):
            return self._take_reading()
        return heapq.heappop(self._labels)[2]

    def expect_label(self, device: Device, taken: Taken, now_s: float) -> None:
        """Let the label of a reading that has left its device follow when it is known, if it has one."""
        if taken.label is None or device.truth is None:
            return
        due_s = max(now_s, taken.time_s + device.truth.label_delay_s)
        label = LabelDue(device, device.truth.model, taken.stamp_s, taken.label)
        heapq.heappush(self._labels, (due_s, self._labels_made, label))
        self._labels_made += 1

    @property
    def _due_readings(self) -> list[tuple[float, int]]:
        return [] if self._left == 0 else self._readings

    def _take_reading(self) -> ReadingDue:
        index = self._readings[0][1]
        device = self._devices[index]
        sample = device.take()
        heapq.heapreplace(self._readings, (device.next_s, index))
        if self._left is not None and sample.values:
            self._left -= 1
        return ReadingDue(device, sample)
