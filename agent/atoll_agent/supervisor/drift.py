"""Follows how the champions fare on what the lane hands over, and says what is to be published of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import structlog

from atoll_agent.drift.monitor import Monitor
from atoll_agent.drift.seen import Seen, Told
from atoll_agent.ports import Handed
from atoll_contract.drift import DriftReport
from atoll_infer.predictor import Predictor

log = structlog.get_logger()

LOOK_S: Final = 1.0
"""How often the lane's work is looked at."""
_REPORT_S: Final = 60.0
"""How often at the least a report is published that tells nothing new but figures."""
_MOVING_S: Final = 5.0
"""How often at the most one is that tells how the error moves while it drifts."""
_MOVED: Final = 0.25
"""Share by which an error beyond its limit has become another one than was told."""


@dataclass(frozen=True, slots=True)
class _Last:
    """The report that was published last.

    Attributes:
        told_s: When that was.
        was_drifting: What it said.
        error: The recent error that it told; 0 without labels.
    """

    told_s: float
    was_drifting: bool
    error: float

    @classmethod
    def of(cls, report: DriftReport, now_s: float) -> _Last:
        """Return what is remembered of ``report``."""
        return cls(now_s, report.drifting, 0.0 if report.error is None else report.error.mean)

    def has_moved(self, report: DriftReport) -> bool:
        """Whether the error of ``report`` is beyond its limit, and another one."""
        error = report.error
        if error is None or error.statistic <= error.limit:
            return False
        return abs(error.mean - self.error) > _MOVED * max(self.error, error.expected)


class DriftWatch:
    """One monitor for each champion.

    Args:
        handover: Where the lane's work comes from.
        predictors: The champions at work, by model; they change as releases do.
    """

    def __init__(self, handover: Handed, predictors: Mapping[str, Predictor]) -> None:
        self._handover = handover
        self._predictors = predictors
        self._monitors: dict[str, Monitor] = {}
        self._last: dict[str, _Last] = {}
        self._left_out: dict[str, int] = {}

    def look(self, now_ms: float, now_s: float) -> Iterator[DriftReport]:
        """Take in what was handed over since the last time, and yield the reports that are due."""
        self._follow_champions(now_s)
        seen: dict[str, list[Seen]] = defaultdict(list)
        told: dict[str, list[Told]] = defaultdict(list)
        for one in self._handover.take():
            if isinstance(one, Told):
                told[one.model].append(one)
            elif one.model in self._monitors and one.release == self._monitors[one.model].release:
                seen[one.model].append(one)
        for model, monitor in self._monitors.items():
            left_out = self._handover.left_out[model]
            before, self._left_out[model] = self._left_out.get(model, 0), left_out
            if left_out > before:
                monitor.sampled_ms = max([now_ms, *(one.time_ms for one in seen[model])])
            monitor.counts["left_out"] += left_out - before
            monitor.see(seen[model], now_s)
            monitor.hear(told[model])
            report = monitor.report(now_ms, now_s)
            if self._is_due(report, now_s):
                self._last[model] = _Last.of(report, now_s)
                yield report

    def tell_all(self) -> None:
        """Let the next look yield every report: the broker may have lost them."""
        self._last.clear()

    def _follow_champions(self, now_s: float) -> None:
        for model in self._monitors.keys() - self._predictors.keys():
            del self._monitors[model]
            self._last.pop(model, None)
        for model, predictor in list(self._predictors.items()):
            monitor = self._monitors.get(model)
            if monitor is None or monitor.release != predictor.manifest.release:
                self._monitors[model] = Monitor(
                    predictor.manifest, predictor.reference, now_s, predictor.reference_fault
                )
                self._last.pop(model, None)

    def _is_due(self, report: DriftReport, now_s: float) -> bool:
        last = self._last.get(report.model)
        was_drifting = last is not None and last.was_drifting
        if report.drifting and not was_drifting:
            log.warning("drift.begun", model=report.model, release=report.release, detail=report.detail)
        elif was_drifting and not report.drifting:
            log.info("drift.ended", model=report.model, release=report.release)
        if last is None or report.drifting is not was_drifting:
            return True
        # A release that has just begun is looked at more often.
        interval_s = min(_REPORT_S, (now_s - self._monitors[report.model].started_s) / 2)
        if last.has_moved(report):
            interval_s = min(interval_s, _MOVING_S)
        return now_s - last.told_s >= interval_s
