"""On which line of a TOML file a key stands.

No parser of TOML for Python tells it. This one reads only files that the parser of the standard library
has accepted, and looks for keys and brackets, not at values.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any, Final

Place = tuple[str | int, ...]
"""Keys and indexes from the top of a file: ``("stream", 0, "topics", 2)``."""

_BARE: Final = re.compile(r"\s*([A-Za-z0-9_-]+)\s*")
_TOKEN: Final = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}'
    r"|'''.*?'{3,5}"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|(?P<comment>\#[^\n]*)"
    r"|[\[\]{}=,\n]"
    r"|[^\s\[\]{}=,\#\"']+",
    re.DOTALL,
)


class TomlLines:
    r"""The lines of a text that is TOML.

    >>> lines = TomlLines('[broker]\nport = 1\n\n[[stream]]\ntopics = [\n  "x",\n  "y",\n]\n')
    >>> lines.of(("broker", "port")), lines.of(("stream", 0, "topics", 1)), lines.of(("broker", "host"))
    (2, 7, 1)
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._lines: dict[Place, int] = {}
        self._counts: dict[Place, int] = {}
        """How many tables each array of tables has so far."""
        self._tokens = [found for found in _TOKEN.finditer(text) if found["comment"] is None]
        self._line = 1
        self._counted_to = 0
        self._at = 0
        table: Place = ()
        while self._at < len(self._tokens):
            if self._next == "\n":
                self._at += 1
            elif self._next == "[":
                table = self._header()
            else:
                self._pair(table)

    def of(self, place: Place) -> int | None:
        """Return the line of what stands at ``place``, or else of the innermost table around it.

        None: it could only stand at the top of the file.
        """
        for length in range(len(place), 0, -1):
            if (line := self._lines.get(place[:length])) is not None:
                return line
        return None

    @property
    def _next(self) -> str:
        return self._tokens[self._at][0] if self._at < len(self._tokens) else "\n"

    def _take(self) -> int:
        """Go on to the next token and return the line of this one."""
        start = self._tokens[self._at].start()
        self._line += self._text.count("\n", self._counted_to, start)
        self._counted_to = start
        self._at += 1
        return self._line

    def _header(self) -> Place:
        """Read ``[a.b]`` or ``[[a.b]]`` and return the place of the table that it begins."""
        start, line = self._tokens[self._at].end(), self._take()
        if is_array := self._next == "[":
            start = self._tokens[self._at].end()
            self._at += 1
        keys = self._keys(start, "]")
        self._at += 2 if is_array else 1
        place: Place = ()
        for key in keys[:-1]:
            place = self._inside((*place, key), line)
        place = (*place, keys[-1])
        if is_array:
            self._counts[place] = self._counts.get(place, 0) + 1
        place = self._inside(place, line)
        self._lines[place] = line
        return place

    def _inside(self, place: Place, line: int) -> Place:
        """Return where the keys of the table at ``place`` are: in its newest one, if it is an array."""
        self._lines.setdefault(place, line)
        return (*place, self._counts[place] - 1) if place in self._counts else place

    def _pair(self, table: Place) -> None:
        start = self._tokens[self._at].start()
        line = self._take()
        self._at -= 1
        place = table
        for key in self._keys(start, "="):
            place = (*place, key)
            self._lines.setdefault(place, line)
        self._at += 1
        self._value(place)

    def _keys(self, start: int, end: str) -> Place:
        """Return the dotted key between ``start`` and the token ``end``, which comes next then."""
        while self._next != end:
            self._at += 1
        text = self._text[start : self._tokens[self._at].start()]
        if bare := _BARE.fullmatch(text):
            return (bare[1],)
        found: Any = tomllib.loads(f"{text} = 0")
        keys: Place = ()
        while isinstance(found, dict):
            (key, found) = next(iter(found.items()))
            keys = (*keys, key)
        return keys

    def _value(self, place: Place) -> None:
        match self._next:
            case "{":
                self._pairs(place)
            case "[":
                self._items(place)
            case _:  # a date may be two tokens
                while self._next not in {",", "]", "}", "\n"}:
                    self._at += 1

    def _pairs(self, place: Place) -> None:
        self._at += 1
        while self._next != "}":
            if self._next in {",", "\n"}:
                self._at += 1
            else:
                self._pair(place)
        self._at += 1

    def _items(self, place: Place) -> None:
        self._at += 1
        count = 0
        while self._next != "]":
            if self._next in {",", "\n"}:
                self._at += 1
                continue
            self._lines[*place, count] = self._take()
            self._at -= 1
            self._value((*place, count))
            count += 1
        self._at += 1
