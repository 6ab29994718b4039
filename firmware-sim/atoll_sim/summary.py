"""What a command did, on stdout: lines of a name and a number, or one JSON object."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

Number = int | float
Summary = Mapping[str, Number | Mapping[str, int]]


def text(summary: Summary, sentences: Sequence[str] = ()) -> str:
    """Return ``summary`` for people: a mapping shows as its sum, then part by part; then ``sentences``.

    >>> print(text({"rows": 3, "skipped": {"bad_time": 2}}))
    rows 3
    skipped 2
    skipped.bad_time 2
    """
    lines = []
    for name, number in summary.items():
        if isinstance(number, Mapping):
            lines.append(f"{name} {sum(number.values())}")
            lines += [f"{name}.{part} {count}" for part, count in number.items()]
        else:
            lines.append(f"{name} {number}")
    return "\n".join([*lines, *sentences])


def print_text(summary: Summary, sentences: Sequence[str] = ()) -> None:
    """Print ``summary`` and ``sentences`` for people."""
    print(text(summary, sentences))  # noqa: T201 - the result


def print_json(summary: Summary, **more: object) -> None:
    """Print ``summary`` and ``more`` as one JSON object."""
    print(json.dumps({**summary, **more}))  # noqa: T201 - the result
