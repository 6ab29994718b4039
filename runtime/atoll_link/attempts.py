"""When to try to connect again, and with which version of MQTT. Pure."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Final

from atoll_link.packets import Level

_BASE_S: Final = 0.5
_CAP_S: Final = 30.0
_MOST_ATTEMPTS: Final = 10
_MOST_ACCEPTED: Final = 3
"""With this, the ceiling is 4 s: two clients with one id, who end each other, stay far from a hot loop."""
_STABLE_AFTER_S: Final = 2.0
"""A connection that lasted this long resets the backoff."""
_LIKELY_CONNACK_S: Final = 1.0
"""A broker that has said nothing for so long, and four times as long as connecting took, may not have
MQTT 5."""
_REMEMBERED_S: Final = 3600.0
_MOST_SILENCES: Final = 5


@dataclass(slots=True)
class Backoff:
    """Full jitter below a ceiling that doubles with each attempt.

    Attributes:
        attempts: How many have failed in a row.
        until: No earlier is the next one due.
    """

    attempts: int = 0
    until: float = 0.0
    source: random.Random = field(default_factory=random.Random)

    def lose(self, now: float, stood_s: float) -> None:
        """Note that a connection was lost: the broker is there, and it is the line that fails."""
        self.attempts = 0 if stood_s > _STABLE_AFTER_S else min(self.attempts, _MOST_ACCEPTED)
        self.fail(now)

    def fail(self, now: float) -> None:
        """Note that an attempt failed."""
        ceiling = min(_CAP_S, _BASE_S * 2.0**self.attempts)
        self.attempts = min(self.attempts + 1, _MOST_ATTEMPTS)
        self.until = now + self.source.uniform(0, ceiling)


@dataclass(slots=True)
class LevelChoice:
    """MQTT 5 where the broker has it, 3.1.1 otherwise.

    A broker that lacks MQTT 5 may refuse it, hang up, or wait for ever: amqtt reads the properties as
    the length of something that never comes. The last two may have other causes, so 3.1.1 counts
    only once it was accepted, and then for an hour.

    Attributes:
        has_spoken_5: Whether the broker accepted MQTT 5 the last time it accepted anything. Then only a
            refusal counts against it, or the fifth attempt in a row that it does not answer: it may just
            be starting again, and a connection with 3.1.1 could stand for months.
    """

    has_spoken_5: bool = False
    _next: Level | None = None
    _remembered_until: float = 0.0
    _silences: int = 0

    def choose(self, now: float) -> Level:
        """Return the level for the attempt that begins."""
        level = Level.MQTT_311 if now < self._remembered_until else Level.MQTT_5
        level, self._next = self._next or level, None
        return level

    def patience_s(self, level: Level, longest_s: float, connecting_s: float) -> float:
        """Return how long to wait for the answer to CONNECT."""
        if level is Level.MQTT_311 or self.has_spoken_5:
            return longest_s
        return min(longest_s, _LIKELY_CONNACK_S + 4 * connecting_s)

    def accept(self, level: Level, now: float) -> None:
        """Note that the broker accepted a connection."""
        self.has_spoken_5 = level is Level.MQTT_5
        self._silences = 0
        self._remembered_until = 0.0 if self.has_spoken_5 else now + _REMEMBERED_S

    def fail(self, level: Level, *, was_refused: bool) -> bool:
        """Note that a connection ended before it was accepted; whether to try the other level at once.

        ``was_refused``: the broker said that it does not have this level.
        """
        if level is Level.MQTT_311:
            return False
        self._silences += not was_refused
        if self.has_spoken_5 and not was_refused and self._silences < _MOST_SILENCES:
            return False
        self._silences = 0
        self._next = Level.MQTT_311
        return True
