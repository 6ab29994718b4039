"""CSV files as they come: plain or gzip, any separator, damaged lines and all."""

from __future__ import annotations

import csv
import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO, cast

from atoll_contract.errors import ConfigError, StorageError


@dataclass(frozen=True, slots=True)
class Line:
    """One row as it stands in the file.

    Attributes:
        number: Line of the file; the header is 1.
        cells: Its cells, stripped; None when it is no CSV at all.
    """

    number: int
    cells: list[str] | None


@dataclass(frozen=True, slots=True)
class CsvFile:
    """A CSV file with a header in its first line.

    Attributes:
        path: Where it is; a name that ends in ``.gz`` is decompressed.
        separator: What stands between two cells.
    """

    path: Path
    separator: str = ","

    def header(self) -> list[str]:
        """Return the names of the columns.

        Raises:
            ConfigError: The file cannot be read or is empty.
        """
        with self._open() as file:
            for line in _lines(file, self.separator):
                if line.cells:
                    return line.cells
        raise ConfigError(f"{self.path}: no header in the first line")

    def lines(self, first: int | None = None, limit: int | None = None) -> Iterator[Line]:
        """Yield the rows below the header from line ``first`` on, at most ``limit`` of them.

        Empty lines are left out.

        Raises:
            ConfigError: The file cannot be opened.
            StorageError: It cannot be read to its end.
        """
        with self._open() as file:
            lines = _lines(file, self.separator)
            next(lines, None)
            for line in lines:
                if first is not None and line.number < first:
                    continue
                if limit is not None:
                    if limit == 0:
                        return
                    limit -= 1
                yield line

    @contextmanager
    def _open(self) -> Iterator[TextIO]:
        # Undecodable bytes are replaced: they spoil the cells they stand in, not the file.
        open_text = gzip.open if self.path.suffix == ".gz" else open
        try:
            file = cast(
                TextIO, open_text(self.path, "rt", encoding="utf-8-sig", errors="replace", newline="")
            )
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be read: {error.strerror}") from error
        with file:
            try:
                yield file
            except (OSError, EOFError, zlib.error) as error:
                raise StorageError(f"{self.path}: cannot be read to its end: {error}") from error


def _lines(file: TextIO, separator: str) -> Iterator[Line]:
    reader = csv.reader(file, delimiter=separator)
    while True:
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error:
            yield Line(reader.line_num, None)
            continue
        if cells:
            yield Line(reader.line_num, [cell.strip() for cell in cells])
