"""Streams: which topics carry them, which device a topic belongs to, how payloads are read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from atoll_contract.ids import escape, require_id
from atoll_contract.topics import PREFIX
from atoll_ingest.dialect import Dialect

DEVICE: Final = "{device}"


@dataclass(frozen=True, slots=True)
class TopicPattern:
    """A topic filter with one level named ``{device}``: ``plant-a/{device}/telemetry``.

    ``+`` stands for any other level; ``#`` is not allowed, since it would hide which device spoke.
    Behind ``$share/GROUP/`` the broker gives each message to one of those that subscribe for the group.

    >>> TopicPattern("plant-a/{device}/telemetry").device("plant-a/pump-7/telemetry")
    'pump-7'
    >>> TopicPattern("$share/press-hall/plant-a/{device}/telemetry").filter
    'plant-a/+/telemetry'

    Raises:
        ValueError: No or more than one ``{device}``, an MQTT wildcard in a wrong place, or no group.
    """

    text: str
    _regex: re.Pattern[str] = field(init=False, repr=False, compare=False)
    _is_own: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Compile the pattern."""
        if self.is_shared and _SHARED.match(self.text) is None:
            raise ValueError(f"topic {self.text!r}: what is shared is written $share/GROUP/TOPIC")
        levels = self._topic.split("/")
        if levels.count(DEVICE) != 1:
            raise ValueError(f"topic {self.text!r} needs exactly one level that is {DEVICE}")
        for level in levels:
            if level not in {DEVICE, "+"} and any(sign in level for sign in "+#{}"):
                raise ValueError(f"topic {self.text!r}: level {level!r} holds one of + # {{ }}")
        parts = [_LEVEL.get(level, re.escape(level)) for level in levels]
        object.__setattr__(self, "_regex", re.compile("/".join(parts)))
        object.__setattr__(self, "_is_own", self._topic.startswith(f"{PREFIX}/"))

    @property
    def filter(self) -> str:
        """The MQTT filter of the topics that match."""
        return self._topic.replace(DEVICE, "+")

    @property
    def subscription(self) -> str:
        """What an agent subscribes to: the filter, as one of its group if it is shared."""
        return self.text.replace(DEVICE, "+")

    @property
    def is_shared(self) -> bool:
        """Whether the broker gives each message to one subscriber of a group."""
        return self.text.split("/")[0] == "$share"

    def device(self, topic: str) -> str | None:
        """Return the id of the device that ``topic`` belongs to, or None when it does not match.

        On atoll's own topics the level is an id already; on any other it becomes one by its escape.

        Raises:
            MalformedMessageError: The device's name is no id, or cannot be made one.
        """
        found = self._regex.fullmatch(topic)
        if found is None:
            return None
        return require_id(found["device"], "device") if self._is_own else escape(found["device"])

    @property
    def _topic(self) -> str:
        return _SHARED.sub("", self.text)


_LEVEL: Final = {DEVICE: "(?P<device>[^/]+)", "+": "[^/]*"}
_SHARED: Final = re.compile(r"\A\$share/[^/+#{}]+/(?=.)")


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
        dialect: How they are read.
        units: The values it carries, with the unit that each is sent in.
        use_retained: Whether a reading with the retain flag counts once, flagged ``replayed``.
        overload: What happens when they come faster than they are answered.
    """

    name: str
    patterns: tuple[TopicPattern, ...]
    dialect: Dialect
    units: Mapping[str, str | None]
    use_retained: bool = False
    overload: Overload = Overload.BLOCK

    @property
    def is_shared(self) -> bool:
        """Whether other agents of a group get a part of the readings."""
        return any(pattern.is_shared for pattern in self.patterns)

    def device(self, topic: str) -> str | None:
        """Return the id of the device that ``topic`` belongs to, or None when it is not ours.

        Raises:
            MalformedMessageError: It is ours, and the device's name cannot be made an id.
        """
        for pattern in self.patterns:
            if (device := pattern.device(topic)) is not None:
                return device
        return None
