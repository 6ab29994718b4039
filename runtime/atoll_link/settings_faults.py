"""What is wrong with a settings file, in words: file, line, key, and nothing that may be secret."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel, ValidationError

from atoll_link.toml_lines import Place, TomlLines

_MESSAGES: Final = {
    "extra_forbidden": "unknown key",
    "unexpected_keyword_argument": "unknown key",
    "missing": "missing",
}
_ABOUT: Final = re.compile(r"([a-z_]+(?:\.[a-z_]+)*): (.+)")
_LOGIN: Final = re.compile(r"//[^/]*@")
"""User name and password in a URL."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong at one place of a file.

    Attributes:
        place: Where.
        message: What.
    """

    place: Place
    message: str


def faults_of(error: ValidationError, document: Mapping[str, Any]) -> list[Fault]:
    """Return what validation found wrong with ``document``.

    A validator of a whole table begins its message with the key that it is about: ``"window.length: ..."``.
    """
    faults = []
    for fault in error.errors(include_url=False):
        place, message = _place(document, fault["loc"]), _message(fault)
        if isinstance(fault["input"], BaseModel | dict) and (about := _ABOUT.fullmatch(message)):
            place, message = (*place, *about[1].split(".")), about[2]
        faults.append(Fault(place, message))
    return faults


def twice(document: Mapping[str, Any], kind: str, elsewhere: Iterable[str] = ()) -> list[Fault]:
    """Return a fault for each table of the array ``kind`` whose name another one before it has."""
    seen = set(elsewhere)
    faults = []
    for number, name in enumerate(texts(document.get(kind), "name")):
        if name and name in seen:
            faults.append(Fault((kind, number, "name"), f"{name!r} stands twice"))
        seen.add(name)
    return faults


def texts(tables: object, key: str) -> list[str]:
    """Return ``key`` of each table, empty where it is missing or no text."""
    if not isinstance(tables, list):
        return []
    found = [table.get(key) if isinstance(table, dict) else None for table in tables]
    return [text if isinstance(text, str) else "" for text in found]


def told(
    faults: Iterable[Fault], path: Path, text: str, overridden: Mapping[tuple[str, ...], str]
) -> list[str]:
    """Return ``faults`` of the file ``path``, which holds ``text``, in words and in its order.

    ``overridden`` are the keys whose value is that of a variable of the environment, with its name.
    """
    lines = TomlLines(text)
    in_words = []
    for fault in faults:
        key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in fault.place)
        names = [name for keys, name in overridden.items() if fault.place[: len(keys)] == keys]
        line = lines.of(fault.place)
        where = str(path) if line is None else f"{path}:{line}"
        where = f"environment: {names[0]}" if names else f"{where}: {key.lstrip('.') or 'file'}"
        in_words.append((line or 0, f"{where}: {fault.message}"))
    return [words for _, words in sorted(in_words, key=itemgetter(0))]


def _place(document: object, loc: Iterable[str | int]) -> Place:
    """Return ``loc`` without the parts that pydantic puts in for a kind of table or for a key itself."""
    place: Place = ()
    parts = [part for part in loc if part != "[key]"]
    for number, part in enumerate(parts):
        match document:
            case dict() if part in document:
                document = document[part]
            case list() if isinstance(part, int) and part < len(document):
                document = document[part]
            case _ if number < len(parts) - 1:
                continue
        place = (*place, part)
    return place


def _message(fault: Any) -> str:
    message = _MESSAGES.get(fault["type"], fault["msg"])
    return f"{message.removeprefix('Value error, ')}{_found(fault)}"


def _found(fault: Any) -> str:
    """Return what was found, as far as it can hold no secret."""
    found = fault["input"]
    if fault["type"] in {"extra_forbidden", "missing", "value_error"}:
        return ""
    if isinstance(found, str):
        return f" (found {_LOGIN.sub('//...@', found)[:60]!r})"
    if isinstance(found, bool | int | float):
        return f" (found {found})"
    return ""
