"""What one champion sees and errs, held against the reference of its bundle; in bounded memory."""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from atoll_agent.drift.change import LIMIT, ChangeTest
from atoll_agent.drift.remembered import Found, Remembered
from atoll_agent.drift.seen import Seen, Told
from atoll_contract.drift import MAX_FEATURES, DriftReport, ErrorShift, Shift
from atoll_contract.manifest import Manifest, Task
from atoll_contract.messages import MAX_DETAIL_CHARS, Label
from atoll_contract.reference import Reference
from atoll_signal.picture import decodes_late
from atoll_signal.spread import Columns, Spread

OUTPUT: Final = "output"
"""What the predictions themselves are called beside the features."""
_SLICES: Final = 8
"""The time that is compared moves on by an eighth at a time."""
_STEADY: Final = 0.8
"""What was beyond its limit is so until it is below this share of it."""
_MAX_WAITING: Final = 4096
"""Labels that came before their prediction was handed over."""


class Monitor:
    """Watches one release.

    Attributes:
        release: Its number.
        started_s: When the watch began.

    Args:
        manifest: Of the release.
        reference: Of its bundle; None: only the error is watched, against what it is at first.
        fault: Why there is no reference, for people.
        now_s: On a monotonic clock, as in all that follows.
    """

    def __init__(
        self, manifest: Manifest, reference: Reference | None, now_s: float, fault: str | None = None
    ) -> None:
        self.release = manifest.release
        self.started_s = now_s
        self._model = manifest.model
        self._is_classifier = manifest.task is Task.CLASSIFICATION
        self._tolerance_ms = manifest.passing.label_tolerance_ms
        self._reference = reference
        self._note = fault
        self._names: list[str] = []
        self._limits: NDArray[np.float64] = np.zeros(0)
        self._spread = self._made_spread(manifest)
        self._slices: deque[_Slice] = deque([self._new_slice(now_s)])
        self._ahead = None if reference is None else reference.ahead
        self._ahead_place = self._place_ahead(manifest)
        self._remembered = Remembered()
        self._waiting: list[Told] = []
        self._beyond: set[str] = set()
        self._first_ms: float | None = None
        self.error = ChangeTest(None if reference is None else reference.error)
        self.counts: Counter[str] = Counter()
        self.sampled_ms = -math.inf
        """Event time up to which windows were left out, so that a label may belong to one of them."""

    def see(self, seen: Sequence[Seen], now_s: float) -> None:
        """Take in windows that were answered, in the order of their answers."""
        self.counts["windows"] += len(seen)
        self._count(seen, now_s)
        for one in seen:
            if self._ahead is not None and self._ahead_place is not None:
                truth = float(np.frombuffer(one.row, np.float32)[self._ahead_place])
                about_ms = one.time_ms - self._ahead.after_ms
                self._note_errors(
                    truth, self._remembered.take_near(one.device, about_ms, self._ahead.tolerance_ms)
                )
            self._remembered.add(one.device, one.time_ms, one.value)
        waiting, self._waiting = self._waiting, []
        for told in waiting:
            if not self._join(told.device, told.label):
                self.counts["labels_unmatched"] += 1

    def hear(self, told: Iterable[Told]) -> None:
        """Take in labels. One whose prediction is not known waits until windows are handed over next."""
        for one in told:
            self.counts["labels"] += 1
            if self._join(one.device, one.label):
                continue
            if len(self._waiting) < _MAX_WAITING:
                self._waiting.append(one)
            else:
                self.counts["labels_unmatched"] += 1

    def report(self, now_ms: float, now_s: float) -> DriftReport:
        """Return how the release fares; wall clock and monotonic clock."""
        windows = sum(one.windows for one in self._slices)
        span_s = now_s - self._slices[0].started_s
        shifts, output = self._shifts(windows, span_s)
        beyond = self._beyond_now([*shifts, *([output] if output else [])])
        error = self._error()
        if beyond and not self._beyond:
            self._first_ms = now_ms - span_s * 1e3
        self._beyond = beyond
        begun = [self._first_ms] if beyond else []
        if self.error.has_changed:
            begun.append(self.error.since_ms)
        since_ms = min((time_ms for time_ms in begun if time_ms is not None), default=None)
        self.counts["predictions_forgotten"] = self._remembered.forgotten
        return DriftReport(
            model=self._model,
            time_ms=now_ms,
            release=self.release,
            drifting=bool(beyond) or self.error.has_changed,
            since_ms=None if since_ms is None else max(0.0, since_ms),
            windows=windows,
            span_s=round(span_s, 1),
            features=sorted(shifts, key=lambda one: -one.index / one.limit)[:MAX_FEATURES],
            output=output,
            error=error,
            detail=self._detail(shifts, output),
            counts=dict(+self.counts),
        )

    # Features and outputs

    def _made_spread(self, manifest: Manifest) -> Spread | None:
        reference = self._reference
        if reference is None:
            return None
        histograms = list(reference.features)
        features = Columns.of(manifest).features
        if decodes_late(manifest) or len(histograms) != len(manifest.features):
            if histograms:
                self._note = "reference.json: its features are not those of the manifest"
            histograms, features = [], np.zeros(0, np.int64)
        self._names = list(manifest.labels) if histograms else []
        if reference.output is not None:
            features = np.append(features, len(histograms))
            histograms.append(reference.output)
            self._names.append(OUTPUT)
        if not histograms:
            return None
        self._limits = np.array([one.limit for one in histograms])
        return Spread(histograms, features)

    def _place_ahead(self, manifest: Manifest) -> int | None:
        if self._ahead is None or decodes_late(manifest):
            return None
        found = np.flatnonzero(Columns.of(manifest).places == self._ahead.column)
        return int(found[0]) if len(found) else None

    def _new_slice(self, now_s: float) -> _Slice:
        shape = (0, 0) if self._spread is None else (self._spread.count, self._spread.bins)
        return _Slice(now_s, np.zeros(shape, np.int64))

    def _count(self, seen: Sequence[Seen], now_s: float) -> None:
        if self._reference is None or self._spread is None or not seen:
            return
        slices = self._slices
        is_full = slices[-1].windows * _SLICES >= self._reference.windows
        if is_full and now_s - slices[-1].started_s >= self._reference.span_s / _SLICES:
            slices.append(self._new_slice(now_s))
            if len(slices) > _SLICES:
                slices.popleft()
        values = np.array([[one.value] for one in seen])
        rows = np.frombuffer(b"".join([one.row for one in seen]), np.float32).reshape(len(seen), -1)
        parts = [] if self._names == [OUTPUT] else [rows.astype(np.float64)]
        if self._reference.output is not None:
            parts.append(values)
        slices[-1].counts += self._spread.counts(np.concatenate(parts, axis=1))
        slices[-1].windows += len(seen)

    def _shifts(self, windows: int, span_s: float) -> tuple[list[Shift], Shift | None]:
        reference = self._reference
        if reference is None or self._spread is None:
            return [], None
        # The oldest slice has just begun to fill when the newest does: what is there covers seven.
        if windows < reference.windows or span_s < reference.span_s * (_SLICES - 1) / _SLICES:
            return [], None
        found = self._spread.index(np.sum([one.counts for one in self._slices], axis=0))
        shifts = [
            Shift(name=name, index=round(float(index), 4), limit=round(float(limit), 4))
            for name, index, limit in zip(self._names, found, self._limits, strict=True)
        ]
        return (shifts[:-1], shifts[-1]) if reference.output is not None else (shifts, None)

    def _beyond_now(self, shifts: Sequence[Shift]) -> set[str]:
        return {
            one.name
            for one in shifts
            if one.index > one.limit * (_STEADY if one.name in self._beyond else 1.0)
        }

    # The error

    def _join(self, device: str, label: Label) -> bool:
        tolerance_ms = self._tolerance_ms
        # Where windows were left out, the latest one before a label may be one of those.
        if label.time_ms is not None and label.time_ms - tolerance_ms <= self.sampled_ms:
            tolerance_ms = 0.0
        return self._note_errors(label.value, self._remembered.take(device, label, tolerance_ms))

    def _note_errors(self, truth: float, found: Sequence[Found]) -> bool:
        for one in found:
            error = float(one.value != truth) if self._is_classifier else abs(one.value - truth)
            self.error.add(error, one.time_ms)
        return bool(found)

    def _error(self) -> ErrorShift | None:
        test = self.error
        if not test.labels:
            return None
        return ErrorShift(
            labels=test.labels,
            mean=float(f"{test.mean:.6g}"),
            expected=test.mean if test.expected is None else test.expected.mean,
            statistic=round(test.statistic, 2),
            limit=LIMIT,
            since_ms=None if test.since_ms is None else max(0.0, test.since_ms),
        )

    def _detail(self, shifts: Sequence[Shift], output: Shift | None) -> str | None:
        texts = [
            f"{one.name}: {one.index:g} (limit {one.limit:g})"
            for one in [*shifts, *([output] if output else [])]
            if one.name in self._beyond
        ]
        if self.error.has_changed and self.error.expected is not None:
            texts.insert(0, f"error {self.error.mean:.4g} instead of {self.error.expected.mean:.4g}")
        return "; ".join([*texts, *([self._note] if self._note else [])])[:MAX_DETAIL_CHARS] or None


class _Slice:
    """Counts of a part of the time that is compared."""

    __slots__ = ("counts", "started_s", "windows")

    def __init__(self, started_s: float, counts: NDArray[np.int64]) -> None:
        self.started_s = started_s
        self.counts = counts
        self.windows = 0
