"""Topics and payloads with places for facts: ``${device}``. Nothing in them is evaluated.

A payload is text, or what JSON can say (a table or list in the settings, or text that begins like
JSON). In JSON a place that is a whole string becomes the fact itself, a number or a string; inside of
a longer string it becomes its text. So no fact, whatever its characters, can change what the JSON means.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

Fact = float | str | None

FACTS: Final = frozenset(
    {
        "device",
        "device_name",
        "rule",
        "model",
        "state",
        "value",
        "label",
        "release",
        "time_ms",
        "site",
        "agent",
    }
)
"""What may stand in a place. ``device`` is the id, ``device_name`` the name that it was made from."""

_PLACE: Final = re.compile(r"\$\{([^}]*)\}?")
_MAX_TEXT: Final = 65_535


@dataclass(frozen=True, slots=True)
class Template:
    """Text or JSON with places.

    Attributes:
        content: Text, or what JSON can say.
        is_json: Which of the two.

    >>> Template.of("fan/${device}/set").text({"device": "lamp"})
    'fan/lamp/set'
    >>> Template.of({"level": "${value}", "why": "${rule}!"}).text({"value": 0.5, "rule": "hot"})
    '{"level":0.5,"why":"hot!"}'
    """

    content: Any
    is_json: bool

    @classmethod
    def of(cls, content: object) -> Template:
        """Return the template that stands in the settings.

        Raises:
            ValueError: It names an unknown fact, or begins like JSON and is none.
        """
        is_json = not isinstance(content, str)
        if isinstance(content, str) and content.lstrip()[:1] in {"{", "[", '"'}:
            try:
                content = json.loads(content)
            except ValueError as error:
                raise ValueError(f"begins like JSON and is none: {error}; write a table instead") from error
            is_json = True
        _require_known(content)
        if is_json:
            json.dumps(content, allow_nan=False)
        return cls(content, is_json)

    def text(self, facts: Mapping[str, Fact]) -> str:
        """Return the text with ``facts`` in their places; one that is None becomes null, or nothing."""
        if self.is_json:
            return json.dumps(_filled(self.content, facts), ensure_ascii=False, separators=(",", ":"))
        return _interpolated(self.content, facts)


def topic_fault(topic: str) -> str | None:
    """Return why nobody can publish on ``topic``."""
    if not topic:
        return "it is empty"
    if any(sign in topic for sign in "+#\0"):
        return "it holds one of + # and the null character"
    if topic.startswith("$"):
        return "it begins with $: such topics belong to the broker"
    if len(topic.encode(errors="replace")) > _MAX_TEXT:
        return "it is too long"
    return None


def _require_known(content: object) -> None:
    match content:
        case str():
            for place in _PLACE.finditer(content):
                if place[1] not in FACTS or not place[0].endswith("}"):
                    known = ", ".join(sorted(FACTS))
                    raise ValueError(f"unknown place {place[0]!r}: there are {known}")
        case dict():
            for key, value in content.items():
                if "${" in key:
                    raise ValueError(f"key {key!r}: only values have places")
                _require_known(value)
        case list():
            for value in content:
                _require_known(value)
        case bool() | int() | float() | None:
            pass
        case _:
            raise ValueError(f"{content!r}: JSON has no such value; write it as text")


def _filled(content: Any, facts: Mapping[str, Fact]) -> Any:
    match content:
        case str():
            whole = _PLACE.fullmatch(content)
            return _interpolated(content, facts) if whole is None else facts[whole[1]]
        case dict():
            return {key: _filled(value, facts) for key, value in content.items()}
        case list():
            return [_filled(value, facts) for value in content]
        case _:
            return content


def _interpolated(text: str, facts: Mapping[str, Fact]) -> str:
    def spelt(place: re.Match[str]) -> str:
        fact = facts[place[1]]
        if fact is None:
            return ""
        return fact if isinstance(fact, str) else json.dumps(fact)

    return _PLACE.sub(spelt, text)
