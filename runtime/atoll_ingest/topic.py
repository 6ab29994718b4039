"""Topic patterns: filters with named parts, and what to subscribe to so that no message comes twice."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from atoll_contract.ids import escape, require_id
from atoll_contract.topics import PREFIX

DEVICE: Final = "{device}"
_SHARED: Final = re.compile(r"\A\$share/[^/+#{}]+/(?=.)")
_PART: Final = re.compile(r"\{([a-z][a-z0-9_]{0,31})(\.\.\.)?\}")


@dataclass(frozen=True, slots=True)
class TopicPattern:
    """A topic filter with named parts: ``plant-a/{device}/telemetry``.

    ``{name}`` is one level, ``{name...}`` one or more (at most once in a pattern), ``+`` any one level
    that nobody asks for; ``#`` is not allowed, since ``{rest...}`` says the same and has a name. Behind
    ``$share/GROUP/`` the broker gives each message to one of those that subscribe for the group.

    >>> TopicPattern("plant-a/{device}/telemetry").device("plant-a/pump-7/telemetry")
    'pump-7'
    >>> TopicPattern("zigbee2mqtt/{device...}").device("zigbee2mqtt/office/climate_1")
    'office--2fclimate_1'
    >>> TopicPattern("{line}/{device}/state").parts("hall-3/press/state")
    {'line': 'hall-3', 'device': 'press'}
    >>> TopicPattern("$share/press-hall/plant-a/{device}/telemetry").filter
    'plant-a/+/telemetry'

    Attributes:
        text: As it is written.
        needs_device: Whether one part must be ``{device}``.
        names: The names of its parts.

    Raises:
        ValueError: No ``{device}``, a name that stands twice, an MQTT wildcard in a wrong place, or no group.
    """

    text: str
    needs_device: bool = True
    names: tuple[str, ...] = field(init=False, compare=False)
    _regex: re.Pattern[str] = field(init=False, repr=False, compare=False)
    _is_own: bool = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Compile the pattern."""
        if self.is_shared and _SHARED.match(self.text) is None:
            raise ValueError(f"topic {self.text!r}: what is shared is written $share/GROUP/TOPIC")
        names, parts, longer = [], [], 0
        for level in self._topic.split("/"):
            named = named_part(level)
            if named is not None:
                names.append(named.name)
                longer += named.is_longer
                parts.append(f"(?P<{named.name}>{'.+' if named.is_longer else '[^/]+'})")
            elif level == "+":
                parts.append("[^/]*")
            elif any(sign in level for sign in "+#{}"):
                raise ValueError(f"topic {self.text!r}: level {level!r} holds one of + # {{ }}")
            else:
                parts.append(re.escape(level))
        if self.needs_device and "device" not in names:
            raise ValueError(f"topic {self.text!r} needs exactly one level that is {DEVICE}")
        if not self._topic or len(set(names)) < len(names) or longer > 1:
            raise ValueError(f"topic {self.text!r} needs each name once, and at most one with '...'")
        object.__setattr__(self, "names", tuple(names))
        object.__setattr__(self, "_regex", re.compile("/".join(parts), re.DOTALL))
        object.__setattr__(self, "_is_own", self._topic.startswith(f"{PREFIX}/"))

    @property
    def filter(self) -> str:
        """The MQTT filter of the topics that match; wider than the pattern if ``{name...}`` is not last."""
        return _filter_of(self._topic)

    @property
    def subscription(self) -> str:
        """What an agent subscribes to: the filter, as one of its group if it is shared."""
        return self.group + self.filter

    @property
    def group(self) -> str:
        """``$share/GROUP/`` as it is written, or nothing."""
        return self.text[: len(self.text) - len(self._topic)]

    @property
    def is_shared(self) -> bool:
        """Whether the broker gives each message to one subscriber of a group."""
        return self.text.split("/")[0] == "$share"

    def parts(self, topic: str) -> dict[str, str] | None:
        """Return what the named parts are in ``topic``, or None when it does not match."""
        found = self._regex.fullmatch(topic)
        return None if found is None else found.groupdict()

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


class NamedPart(NamedTuple):
    """A level of a pattern that has a name; ``is_longer``: it is one or more levels of a topic."""

    name: str
    is_longer: bool


def named_part(level: str) -> NamedPart | None:
    """Return the named part that ``level`` of a pattern is, or None when it is none."""
    named = _PART.fullmatch(level)
    return None if named is None else NamedPart(named[1], named[2] is not None)


def subscriptions_for(patterns: Iterable[TopicPattern]) -> list[str]:
    """Return what to subscribe to for ``patterns``; no two of one group can bring the same message."""
    by_group: dict[str, list[str]] = {}
    for pattern in patterns:
        by_group.setdefault(pattern.group, []).append(pattern.filter)
    return [group + found for group, filters in by_group.items() for found in without_overlaps(filters)]


def without_overlaps(filters: Iterable[str]) -> list[str]:
    """Return filters that bring all that ``filters`` bring, and no message twice.

    A broker may send a message once for each filter of a client that it matches (MQTT 3.3.5), and
    nothing in the message tells. So a filter that another one covers is left out, and two of which
    neither covers the other become one that is wider than both; what only that brings is ignored.

    >>> without_overlaps(["a/+/x", "a/b/x", "c/d"])
    ['a/+/x', 'c/d']
    >>> without_overlaps(["a/+", "+/b"])
    ['+/+']
    """
    found: list[str] = []
    for topic_filter in filters:
        wider = topic_filter
        while (other := next((known for known in found if _overlap(known, wider)), None)) is not None:
            found.remove(other)
            wider = _widened(other, wider)
        found.append(wider)
    return found


def _filter_of(topic: str) -> str:
    levels: list[str] = []
    for level in topic.split("/"):
        named = named_part(level)
        if named is not None and named.is_longer:
            return "/".join([*levels, "#"])
        levels.append("+" if named else level)
    return "/".join(levels)


def _overlap(one: str, other: str) -> bool:
    """Whether there can be a topic that matches both."""
    first, second = one.split("/"), other.split("/")
    for left, right in zip(first, second, strict=False):
        if "#" in {left, right}:
            return True
        if left != right and "+" not in {left, right}:
            return False
    # "a/#" matches "a" as well.
    longer = max(first, second, key=len)
    return len(first) == len(second) or longer[min(len(first), len(second))] == "#"


def _widened(one: str, other: str) -> str:
    """Return the narrowest filter, level by level, that covers both."""
    first, second = one.split("/"), other.split("/")
    levels: list[str] = []
    for left, right in zip(first, second, strict=False):
        if "#" in {left, right}:
            return "/".join([*levels, "#"])
        levels.append(left if left == right else "+")
    return "/".join(levels if len(first) == len(second) else [*levels, "#"])
