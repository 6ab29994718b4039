"""Decisions that stand, and those that are over. Pure."""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, replace
from typing import Final

from atoll_contract.decisions import Decision, State
from atoll_contract.topics import DecisionTopic

_MOST_STANDING: Final = 2000
_MOST_OVER: Final = 200
_FORGOTTEN_MS: Final = 24 * 3600e3
"""After so long nobody will confirm an alarm any more."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """A decision that was raised.

    Attributes:
        topic: Whose it is.
        decision: The one that raised it.
        arrival_ms: When it arrived.
        cleared_ms: When it was cleared; None: it stands.
        unsure_ms: Since when a word that it is over could have been missed; None: it stands for certain.
    """

    topic: DecisionTopic
    decision: Decision
    arrival_ms: float
    cleared_ms: float | None = None
    unsure_ms: float | None = None


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

    def doubt(self, now_ms: float, agent: tuple[str, str] | None = None) -> None:
        """Note that from now on nobody hears that an alarm is over: decisions are not retained.

        Args:
            now_ms: The time.
            agent: Site and id of the one that is gone; None: it is the broker that is.
        """
        for topic, alarm in list(self._standing.items()):
            if alarm.unsure_ms is not None:
                if now_ms - alarm.unsure_ms > _FORGOTTEN_MS:
                    del self._standing[topic]
            elif agent is None or agent == (topic.site, topic.agent):
                self._standing[topic] = replace(alarm, unsure_ms=now_ms)

    @property
    def unconfirmed(self) -> int:
        """How many may be over, unheard."""
        return sum(alarm.unsure_ms is not None for alarm in self._standing.values())

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
