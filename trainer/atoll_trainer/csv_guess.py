"""What a CSV file is likely to mean: its separator, decimal sign, times and numbers.

A guess is made only where the cells leave no second meaning; everything that was guessed is told.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice, pairwise
from pathlib import Path
from typing import Final

from atoll_contract.errors import ConfigError, MalformedMessageError
from atoll_ingest.time import EARLIEST_MS, TimeUnit, to_time_ms
from atoll_link.csv_columns import to_number
from atoll_link.csv_file import CsvFile

_SEPARATORS: Final = (",", ";", "\t", "|")
_ROWS: Final = 20_000
_ENOUGH: Final = 0.95
"""Share of the cells that must be what a column is taken for; the rest is told row by row."""
_MISSING: Final = {"", "nan", "na", "n/a", "null", "none", "-", "?"}
_COMMA: Final = re.compile(r"[+-]?\d+,\d+")
_POINT: Final = re.compile(r"[+-]?\d*\.\d+")
_UNITS: Final = frozenset(TimeUnit)
_DAYS: Final = (
    "%d/%m/%Y",
    "%m/%d/%Y",
    "%d.%m.%Y",
    "%d-%m-%Y",
    "%m-%d-%Y",
    "%Y/%m/%d",
    "%Y.%m.%d",
    "%Y-%m-%d",
)
_TIMES: Final = ("%H:%M:%S", "%H:%M", "%H.%M.%S", "%I:%M:%S %p", "%I:%M %p", "%H:%M:%S.%f")


@dataclass(frozen=True, slots=True)
class Form:
    """How a file is written.

    Attributes:
        separator: What stands between two cells.
        decimal: The decimal sign.
        time: Columns of the time; none where there is no time.
        time_format: As in :class:`atoll_link.csv_columns.Columns`.
        numbers: Columns of numbers that are no time, in their order.
        texts: Columns of anything else.
    """

    separator: str
    decimal: str
    time: tuple[str, ...]
    time_format: str
    numbers: tuple[str, ...]
    texts: tuple[str, ...]


def guess_separator(path: Path) -> str:
    """Return what stands between the cells of ``path``: what cuts most rows alike.

    Raises:
        ConfigError: The file cannot be read or is empty.
    """

    def fitness(separator: str) -> tuple[float, int]:
        file = CsvFile(path, separator)
        width = len(file.header())
        rows = [line.cells for line in islice(file.lines(), 200)]
        alike = sum(cells is not None and len(cells) == width for cells in rows)
        return (alike / max(1, len(rows)) if width > 1 else 0.0, width)

    return max(_SEPARATORS, key=fitness)


def guess(
    path: Path,
    separator: str | None = None,
    decimal: str | None = None,
    time: Sequence[str] = (),
    time_format: str | None = None,
) -> Form:
    """Return how ``path`` is written; what is given is not guessed.

    Raises:
        ConfigError: The file cannot be read, or its times have two meanings.
    """
    separator = separator or guess_separator(path)
    file = CsvFile(path, separator)
    header = file.header()
    rows = [
        line.cells for line in islice(file.lines(), _ROWS) if line.cells and len(line.cells) >= len(header)
    ]
    columns = {
        name: [cells[at] for cells in rows if cells[at].lower() not in _MISSING]
        for at, name in enumerate(header)
        if name and header.count(name) == 1
    }
    decimal = decimal or _decimal(columns, separator)
    numbers = {
        name for name, cells in columns.items() if _share(cells, lambda cell: to_number("", cell, decimal))
    }
    if not time:
        time, found = _time(path, columns, numbers, time_format)
        time_format = time_format or found
    elif time_format is None:
        joined = (
            [" ".join(cells[header.index(name)] for name in time) for cells in rows]
            if set(time) <= set(header)
            else []
        )
        time_format = _format(path, " ".join(time), joined) or TimeUnit.ISO8601
    return Form(
        separator,
        decimal,
        tuple(time),
        time_format or TimeUnit.ISO8601,
        tuple(name for name in columns if name in numbers and name not in time),
        tuple(name for name, cells in columns.items() if name not in numbers and name not in time and cells),
    )


def _decimal(columns: dict[str, list[str]], separator: str) -> str:
    if separator == ",":
        return "."
    cells = [cell for column in columns.values() for cell in column]
    commas, points = (sum(form.fullmatch(cell) is not None for cell in cells) for form in (_COMMA, _POINT))
    return "," if commas > points else "."


def _time(
    path: Path, columns: dict[str, list[str]], numbers: set[str], time_format: str | None
) -> tuple[tuple[str, ...], str]:
    """Return the columns of the time and their format; the first columns that hold one."""
    for name, cells in columns.items():
        if (found := _format_of(path, name, cells, name in numbers, time_format)) and _has_clock(
            found, cells
        ):
            return (name,), found
    # Date and time in two columns, one behind the other.
    for (first, days), (second, times) in pairwise(columns.items()):
        if first in numbers or len(days) != len(times):
            continue
        joined = [f"{day} {moment}" for day, moment in zip(days, times, strict=True)]
        found = _format_of(path, f"{first} {second}", joined, False, time_format)
        if found and _has_clock(found, joined):
            return (first, second), found
    for name, cells in columns.items():
        if found := _format_of(path, name, cells, name in numbers, time_format):
            return (name,), found
    return (), TimeUnit.ISO8601


def _format_of(path: Path, name: str, cells: list[str], is_number: bool, given: str | None) -> str | None:  # noqa: FBT001
    """Return the format of the times that ``cells`` are, None when they are none."""
    if given is not None:
        return given if given not in _UNITS and _share(cells, lambda cell: _read(cell, given)) else None
    if is_number:
        is_time = re.search("time|date|stamp", name, re.IGNORECASE) is not None and _is_epoch(cells)
        return TimeUnit.AUTO if is_time else None
    return _format(path, name, cells)


def _has_clock(found: str, cells: list[str]) -> bool:
    """Whether a time is more than a day."""
    return (
        "%H" in found or "%I" in found or (found == TimeUnit.ISO8601 and any(":" in cell for cell in cells))
    )


def _is_epoch(cells: list[str]) -> bool:
    """Whether they are times since 1970, in a unit that their size tells."""

    def read(cell: str) -> None:
        if to_time_ms(float(cell), TimeUnit.AUTO) < EARLIEST_MS:
            raise ValueError(cell)

    return _share(cells, read)


def _format(path: Path, name: str, cells: list[str]) -> str | None:
    """Return the format that all but a few of ``cells`` have, None where none fits."""
    if not cells or not any(character.isdigit() for character in cells[0]):
        return None
    if _share(cells, lambda cell: to_time_ms(cell, TimeUnit.ISO8601)):
        return TimeUnit.ISO8601
    fitting = [found for found in _formats() if _share(cells, lambda cell, found=found: _read(cell, found))]  # type: ignore[misc]
    if len(fitting) > 1:
        raise ConfigError(
            f"{path}: column {name!r}: {cells[0]!r} may be {' or '.join(map(repr, fitting))}: "
            "say which with --time-format"
        )
    return fitting[0] if fitting else None


def _formats() -> Iterator[str]:
    for day in _DAYS:
        yield day
        for time in _TIMES:
            yield f"{day} {time}"


def _read(cell: str, form: str) -> datetime:
    return datetime.strptime(cell, form)  # noqa: DTZ007 - only whether it can be read


def _share(cells: list[str], read: Callable[[str], object]) -> bool:
    """Whether enough of ``cells`` can be read; the first few decide whether it is worth a try."""
    if not cells:
        return False
    if len(cells) > 20 and not _share(cells[:20], read):  # noqa: PLR2004 - the first few
        return False
    good = 0
    for cell in cells:
        try:
            read(cell)
        except (MalformedMessageError, ValueError, OverflowError):
            continue
        good += 1
    return good >= _ENOUGH * len(cells)
