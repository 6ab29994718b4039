"""Sets keys of plain tables in the text of a TOML file; comments and everything else stay as they are."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from typing import Any

from atoll_contract.errors import ConfigError

Key = tuple[str, str]
"""A table and a key in it."""


def with_values(text: str, values: Mapping[Key, str]) -> str:
    r"""Return ``text`` with texts as ``values``.

    >>> print(with_values('[agent]\nid = "x"  # who', {("agent", "id"): "pi-7", ("agent", "site"): "a"}))
    [agent]
    site = "a"
    id = "pi-7"  # who

    Raises:
        ConfigError: It is no TOML, or written in a way that cannot be changed line by line.
    """
    try:
        wanted = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"not TOML: {error}") from error
    lines = text.splitlines()
    for (table, key), value in values.items():
        wanted.setdefault(table, {})[key] = value
        _set(lines, table, key, json.dumps(value, ensure_ascii=False))
    changed = "\n".join(lines) + ("\n" if text.endswith("\n") else "")
    if not _says(changed, wanted):
        keys = ", ".join(f"{key} in [{table}]" for table, key in values)
        raise ConfigError(f"the settings cannot be changed: put {keys} on lines of their own")
    return changed


def _set(lines: list[str], table: str, key: str, value: str) -> None:
    header = re.compile(rf"\s*\[\s*{table}\s*\]\s*(#.*)?")
    begin = next((number for number, line in enumerate(lines) if header.fullmatch(line)), None)
    if begin is None:
        lines += ["", f"[{table}]", f"{key} = {value}"]
        return
    assignment = re.compile(rf"(\s*{key}\s*=\s*)(\"[^\"]*\"|'[^']*'|[^\s#]+)(.*)")
    for number in range(begin + 1, len(lines)):
        if lines[number].lstrip().startswith("["):
            break
        if found := assignment.fullmatch(lines[number]):
            lines[number] = f"{found[1]}{value}{found[3]}"
            return
    lines.insert(begin + 1, f"{key} = {value}")


def _says(text: str, wanted: dict[str, Any]) -> bool:
    try:
        return tomllib.loads(text) == wanted
    except tomllib.TOMLDecodeError:
        return False
