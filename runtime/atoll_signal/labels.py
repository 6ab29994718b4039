"""Which reading a label speaks of.

The reading of the same device with the same event time, else the latest one at or before it within a
tolerance, unless that one has a label of its own time; a label over a span speaks of every reading in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atoll_contract.messages import Label


@dataclass(frozen=True, slots=True)
class Arrived:
    """A label as it came.

    Attributes:
        device: Whom it speaks of.
        arrival_ms: When it came.
        label: What it says.
    """

    device: str
    arrival_ms: float
    label: Label


class LabelJoin:
    """Joins labels to readings that are there already; times of a device may step back."""

    def __init__(
        self,
        devices: list[str],
        times_ms: NDArray[np.float64],
        arrivals_ms: NDArray[np.float64],
        tolerance_ms: float,
    ) -> None:
        self._times_ms = times_ms
        self._arrivals_ms = arrivals_ms
        self._tolerance_ms = tolerance_ms
        self._count = len(times_ms)
        places: dict[str, list[int]] = {}
        for place, device in enumerate(devices):
            places.setdefault(device, []).append(place)
        self._places: dict[str, NDArray[np.int64]] = {}
        self._times: dict[str, NDArray[np.float64]] = {}
        for device, found in places.items():
            own = np.array(found)
            own = own[np.argsort(times_ms[own], kind="stable")]
            self._places[device], self._times[device] = own, times_ms[own]

    def join(self, labels: Iterable[Arrived]) -> tuple[NDArray[np.float64], int]:
        """Return the value of each reading's label, NaN for none, and how many labels found none.

        Of two labels for one reading the one of its very time holds, else the later one.
        """
        values = np.full(self._count, np.nan)
        is_exact = np.zeros(self._count, np.bool_)
        lost = 0
        late: list[tuple[int, float]] = []
        for arrived in labels:
            places = self._find(arrived)
            if len(places) and self._is_late(arrived, places[0]):
                late.append((int(places[0]), arrived.label.value))
                continue
            values[places] = arrived.label.value
            is_exact[places] = True
            lost += not len(places)
        for place, value in late:
            # The reading of this label was lost: its neighbour has a label of its own.
            if is_exact[place]:
                lost += 1
            else:
                values[place] = value
        return values, lost

    def _is_late(self, arrived: Arrived, place: np.int64) -> bool:
        time_ms = arrived.label.time_ms
        return time_ms is not None and time_ms != self._times_ms[place]

    def _find(self, arrived: Arrived) -> NDArray[np.int64]:
        none = np.empty(0, np.int64)
        if arrived.device not in self._times:
            return none
        times, places, label = self._times[arrived.device], self._places[arrived.device], arrived.label
        if label.time_ms is None:
            start, end = np.searchsorted(times, [label.start_ms or 0.0, label.end_ms or 0.0])
            return places[start:end]
        end = int(np.searchsorted(times, label.time_ms, side="right"))
        if end == 0 or label.time_ms - times[end - 1] > self._tolerance_ms:
            return none
        start = int(np.searchsorted(times, times[end - 1]))
        # Where time stepped back two readings have this time: the label means the one before it.
        equal = places[start:end]
        came_before = equal[self._arrivals_ms[equal] <= arrived.arrival_ms]
        return came_before[-1:] if len(came_before) else equal[:1]
