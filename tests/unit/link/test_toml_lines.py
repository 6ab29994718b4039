"""Where a key stands in a settings file."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll_link.toml_lines import Place, TomlLines

CONFIG = Path(__file__).parents[3] / "config"

TEXT = """\
# [not.a.table]
top = 1
"quoted # key" . inner = '''
x = 1
[nor.this]'''

[broker]   # a comment with [brackets] = {
host = "a = [b] # {c}"
dotted.deep = { one = 1, two = { three = 3 } }
escaped = "\\"]"

  [[ stream ]]
  topics = [ # first
    "a", "b",

    [ "c",
      "d" ],
  ] # end
  when = 1979-05-27 07:32:00
  values.x.unit = \"\"\"m \\
  = 3\"\"\"
  [stream.time]
  pointer = ""

[[stream]]
[[stream.inner]]
k = 1
[[stream.inner]]
k = 2
[other."dotted.key"]
k = 3
"""

PLACES: list[tuple[Place, int]] = [
    (("top",), 2),
    (("quoted # key", "inner"), 3),
    (("broker",), 7),
    (("broker", "host"), 8),
    (("broker", "dotted", "deep", "two", "three"), 9),
    (("broker", "escaped"), 10),
    (("stream",), 12),
    (("stream", 0), 12),
    (("stream", 0, "topics"), 13),
    (("stream", 0, "topics", 0), 14),
    (("stream", 0, "topics", 1), 14),
    (("stream", 0, "topics", 2), 16),
    (("stream", 0, "topics", 2, 1), 17),
    (("stream", 0, "when"), 19),
    (("stream", 0, "values", "x", "unit"), 20),
    (("stream", 0, "time"), 22),
    (("stream", 0, "time", "pointer"), 23),
    (("stream", 1), 25),
    (("stream", 1, "inner", 0, "k"), 27),
    (("stream", 1, "inner", 1), 28),
    (("stream", 1, "inner", 1, "k"), 29),
    (("other", "dotted.key", "k"), 31),
]


@pytest.mark.parametrize(("place", "line"), PLACES)
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_key_is_on_its_line(place, line, end):
    assert TomlLines(TEXT.replace("\n", end)).of(place) == line


def test_what_is_missing_is_looked_for_in_the_table_that_lacks_it():
    lines = TomlLines(TEXT)

    assert lines.of(("stream", 1, "name")) == 25
    assert lines.of(("broker", "port")) == 7
    assert lines.of(("agent", "id")) is None


def leaves(found: Any, place: Place = ()) -> list[tuple[Place, Any]]:
    match found:
        case dict():
            return [leaf for key, inner in found.items() for leaf in leaves(inner, (*place, key))]
        case list():
            return [leaf for index, inner in enumerate(found) for leaf in leaves(inner, (*place, index))]
        case _:
            return [(place, found)]


@pytest.mark.parametrize("name", sorted(path.name for path in CONFIG.glob("*.toml")))
def test_in_the_shipped_files_every_value_stands_where_its_key_is_said_to_be(name):
    text = (CONFIG / name).read_text()
    lines = TomlLines(text)

    for place, value in leaves(tomllib.loads(text)):
        line = text.split("\n")[lines.of(place) - 1]
        assert str(place[-1] if isinstance(place[-1], str) else value) in line


def written(value: Any) -> str:
    """Return ``value`` as TOML, its numbers on lines of their own as far as TOML allows."""
    match value:
        case list():
            return "[\n" + ",\n".join(map(written, value)) + "\n]"
        case dict():
            return "{" + ", ".join(f"{key} = {written(inner)}" for key, inner in value.items()) + "}"
        case _:
            return str(value)


KEYS = st.sampled_from("abc")
VALUES = st.recursive(st.just(0), lambda inner: st.lists(inner, max_size=3), max_leaves=6)
TABLES = st.dictionaries(KEYS, VALUES, max_size=3)


@given(st.lists(st.tuples(st.sampled_from(["[[t]]", "[[t.u]]", "[[v]]"]), TABLES), max_size=6))
def test_numbers_anywhere_are_found_on_the_lines_that_they_were_written_on(tables):
    text = "[[t]]\n"
    for header, table in tables:
        text += f"{header}\n" + "".join(f"{key} = {written(value)}\n" for key, value in table.items())
    while " 0" in text or "\n0" in text:  # each number says on which line it stands
        at = min(found for found in (text.find(" 0"), text.find("\n0")) if found >= 0) + 1
        text = text[:at] + str(text.count("\n", 0, at) + 1) + text[at + 1 :]

    lines = TomlLines(text)

    for place, value in leaves(tomllib.loads(text)):
        assert lines.of(place) == value
