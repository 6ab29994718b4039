"""From the cells of a CSV row to the reading it stands for, and the options that say how."""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from atoll_contract.errors import ConfigError, MalformedMessageError, Reason
from atoll_contract.ids import escape
from atoll_ingest.time import TimeUnit, to_time_ms

_ALWAYS_MISSING: Final = frozenset({"", "nan"})
_UNITS: Final = frozenset(TimeUnit)
_FIRST_LINE: Final = 2
"""Below the header."""


@dataclass(frozen=True, slots=True)
class Row:
    """What a row says.

    Attributes:
        line: Its line in the file.
        device: Id of the device.
        time_ms: Event time.
        values: The values that are not missing, by name; at least one.
        label: The truth, if the row has one.
    """

    line: int
    device: str
    time_ms: float
    values: dict[str, float]
    label: float | None


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns mean what.

    Attributes:
        time: Columns of the time; several are joined by a space. None at all: the rows are ``step_ms``
            apart.
        values: Column of each value, by the value's name.
        device: Id of the device that all rows belong to, unless ``device_column`` is given.
        device_column: Column with the name of the device; made an id where it is none.
        label: Column of the label.
        time_format: ``iso8601``, ``s``, ``ms``, ``us``, ``ns``, or a format of ``strptime``; a time
            without a zone is UTC.
        decimal: The decimal sign.
        missing: What stands for a missing number, beside nothing and nan; ``-200`` also for ``-200.0``.
        made: Columns of cells that were made of others: only nothing and nan are missing there.
        step_ms: Between two rows of a file without times.
    """

    time: Sequence[str]
    values: Mapping[str, str]
    device: str = ""
    device_column: str | None = None
    label: str | None = None
    time_format: str = TimeUnit.ISO8601
    decimal: str = "."
    missing: frozenset[str] = frozenset()
    made: frozenset[str] = frozenset()
    step_ms: float = 1000.0


def add_form_arguments(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup, otherwise: str | None = None
) -> None:
    """Add the options that say how the cells of a file are written.

    Args:
        parser: Gets them.
        otherwise: What holds where an option is not given, in words; it is None then.
    """
    default = otherwise or "%(default)s"
    parser.add_argument(
        "--time-format",
        default=None if otherwise else "iso8601",
        metavar="FORMAT",
        help="iso8601, s, ms, us, ns, or like '%%d/%%m/%%Y %%H:%%M'; without a zone it is UTC "
        f"(default: {default})",
    )
    for name, sign, what in (("separator", ",", "between two cells"), ("decimal", ".", "the decimal sign")):
        parser.add_argument(
            f"--{name}",
            type=_sign,
            default=None if otherwise else sign,
            metavar="SIGN",
            help=f"{what} (default: {default})",
        )
    parser.add_argument(
        "--missing",
        action="append",
        default=[],
        metavar="TEXT",
        help="what stands for a missing number, beside nothing and nan (-200 also for -200.0); "
        "may be given several times",
    )


def name_and_column(text: str) -> tuple[str, str]:
    """Return what an option of the form ``NAME=COLUMN`` says."""
    name, _, column = text.partition("=")
    if not name or not column:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=COLUMN")
    return name, column


def find_columns(wanted: Sequence[str], header: Sequence[str], file: object = "") -> dict[str, int]:
    """Return the place of each of the ``wanted`` columns in ``header``; faults name the ``file``.

    Raises:
        ConfigError: A column is not in the header, or stands there twice.
    """
    times = Counter(header)
    shown = ", ".join(map(repr, header))[:400]
    faults = []
    for name in dict.fromkeys(wanted):
        if times[name] != 1:
            standing = f"stands {times[name]} times" if times[name] else "is not"
            faults.append(f"{file}: column {name!r} {standing} in the header: {shown}".removeprefix(": "))
    if faults:
        raise ConfigError(faults)
    return {name: header.index(name) for name in wanted}


def to_number(name: str, cell: str, decimal: str = ".") -> float:
    """Return the number in ``cell``.

    >>> to_number("force", "1,5", decimal=",")
    1.5

    Raises:
        MalformedMessageError: It is none, or not finite.
    """
    # A point that is no decimal sign parts thousands: not a number that this reads.
    written = cell if decimal == "." else cell.replace(".", "_").replace(decimal, ".")
    try:
        # Python reads 1_000, CSV files do not mean it.
        number = float("" if "_" in written else written)
    except ValueError as error:
        raise MalformedMessageError(f"{name} is not a number: {cell[:40]!r}") from error
    if not math.isfinite(number):
        raise MalformedMessageError(f"{name} is not finite: {cell[:40]!r}", Reason.NOT_FINITE)
    return number


class MissingCells:
    """Knows what stands for a missing number: nothing, nan, and ``texts``.

    One that is a number stands for that number however it is written: exports mix ``-200`` and ``-200.0``.

    >>> "-200.0" in MissingCells(["-200"])
    True
    """

    def __init__(self, texts: Iterable[str], decimal: str = ".") -> None:
        self._texts = _ALWAYS_MISSING | {text.lower() for text in texts}
        self._decimal = decimal
        self._numbers = {number for text in self._texts if (number := self._number(text)) is not None}

    def __contains__(self, cell: object) -> bool:
        cell = str(cell)
        return cell.lower() in self._texts or (bool(self._numbers) and self._number(cell) in self._numbers)

    def _number(self, text: str) -> float | None:
        try:
            return to_number("", text, self._decimal)
        except MalformedMessageError:
            return None


class RowReader:
    """Reads the rows of a file with this ``header``; faults of the header name the ``file``.

    Raises:
        ConfigError: A column is not in the header, or stands there twice.
    """

    def __init__(self, columns: Columns, header: Sequence[str], file: object = "") -> None:
        wanted = [*columns.time, *columns.values.values()]
        wanted += [name for name in (columns.device_column, columns.label) if name is not None]
        place = find_columns(wanted, header, file)
        self._columns = columns
        self._time = [place[name] for name in columns.time]
        self._missing = MissingCells(columns.missing, columns.decimal)
        self._values = [
            (name, place[column], self._missing_in(column)) for name, column in columns.values.items()
        ]
        self._device = None if columns.device_column is None else place[columns.device_column]
        self._label = (
            None if columns.label is None else (place[columns.label], self._missing_in(columns.label))
        )
        self._width = 1 + max(place.values())

    def read(self, line: int, cells: Sequence[str] | None) -> Row:
        """Return what the row in ``line`` says.

        Raises:
            MalformedMessageError: It cannot be read; the reason code says why.
        """
        if cells is None:
            raise MalformedMessageError("not CSV")
        if not any(cells):
            raise MalformedMessageError("all cells are empty", Reason.MISSING_VALUE)
        if len(cells) < self._width:
            message = f"{len(cells)} cells, at least {self._width} are needed"
            raise MalformedMessageError(message, Reason.WRONG_SHAPE)
        device = self._columns.device if self._device is None else escape(cells[self._device])
        if self._time:
            time_ms = self._read_time(" ".join(cells[index] for index in self._time))
        else:
            time_ms = (line - _FIRST_LINE) * self._columns.step_ms
        values = {}
        for name, index, missing in self._values:
            if (value := self._read_number(name, cells[index], missing)) is not None:
                values[name] = value
        if not values:
            raise MalformedMessageError("all values are missing", Reason.MISSING_VALUE)
        label = None
        if self._label is not None:
            index, missing = self._label
            label = self._read_number("label", cells[index], missing)
        return Row(line, device, time_ms, values, label)

    def _read_time(self, text: str) -> float:
        written = self._columns.time_format
        if written == TimeUnit.ISO8601:
            return to_time_ms(text, TimeUnit.ISO8601)
        try:
            if written in _UNITS:
                return to_time_ms(float(text), TimeUnit(written))
            moment = datetime.strptime(text, written)  # noqa: DTZ007 - the zone follows
            return to_time_ms(
                (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1e3,
                TimeUnit.MILLISECONDS,
            )
        except (ValueError, OverflowError) as error:
            raise MalformedMessageError(f"time {text[:40]!r} is not {written}", Reason.BAD_TIME) from error

    def _missing_in(self, column: str) -> Container[str]:
        return _ALWAYS_MISSING if column in self._columns.made else self._missing

    def _read_number(self, name: str, cell: str, missing: Container[str]) -> float | None:
        if cell in missing:
            return None
        return to_number(name, cell, self._columns.decimal)


def _sign(text: str) -> str:
    sign = {"tab": "\t", "\\t": "\t"}.get(text, text)
    if len(sign) != 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not one character")
    return sign
