"""Follows how the champions fare on what the lane hands over, and says what is to be published of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
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
        self._told: dict[str, tuple[float, bool]] = {}
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
                self._told[model] = (now_s, report.drifting)
                yield report

    def tell_all(self) -> None:
        """Let the next look yield every report: the broker may have lost them."""
        self._told.clear()

    def _follow_champions(self, now_s: float) -> None:
        for model in self._monitors.keys() - self._predictors.keys():
            del self._monitors[model]
            self._told.pop(model, None)
        for model, predictor in list(self._predictors.items()):
            monitor = self._monitors.get(model)
            if monitor is None or monitor.release != predictor.manifest.release:
                self._monitors[model] = Monitor(
                    predictor.manifest, predictor.reference, now_s, predictor.reference_fault
                )
                self._told.pop(model, None)

    def _is_due(self, report: DriftReport, now_s: float) -> bool:
        told_s, was_drifting = self._told.get(report.model, (None, False))
        if report.drifting and not was_drifting:
            log.warning("drift.begun", model=report.model, release=report.release, detail=report.detail)
        elif was_drifting and not report.drifting:
            log.info("drift.ended", model=report.model, release=report.release)
        # A release that has just begun is looked at more often.
        interval_s = min(_REPORT_S, (now_s - self._monitors[report.model].started_s) / 2)
        return told_s is None or report.drifting is not was_drifting or now_s - told_s >= interval_s
