"""Streams: which topics carry them, and how their messages become readings of devices."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from atoll_ingest.dialect import Dialect
from atoll_ingest.reader import Recipe, StreamReader
from atoll_ingest.topic import DEVICE, TopicPattern, subscriptions_for

__all__ = ["DEVICE", "Overload", "Stream", "TopicPattern"]


class Overload(StrEnum):
    """What happens to readings that come faster than they are answered.

    Readings that are left out enter their windows, are counted, and get no prediction.
    """

    BLOCK = "block"
    """None at QoS 1 is left out: the broker keeps what is beyond its limit in flight."""
    NEWEST = "newest"
    """Of those that wait the older ones are left out, of the same device first."""
    SAMPLE = "sample"
    """Those that find no room are left out, so that the rest is spread over time."""


@dataclass(frozen=True, slots=True)
class Stream:
    """Readings of one kind, from any number of devices.

    Attributes:
        name: Id of the stream.
        patterns: Where its messages arrive.
        dialect: How they are read: alone, where the topic names the device, or by a recipe.
        units: The values it carries, with the unit that each is sent in.
        use_retained: Whether a reading with the retain flag counts once, flagged ``replayed``.
        overload: What happens when they come faster than they are answered.
        ignored: Topics that the patterns match and that carry no readings.
    """

    name: str
    patterns: tuple[TopicPattern, ...]
    dialect: Dialect | Recipe
    units: Mapping[str, str | None]
    use_retained: bool = False
    overload: Overload = Overload.BLOCK
    ignored: tuple[TopicPattern, ...] = ()

    @property
    def is_shared(self) -> bool:
        """Whether other agents of a group get a part of the readings."""
        return any(pattern.is_shared for pattern in self.patterns)

    @property
    def subscriptions(self) -> list[str]:
        """What an agent subscribes to; no two of them bring the same message."""
        return subscriptions_for(self.patterns)

    @property
    def plain(self) -> Dialect | None:
        """The dialect, if a message is read by its payload alone and whatever arrives is a reading."""
        if isinstance(self.dialect, Recipe) or self.ignored:
            return None
        wanted = {pattern.subscription for pattern in self.patterns}
        return self.dialect if wanted >= set(self.subscriptions) else None

    def device(self, topic: str) -> str | None:
        """Return the id of the device that ``topic`` belongs to, or None when it is not ours.

        For streams whose topics name the device.

        Raises:
            MalformedMessageError: It is ours, and the device's name cannot be made an id.
        """
        for pattern in self.patterns:
            if (device := pattern.device(topic)) is not None:
                return device
        return None

    def matches(self, topic: str) -> bool:
        """Whether ``topic`` is one of the stream's."""
        return any(pattern.parts(topic) is not None for pattern in self.patterns) and not any(
            pattern.parts(topic) is not None for pattern in self.ignored
        )

    def reader(self, max_devices: int, counts: Counter[str] | None = None) -> StreamReader:
        """Return what reads the stream's messages from now on.

        Args:
            max_devices: How many devices it remembers; the longest silent one goes.
            counts: Where it counts, if not in a counter of its own.
        """
        return StreamReader(
            self.patterns,
            self.dialect,
            tuple(self.units),
            ignored=self.ignored,
            max_devices=max_devices,
            counts=Counter() if counts is None else counts,
        )
