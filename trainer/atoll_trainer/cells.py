"""Cells of a CSV row that the task makes of others: a share, the number of a word, the class of a label."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from atoll_contract.errors import ConfigError, MalformedMessageError
from atoll_link.csv_columns import Columns, MissingCells, find_columns, to_number
from atoll_trainer.task import LABEL, TaskFile
from atoll_trainer.task_tables import CsvValue

_MADE: Final = "\0"
"""Before the names of columns that are made: no header holds it."""
Make = Callable[[Sequence[str]], str]


class Cells:
    """Adds to the cells of each row those that the task makes of them.

    Attributes:
        columns: Which columns mean what, the made ones among them.
        header: The names of all columns.

    Raises:
        ConfigError: A column is not in the header, or stands there twice.
    """

    def __init__(self, task: TaskFile, columns: Columns, header: Sequence[str], path: Path) -> None:
        self._decimal = columns.decimal
        self._missing = MissingCells(columns.missing, columns.decimal)
        self._makes: list[Make] = []
        self._width = len(header)
        values = {name: columns.values.get(name, name) for name in task.task.values}
        names = list(header)
        for name, spec in task.csv.values.items():
            if isinstance(spec, CsvValue) and (spec.per or spec.words) and name not in columns.values:
                values[name] = _MADE + name
                names.append(values[name])
                self._makes.append(self._value(name, spec, header, path))
        label = columns.label
        parts = task.csv.label if isinstance(task.csv.label, list) else []
        if task.task.labels and (label is not None or parts):
            wanted = parts if label in {None, _MADE} else [str(label)]
            places = [find_columns([part], header, path)[part] for part in wanted]
            if len(places) > 1 and len(places) != len(task.task.labels):
                raise ConfigError(f"csv.label: {len(places)} columns for {len(task.task.labels)} task.labels")
            label = _MADE + LABEL
            names.append(label)
            self._makes.append(self._class(task.task.labels, places))
        self.header = names
        made = frozenset(names[len(header) :])
        self.columns = replace(columns, values=values, label=label, made=made)

    def of(self, cells: Sequence[str] | None) -> Sequence[str] | None:
        """Return the cells of a row with the made ones behind them.

        Raises:
            MalformedMessageError: One cannot be made.
        """
        if not self._makes or not cells or len(cells) < self._width:
            return cells
        return [*cells[: self._width], *(make(cells) for make in self._makes)]

    def _value(self, name: str, spec: CsvValue, header: Sequence[str], path: Path) -> Make:
        wanted = [spec.column] if spec.per is None else [spec.column, spec.per]
        places = list(find_columns(wanted, header, path).values())

        def word(cells: Sequence[str]) -> str:
            cell = cells[places[0]]
            if cell in self._missing:
                return ""
            if cell not in spec.words:
                raise MalformedMessageError(f"{name} is none of {', '.join(spec.words)}: {cell[:40]!r}")
            return str(spec.words.index(cell))

        def share(cells: Sequence[str]) -> str:
            if any(cells[place] in self._missing for place in places):
                return ""
            whole = to_number(str(spec.per), cells[places[1]], self._decimal)
            if whole == 0:
                raise MalformedMessageError(f"{name}: {spec.per} is 0")
            number = to_number(name, cells[places[0]], self._decimal) / whole
            return repr(number).replace(".", self._decimal)

        return word if spec.words else share

    def _class(self, labels: list[str], places: list[int]) -> Make:
        def of_one(cells: Sequence[str]) -> str:
            cell = cells[places[0]]
            if cell in self._missing:
                return ""
            if cell in labels:
                return str(labels.index(cell))
            try:
                number = to_number(LABEL, cell, self._decimal)
            except MalformedMessageError:
                number = -1
            if number not in range(len(labels)):
                raise MalformedMessageError(f"label is none of {', '.join(labels)[:200]}: {cell[:40]!r}")
            return str(int(number))

        def of_several(cells: Sequence[str]) -> str:
            marked = [
                place
                for place, column in enumerate(places)
                if to_number(LABEL, cells[column], self._decimal) == 1
            ]
            if len(marked) != 1:
                raise MalformedMessageError(f"label: {len(marked)} of the {len(places)} columns are 1")
            return str(marked[0])

        return of_one if len(places) == 1 else of_several
