"""From the rows of a CSV file to the messages that devices would have sent."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from atoll_contract.errors import ConfigError, MalformedMessageError, Reason
from atoll_contract.messages import Label, Reading, encode_reading
from atoll_contract.topics import LabelTopic, ReadingTopic
from atoll_link import recording
from atoll_link.csv_columns import Columns, RowReader
from atoll_link.csv_file import CsvFile
from atoll_link.place import Place
from atoll_link.recording import Kind, Row
from atoll_trainer.dataset import Refusals, UnsuitableDataError


@dataclass(frozen=True, slots=True)
class Destination:
    """Whose messages the rows become.

    Attributes:
        site: Level 3 of their topics.
        stream: Id of the stream.
        model: Id of the model that the labels are for; None: there are no labels.
    """

    site: str
    stream: str
    model: str | None = None


@dataclass(slots=True)
class Imported:
    """What came of a file.

    Attributes:
        readings: Messages with values.
        labels: Messages with the truth.
        devices: Whose they are.
        first_ms: Least event time.
        last_ms: Greatest event time.
        refusals: Rows that cannot be read.
        parts: Files that were stored.
        replaced: Files of an earlier import of the same file that are gone.
    """

    readings: int = 0
    labels: int = 0
    devices: set[str] = field(default_factory=set)
    first_ms: float = float("inf")
    last_ms: float = float("-inf")
    refusals: Refusals = field(default_factory=Refusals)
    parts: int = 0
    replaced: int = 0


def import_csv(path: Path, columns: Columns, separator: str, to: Destination, place: Place) -> Imported:
    """Put the rows of ``path`` into the recording at ``place``, as if they had been recorded.

    The time of a row counts as its arrival. A file that is imported again replaces what it brought before.

    Raises:
        ConfigError: The file cannot be read, or lacks a column.
        StorageError: It cannot be read to its end, or the recording cannot be written.
        UnsuitableDataError: No row can be used.
    """
    file = CsvFile(path, separator)
    reader = RowReader(columns, file.header(), path)
    imported = Imported()
    rows = _rows(file, reader, to, imported)
    first = next(rows, None)  # before anything is stored
    if first is None:
        why = next(iter(imported.refusals.first.values()), "there is none below the header")
        raise UnsuitableDataError(f"{path}: no row can be used: {why}")

    def all_rows() -> Iterator[Row]:
        yield first
        yield from rows

    imported.parts, imported.replaced = recording.import_rows(place, _digest(path), all_rows())
    return imported


def _rows(file: CsvFile, reader: RowReader, to: Destination, imported: Imported) -> Iterator[Row]:
    source = file.path.name[:200]
    for line in file.lines():
        try:
            row = reader.read(line.number, line.cells)
        except MalformedMessageError as error:
            imported.refusals.add(line.number, error)
            continue
        if row.time_ms < 0:
            imported.refusals.add(line.number, MalformedMessageError("before 1970", Reason.BAD_TIME))
            continue
        imported.devices.add(row.device)
        imported.first_ms = min(imported.first_ms, row.time_ms)
        imported.last_ms = max(imported.last_ms, row.time_ms)
        imported.readings += 1
        yield Row(
            arrival_ms=row.time_ms,
            time_ms=row.time_ms,
            kind=Kind.READING,
            name=to.stream,
            device=row.device,
            topic=str(ReadingTopic(to.site, row.device, to.stream)),
            payload=encode_reading(Reading({**row.values}, time_ms=row.time_ms)),
            qos=1,
        )
        if to.model is None or row.label is None:
            continue
        imported.labels += 1
        label = Label(value=row.label, time_ms=row.time_ms, stream=to.stream, source=source)
        yield Row(
            arrival_ms=row.time_ms,
            time_ms=row.time_ms,
            kind=Kind.LABEL,
            name=to.model,
            device=row.device,
            topic=str(LabelTopic(to.site, row.device, row.device, to.model)),
            payload=label.encode(),
            qos=1,
        )


def _digest(path: Path) -> str:
    try:
        with path.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
