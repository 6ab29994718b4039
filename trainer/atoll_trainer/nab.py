"""The score of the Numenta Anomaly Benchmark for one file of readings.

After A. Lavin and S. Ahmad, *Evaluating Real-time Anomaly Detection Algorithms: the Numenta Anomaly
Benchmark*, ICMLA 2015. In each labelled window the earliest detection counts: 1 at its left edge, falling
along a sigmoid to 0 at its right edge; a window without a detection counts -1. Every detection outside of all
windows counts against the sum, the less the shorter it comes after one. Detections in the probationary
period at the start, of at most 750 readings, count nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

_PROBATION_SHARE: Final = 0.15
_PROBATION_MOST: Final = 5_000
"""Readings beyond which the probationary period grows no more."""
_FAR: Final = 3.0
"""Widths of a window after which a detection has nothing to do with it any more."""


@dataclass(frozen=True, slots=True)
class Profile:
    """What detections are worth.

    Attributes:
        found: A window that is detected at its left edge.
        missed: A window that is not detected.
        false_alarm: A detection far from all windows.
    """

    found: float = 1.0
    missed: float = 1.0
    false_alarm: float = 0.11


STANDARD: Final = Profile()


@dataclass(frozen=True, slots=True)
class NabScore:
    """What a detector is worth on one file.

    Attributes:
        score: The sum, not normalised over the benchmark.
        found: Windows with a detection.
        windows: All windows.
        false_alarms: Detections outside of them.
    """

    score: float
    found: int
    windows: int
    false_alarms: int


def nab_score(
    times_ms: NDArray[np.float64],
    is_detected: NDArray[np.bool_],
    windows: Sequence[tuple[float, float]],
    profile: Profile = STANDARD,
) -> NabScore:
    """Return the score of detections.

    Args:
        times_ms: Of all readings of the file, shape (n,), in their order.
        is_detected: At which of them an anomaly was told, shape (n,).
        windows: First and last time of each labelled window.
        profile: What detections are worth.
    """
    count = len(times_ms)
    probation = math.floor(_PROBATION_SHARE * min(count, _PROBATION_MOST))
    detected = [place for place in np.flatnonzero(is_detected).tolist() if place >= probation]
    edges = [_edges(times_ms, *window) for window in sorted(windows)]
    best: dict[int, float] = {}
    outside = 0.0
    false_alarms = 0
    for place in detected:
        inside = next((one for one, (left, right) in enumerate(edges) if left <= place <= right), None)
        if inside is not None:
            left, right = edges[inside]
            worth = _sigmoid(-(right - place + 1) / (right - left + 1)) * profile.found / _sigmoid(-1.0)
            best[inside] = max(best.get(inside, -math.inf), worth)
            continue
        false_alarms += 1
        before = [edge for edge in edges if edge[1] < place]
        outside += profile.false_alarm * (_after(*before[-1], place) if before else -1.0)
    counted = [one for one, (_, right) in enumerate(edges) if right >= probation]
    missed = sum(one not in best for one in counted)
    score = sum(best.values()) + outside - profile.missed * missed
    return NabScore(score, len(best), len(counted), false_alarms)


def onsets(times_ms: NDArray[np.float64], is_over: NDArray[np.bool_], hold_ms: float) -> NDArray[np.bool_]:
    """Return where an alarm is raised: over the threshold for the first time, or again after ``hold_ms``.

    That is how a rule of an agent tells people: once for what lasts, not with every reading.
    """
    raised = np.zeros(len(times_ms), np.bool_)
    last_ms = -math.inf
    for place in np.flatnonzero(is_over).tolist():
        if times_ms[place] - last_ms > hold_ms:
            raised[place] = True
        last_ms = float(times_ms[place])
    return raised


def _edges(times_ms: NDArray[np.float64], start_ms: float, end_ms: float) -> tuple[int, int]:
    places = np.flatnonzero((times_ms >= start_ms) & (times_ms <= end_ms))
    return int(places[0]), int(places[-1])


def _after(left: int, right: int, place: int) -> float:
    return _sigmoid((place - right) / max(1, right - left))


def _sigmoid(position: float) -> float:
    """Return the worth at ``position``, in widths of a window from its right edge: 1 to -1."""
    return -1.0 if position > _FAR else 2.0 / (1.0 + math.exp(5.0 * position)) - 1.0
