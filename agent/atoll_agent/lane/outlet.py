"""What leaves for a model that has rules, or whose predictions are published by exception.

A model that has neither has no outlet, and costs nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from atoll_agent.decisions.exception import Exceptions
from atoll_agent.decisions.rule import Seen
from atoll_agent.decisions.rules import Act, Rules
from atoll_agent.lane.pending import Pending
from atoll_agent.ports import ClockState
from atoll_contract.decisions import Withheld
from atoll_contract.messages import Quality
from atoll_infer.predictor import Answer


class Outlet:
    """Decides what becomes of the answers of one model.

    Attributes:
        rules: What decides over them, if anything does.
        counts: Counters by name.
    """

    def __init__(self, rules: Rules | None, exceptions: Exceptions | None, clock: ClockState) -> None:
        self.rules = rules
        self._exceptions = exceptions
        self._clock = clock
        self.counts: Counter[str] = Counter() if rules is None else rules.counts

    def is_same(self, other: Outlet) -> bool:
        """Whether ``other`` decides by the very same rules."""
        return self.rules is other.rules and self._exceptions is other._exceptions

    def adopt(self, former: Outlet) -> None:
        """Go on where the rules before a reload stand."""
        if self.rules is not None and former.rules is not None and self.rules is not former.rules:
            self.rules.adopt(former.rules)

    def is_worth_telling(
        self, pending: Pending, answer: Answer, release: int, quality: Sequence[Quality]
    ) -> bool:
        """Whether the prediction is published; if not it is counted."""
        if self._exceptions is None:
            return True
        output = answer.output or {}
        kind = (release, output.get("label"), output.get("anomaly"))
        if self._exceptions.is_worth_telling(pending.device, pending.time_ms, answer.value, kind, quality):
            return True
        self.counts["predictions_suppressed"] += 1
        return False

    def acts(
        self, pending: Pending, answer: Answer, release: int, quality: Sequence[Quality], now_ns: int
    ) -> Sequence[Act]:
        """Return the decisions and commands that follow from an answer; monotonic time."""
        if self.rules is None:
            return ()
        reading, delivery = pending.reading, pending.delivery
        output: dict[str, Any] = answer.output or {}
        return self.rules.judge(
            Seen(
                device=pending.device,
                time_ms=pending.time_ms,
                value=answer.value,
                release=release,
                arrival_s=delivery.arrival_ns / 1e9,
                # The clock may have been set since, and the reading may have waited for the model.
                now_ms=delivery.arrival_ms + max(0, now_ns - delivery.arrival_ns) / 1e6,
                label=output.get("label"),
                is_anomaly=output.get("anomaly") is True,
                doubt=self._doubt(pending, quality),
                seq=reading.seq,
                boot=reading.boot,
            )
        )

    def _doubt(self, pending: Pending, quality: Sequence[Quality]) -> Withheld | None:
        if Quality.LATE in quality:
            return Withheld.LATE
        if pending.delivery.is_retained or Quality.REPLAYED in quality:
            return Withheld.REPLAYED
        if pending.delivery.is_duplicate and pending.delivery.connection == 1:
            # Before the first connection of this process nobody noted what was answered.
            return Withheld.REDELIVERED
        return Withheld.TIME_UNSYNCED if self._clock.is_time_unsynced else None
