"""Decisions that stand, and those that are over. Pure."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, replace
from typing import Final

from atoll_contract.decisions import Decision, State
from atoll_contract.topics import DecisionTopic

_MOST_STANDING: Final = 2000
_MOST_OVER: Final = 200


@dataclass(frozen=True, slots=True)
class Alarm:
    """A decision that was raised.

    Attributes:
        topic: Whose it is.
        decision: The one that raised it.
        arrival_ms: When it arrived.
        cleared_ms: When it was cleared; None: it stands.
    """

    topic: DecisionTopic
    decision: Decision
    arrival_ms: float
    cleared_ms: float | None = None


class Alarms:
    """What rules have raised.

    Attributes:
        dropped: Alarms that stand and found no room, the oldest first.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._standing: OrderedDict[DecisionTopic, Alarm] = OrderedDict()
        self._over: deque[Alarm] = deque(maxlen=_MOST_OVER)

    def take(self, topic: DecisionTopic, decision: Decision, arrival_ms: float) -> None:
        """Take a decision."""
        alarm = self._standing.pop(topic, None)
        if decision.state is State.RAISED:
            if len(self._standing) >= _MOST_STANDING:
                self._standing.popitem(last=False)
                self.dropped += 1
            since_ms = arrival_ms if alarm is None else alarm.arrival_ms
            self._standing[topic] = Alarm(topic, decision, since_ms)
        elif alarm is not None:
            self._over.append(replace(alarm, cleared_ms=arrival_ms))

    @property
    def standing(self) -> list[Alarm]:
        """Those that stand, the newest first."""
        return list(reversed(self._standing.values()))

    @property
    def over(self) -> list[Alarm]:
        """Those that are over, the newest first."""
        return list(reversed(self._over))

    def __len__(self) -> int:
        return len(self._standing)
