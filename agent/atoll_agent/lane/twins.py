"""Copies of one message that a broker sends because two filters of a session match its topic.

While the filters of a stream change, the new ones stand beside the old ones for a moment, and a broker may
send a message once for each of those that match (MQTT-3.3.5), one copy directly after the other.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from atoll_link.session import Delivery

CHANGE_S: Final = 60.0
"""So long after a change messages that waited at the broker may still come twice."""
_APART_NS: Final = 50_000_000
"""Equal messages further apart are two, of a sensor that says the same again."""


def do_overlap(one: str, other: str) -> bool:
    """Whether some topic matches both filters.

    >>> do_overlap("plant/+/raw", "plant/press/#"), do_overlap("plant/+/raw", "plant/+/fine")
    (True, False)
    """
    levels, others = _levels(one), _levels(other)
    for level, beside in zip(levels, others, strict=False):
        if "#" in {level, beside}:
            return True
        if level != beside and "+" not in {level, beside}:
            return False
    longer = max(levels, others, key=len)
    return len(levels) == len(others) or longer[min(len(levels), len(others))] == "#"


class Twins:
    """Recognises the second of two copies, for a while after a change. Used by one thread."""

    def __init__(self) -> None:
        self._until_s = 0.0
        self._last: Delivery | None = None
        self.is_due = False
        """Whether :meth:`is_second` has to be asked."""

    def expect(self, new: Collection[str], old: Collection[str], now_s: float) -> None:
        """Note that filters change, from ``old`` to ``new``."""
        if any(do_overlap(one, other) for one in {*new} - {*old} for other in old):
            self._until_s = now_s + CHANGE_S
            self.is_due = True

    def look(self, now_s: float) -> None:
        """Note the time."""
        if self.is_due and now_s > self._until_s:
            self.is_due = False
            self._last = None

    def is_second(self, delivery: Delivery) -> bool:
        """Whether ``delivery`` is the copy of the one right before it."""
        last, self._last = self._last, delivery
        is_copy = (
            last is not None
            and delivery.topic == last.topic
            and delivery.payload == last.payload
            and delivery.connection == last.connection
            and delivery.arrival_ns - last.arrival_ns < _APART_NS
        )
        if is_copy:
            self._last = None
        return is_copy


def _levels(topic_filter: str) -> list[str]:
    levels = topic_filter.split("/")
    return levels[2:] if levels[0] == "$share" else levels
