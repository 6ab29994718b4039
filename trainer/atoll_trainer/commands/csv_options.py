"""Options that say what the columns of a CSV file mean; what is not given is guessed and told."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from atoll_contract.errors import ConfigError, MalformedMessageError
from atoll_contract.ids import require_id
from atoll_link.csv_columns import Columns, name_and_column
from atoll_trainer.csv_guess import Form, guess
from atoll_trainer.task import TaskFile
from atoll_trainer.task_tables import CsvValue

_MOST_CHARS: Final = 64
"""Of a value's name."""
_NO_TIME: Final = "none"
_DEVICE: Final = "csv"
STEP_MS: Final = 1000.0
"""Between the rows of a file without times, when nobody says."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a file means.

    Attributes:
        form: How it is written.
        columns: Which columns mean what.
    """

    form: Form
    columns: Columns

    def lines(self) -> Iterator[tuple[str, str]]:
        """Yield what was understood, for people."""
        separator = {"\t": "tab"}.get(self.form.separator, self.form.separator)
        yield "form", f"separator {separator!r}, decimal sign {self.form.decimal!r}"
        if self.columns.time:
            yield (
                "time",
                f"{' and '.join(self.columns.time)} ({self.columns.time_format}; without a zone it is UTC)",
            )
        else:
            yield "time", f"none: rows are {self.columns.step_ms:g} ms apart, from 1970 on"
        yield "device", self.columns.device_column or f"{self.columns.device} (all rows)"
        yield "values", ", ".join(self.columns.values)
        if self.columns.label is not None:
            yield "label", self.columns.label
        used = {
            *self.columns.values.values(),
            self.columns.label,
            self.columns.device_column,
            *self.columns.time,
        }
        if left := [name for name in (*self.form.numbers, *self.form.texts) if name not in used]:
            yield "not taken", ", ".join(left)


def add_csv_options(parser: argparse.ArgumentParser, *, step: str = f"{STEP_MS:g}") -> None:
    """Add the options that :func:`meaning_of` reads; ``step`` is the default of ``--step-ms``, in words."""
    table = parser.add_argument_group("columns; what is not given is guessed and told")
    device = table.add_mutually_exclusive_group()
    device.add_argument("--device", type=_device, metavar="ID", help="the device of all rows (default: csv)")
    device.add_argument(
        "--device-column", "--group", metavar="COLUMN", help="column with the name of the device, or group"
    )
    table.add_argument(
        "--time",
        action="append",
        default=[],
        metavar="COLUMN",
        help="column of the event time; given twice, the cells are joined by a space; none: there is none",
    )
    table.add_argument(
        "--value",
        action="append",
        default=[],
        type=_value,
        metavar="[NAME=]COLUMN",
        help="a value of the readings; may be repeated (default: every column of numbers)",
    )
    table.add_argument("--label", metavar="COLUMN", help="column of the truth")
    table.add_argument(
        "--time-format",
        metavar="FORMAT",
        help="iso8601, s, ms, us, ns, or like '%%d/%%m/%%Y %%H:%%M'; without a zone it is UTC",
    )
    table.add_argument("--separator", type=_sign, metavar="SIGN", help="between two cells")
    table.add_argument("--decimal", type=_sign, metavar="SIGN", help="the decimal sign")
    table.add_argument(
        "--missing",
        action="append",
        default=[],
        metavar="TEXT",
        help="what stands for a missing number, beside nothing and nan (-200 also for -200.0); "
        "may be given several times",
    )
    table.add_argument(
        "--step-ms",
        type=_positive,
        metavar="MS",
        help=f"between the rows of a file without times (default: {step})",
    )


def meaning_of(path: Path, arguments: argparse.Namespace, step_ms: float = STEP_MS) -> Meaning:
    """Return what ``path`` means, by the options and by its cells; rows are ``step_ms`` apart by default.

    Raises:
        ConfigError: It cannot be read, or is ambiguous; the message says which option decides.
    """
    has_no_time = arguments.time == [_NO_TIME]
    form = guess(
        path,
        arguments.separator,
        arguments.decimal,
        () if has_no_time else arguments.time,
        arguments.time_format,
    )
    time = () if has_no_time else form.time
    taken = {arguments.label, arguments.device_column}
    values = dict(arguments.value)
    if len(values) < len(arguments.value):
        raise ConfigError("--value: a name is given twice")
    if not values:
        values = {name[:_MOST_CHARS]: name for name in form.numbers if name not in taken}
    if not values:
        raise ConfigError(f"{path}: no column of numbers; name the values with --value, or give --decimal")
    columns = Columns(
        time=time,
        values=values,
        device=arguments.device or _DEVICE,
        device_column=arguments.device_column,
        label=arguments.label,
        time_format=form.time_format,
        decimal=form.decimal,
        missing=frozenset(arguments.missing),
        step_ms=arguments.step_ms or step_ms,
    )
    return Meaning(form, columns)


def columns_of(
    task: TaskFile, arguments: argparse.Namespace, step_ms: float | None = None
) -> tuple[Columns, str]:
    """Return what the columns of a file mean by the task's ``[csv]``, and the separator; options come first.

    Rows without a time are ``step_ms`` apart, by default as the task says.

    Raises:
        ConfigError: An option is given twice.
    """
    if len(values := dict(arguments.value)) < len(arguments.value):
        raise ConfigError("--value: a name is given twice")
    table = task.csv
    plain = {name: column for name, column in table.values.items() if isinstance(column, str)}
    plain |= {
        name: spec.column
        for name, spec in table.values.items()
        if isinstance(spec, CsvValue) and not spec.per and not spec.words
    }
    label = arguments.label or (table.label if isinstance(table.label, str) else None)
    is_one_device = arguments.device is not None
    columns = Columns(
        time=[] if arguments.time == [_NO_TIME] else arguments.time or table.time,
        values=plain | values,
        device=arguments.device or table.device,
        device_column=arguments.device_column or (None if is_one_device else table.device_column),
        label=label,
        time_format=arguments.time_format or table.time_format,
        decimal=arguments.decimal or table.decimal,
        missing=frozenset(arguments.missing or table.missing),
        step_ms=step_ms or task.task.step_ms or STEP_MS,
    )
    return columns, arguments.separator or table.separator


def _value(text: str) -> tuple[str, str]:
    return name_and_column(text) if "=" in text else (text, text)


def _device(text: str) -> str:
    try:
        return require_id(text, "name")
    except MalformedMessageError as error:
        raise argparse.ArgumentTypeError(error.detail) from error


def _sign(text: str) -> str:
    sign = {"tab": "\t", "\\t": "\t"}.get(text, text)
    if len(sign) != 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not one character")
    return sign


def _positive(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number
