"""One rule's state for one device or group: raised or not, and since when its condition is met."""

from __future__ import annotations

from typing import Final

import msgspec

from atoll_agent.decisions.rule import Rule
from atoll_contract.decisions import State, Withheld

STEP_BACK_MS: Final = 60_000.0
"""An event time that lies further back is that of a clock that was set; less is out of order."""


class EventClock(msgspec.Struct, gc=False):
    """Seconds that have passed in event time; it never runs back.

    What is out of order does not move it. When a device's clock is set back it goes on from there, so
    that an hour in the future, once seen, does not stop it for an hour.
    """

    now_s: float = 0.0
    last_ms: float | None = None

    def advance(self, time_ms: float) -> float:
        """Note that it is ``time_ms`` there, and return the seconds that have passed."""
        last_ms = self.last_ms
        if last_ms is None or time_ms < last_ms - STEP_BACK_MS:
            self.last_ms = time_ms
        elif time_ms > last_ms:
            self.now_s += (time_ms - last_ms) / 1e3
            self.last_ms = time_ms
        return self.now_s


class Alarm(msgspec.Struct, gc=False):
    """Whether a rule is raised.

    Attributes:
        clock: Event time of the device.
        is_met: Whether the last prediction met the condition.
        is_raised: Whether the rule is raised.
        since_ms: Event time from which on the condition held.
        is_owed: Whether the commands of the present state were withheld.
        was_cooling: Whether the last step would have raised it, were it not for the cool-down.
        fresh: What the rule would be by fresh predictions alone; None: the same.
        doubt: Why the last prediction that was not fresh was none.
        bits: Which of the last predictions met the condition, the latest lowest.
        held_s: Since when enough of them have.
        unmet_s: Since when they have not, though the rule is raised.
        raised_s: When it was raised last.
    """

    clock: EventClock = msgspec.field(default_factory=EventClock)
    is_met: bool = False
    is_raised: bool = False
    since_ms: float | None = None
    is_owed: bool = False
    was_cooling: bool = False
    fresh: Alarm | None = None
    doubt: Withheld | None = None
    bits: int = 0
    held_s: float | None = None
    unmet_s: float | None = None
    raised_s: float | None = None

    @property
    def state(self) -> State:
        """What the rule says."""
        return State.RAISED if self.is_raised else State.CLEARED

    @property
    def is_confirmed(self) -> bool:
        """Whether the last prediction says what the state says."""
        return self.is_raised == (self.held_s is not None)

    def is_like(self, other: Alarm) -> bool:
        """Whether both will say the same of all that comes."""
        return (
            (self.bits, self.is_met, self.is_raised) == (other.bits, other.is_met, other.is_raised)
            and self.is_confirmed
            and other.is_confirmed
        )

    def shift(self, step_s: float) -> None:
        """Move what was noted of the time that passes: it begins elsewhere now."""
        self.held_s = None if self.held_s is None else self.held_s + step_s
        self.unmet_s = None if self.unmet_s is None else self.unmet_s + step_s
        self.raised_s = None if self.raised_s is None else self.raised_s + step_s
        if self.fresh is not None:
            self.fresh.shift(step_s)

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
        self.bits = (self.bits << 1 | is_met) & ((1 << rule.among) - 1)
        if self.bits.bit_count() < rule.needed:
            self.held_s = None
            return self.is_raised and self._is_over(rule, now_s)
        self.unmet_s = None
        if self.held_s is None:
            self.held_s = now_s
            if not self.is_raised:
                self.since_ms = time_ms
        if self.is_raised or now_s - self.held_s < rule.hold_s:
            return False
        if self.raised_s is not None and now_s - self.raised_s < rule.cool_down_s:
            self.was_cooling = True
            return False
        self.is_raised = True
        self.raised_s = now_s
        return True

    def _is_over(self, rule: Rule, now_s: float) -> bool:
        """Whether a raised rule is cleared: its condition has not held for long enough."""
        if self.unmet_s is None:
            self.unmet_s = now_s
        if now_s - self.unmet_s < rule.clear_hold_s:
            return False
        self.is_raised = False
        self.unmet_s = None
        return True
