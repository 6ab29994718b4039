"""One rule's state for one device or group: raised or not, and since when its condition is met."""

from __future__ import annotations

from typing import Final

from atoll_agent.decisions.rule import Rule
from atoll_contract.decisions import State

STEP_BACK_MS: Final = 60_000.0
"""An event time that lies further back is that of a clock that was set; less is out of order."""


class EventClock:
    """Seconds that have passed in event time; it never runs back.

    What is out of order does not move it. When a device's clock is set back it goes on from there, so
    that an hour in the future, once seen, does not stop it for an hour.
    """

    __slots__ = ("_last_ms", "now_s")

    def __init__(self) -> None:
        self.now_s = 0.0
        self._last_ms: float | None = None

    def advance(self, time_ms: float) -> float:
        """Note that it is ``time_ms`` there, and return the seconds that have passed."""
        last_ms = self._last_ms
        if last_ms is None or time_ms < last_ms - STEP_BACK_MS:
            self._last_ms = time_ms
        elif time_ms > last_ms:
            self.now_s += (time_ms - last_ms) / 1e3
            self._last_ms = time_ms
        return self.now_s


class Alarm:
    """Whether a rule is raised.

    Attributes:
        clock: Event time of the device.
        is_met: Whether the last prediction met the condition.
        is_raised: Whether the rule is raised.
        since_ms: Event time from which on the condition held.
        is_owed: Whether the commands of the present state were withheld.
        was_cooling: Whether the last step would have raised it, were it not for the cool-down.
    """

    __slots__ = (
        "_bits",
        "_held_s",
        "_raised_s",
        "_unmet_s",
        "clock",
        "is_met",
        "is_owed",
        "is_raised",
        "since_ms",
        "was_cooling",
    )

    def __init__(self) -> None:
        self.clock = EventClock()
        self.is_met = False
        self.is_raised = False
        self.since_ms: float | None = None
        self.is_owed = False
        self.was_cooling = False
        self._bits = 0
        self._held_s: float | None = None
        self._unmet_s: float | None = None
        self._raised_s: float | None = None

    @property
    def state(self) -> State:
        """What the rule says."""
        return State.RAISED if self.is_raised else State.CLEARED

    @property
    def is_confirmed(self) -> bool:
        """Whether the last prediction says what the state says."""
        return self.is_raised == (self._held_s is not None)

    def step(self, rule: Rule, *, is_met: bool, now_s: float, time_ms: float) -> bool:
        """Take in whether a prediction met the condition; return whether the state has changed.

        Args:
            rule: The rule.
            is_met: Whether it did.
            now_s: Passes evenly, whatever clock it is of.
            time_ms: Event time of the prediction.
        """
        self.is_met = is_met
        self.was_cooling = False
        self._bits = (self._bits << 1 | is_met) & ((1 << rule.among) - 1)
        if self._bits.bit_count() < rule.needed:
            self._held_s = None
            return self.is_raised and self._is_over(rule, now_s)
        self._unmet_s = None
        if self._held_s is None:
            self._held_s = now_s
            if not self.is_raised:
                self.since_ms = time_ms
        if self.is_raised or now_s - self._held_s < rule.hold_s:
            return False
        if self._raised_s is not None and now_s - self._raised_s < rule.cool_down_s:
            self.was_cooling = True
            return False
        self.is_raised = True
        self._raised_s = now_s
        return True

    def _is_over(self, rule: Rule, now_s: float) -> bool:
        """Whether a raised rule is cleared: its condition has not held for long enough."""
        if self._unmet_s is None:
            self._unmet_s = now_s
        if now_s - self._unmet_s < rule.clear_hold_s:
            return False
        self.is_raised = False
        self._unmet_s = None
        return True
