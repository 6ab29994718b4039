"""Where readings to learn from come from: a recording, or a CSV file."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from atoll_contract.errors import ConfigError, MalformedMessageError
from atoll_contract.messages import Label, Reading, Value
from atoll_ingest.dialect import AtollDialect, Dialect
from atoll_link import recording
from atoll_link.csv_columns import Columns, RowReader
from atoll_link.csv_file import CsvFile
from atoll_link.recording import Kind, Row
from atoll_trainer.dataset import Observed, Readings, Refusals, UnsuitableDataError, collect
from atoll_trainer.labels import Arrived, LabelJoin
from atoll_trainer.task import TaskFile, TaskKind


def from_csv(path: Path, columns: Columns, task: TaskFile, separator: str = ",") -> Readings:
    """Return the readings in a CSV file with a header, ``.csv`` or ``.csv.gz``.

    Args:
        path: The file.
        columns: Which columns mean what; a value without one has the column of its name.
        task: Says which values and whether a label is needed.
        separator: What stands between two cells.

    Raises:
        ConfigError: The file cannot be read, or lacks a column.
        StorageError: It cannot be read to its end.
        UnsuitableDataError: No row can be used.
    """
    _require_fit(columns, task)
    file = CsvFile(path, separator)
    header = file.header()
    if columns.device_column is None and columns.device in header:
        raise ConfigError(
            f"--device {columns.device}: {path} has a column of that name; "
            f"give --device-column {columns.device}, or another name for the device of all rows"
        )
    values = {name: columns.values.get(name, name) for name in task.task.values}
    reader = RowReader(replace(columns, values=values), header, path)
    refusals = Refusals()

    def observed() -> Iterator[Observed]:
        for line in file.lines():
            try:
                row = reader.read(line.number, line.cells)
            except MalformedMessageError as error:
                refusals.add(line.number, error)
                continue
            yield Observed(line.number, row.device, row.time_ms, dict(row.values), row.label)

    try:
        with path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    return collect(observed(), task, str(path), digest, refusals)


def from_recording(folder: Path, task: TaskFile, dialect: Dialect | None = None) -> tuple[Readings, int]:
    """Return the task's readings in a recording, labelled, and how many labels found no reading.

    Args:
        folder: Of the recording.
        task: Says which stream and model.
        dialect: Of the stream; by default our own.

    Raises:
        StorageError: A part of it is damaged.
        UnsuitableDataError: No reading can be used.
    """
    if task.task.stream not in (known := recording.names(folder, Kind.READING)):
        there = f"there are {', '.join(known)}" if known else "there are none at all"
        raise UnsuitableDataError(f"{folder}: no readings of stream {task.task.stream!r}; {there}")
    dialect = dialect or AtollDialect()
    # Labels are joined to all readings, also to those that are refused later: the label of a reading
    # that lacks a value must not go to its neighbour.
    devices, times, arrivals = [], [], []
    for row, _, reading in _messages(folder, task, dialect, Refusals()):
        devices.append(row.device)
        times.append(row.arrival_ms if reading.time_ms is None else reading.time_ms)
        arrivals.append(row.arrival_ms)
    labels, lost = np.full(len(times), np.nan), 0
    if task.task.kind is TaskKind.REGRESSION:
        join = LabelJoin(devices, np.array(times), np.array(arrivals), task.task.label_tolerance_ms)
        labels, lost = join.join(_labels(folder, task))
    digest = hashlib.sha256(labels.tobytes())
    refusals = Refusals()

    def observed() -> Iterator[Observed]:
        # Not strict: a recorder may have added readings in the meantime.
        joined = zip(_messages(folder, task, dialect, refusals), times, labels.tolist(), strict=False)
        for (row, number, reading), time_ms, label in joined:
            digest.update(f"{row.device} {time_ms} ".encode() + row.payload)
            values: dict[str, Value] = reading.values if isinstance(reading.values, dict) else {}
            truth = None if math.isnan(label) else label
            yield Observed(number, row.device, time_ms, values, truth, reading.step_ms)

    readings = collect(observed(), task, str(folder), "", refusals)
    return replace(readings, sha256=digest.hexdigest()), lost


def _messages(
    folder: Path, task: TaskFile, dialect: Dialect, refusals: Refusals
) -> Iterator[tuple[Row, int, Reading]]:
    """Yield each reading with its message and the message's number."""
    rows = recording.without_redeliveries(recording.read(folder, Kind.READING, task.task.stream))
    for number, row in enumerate(rows, start=1):
        try:
            readings = dialect.decode(row.payload)
        except MalformedMessageError as error:
            refusals.add(number, error)
            continue
        for reading in readings:
            yield row, number, reading


def _labels(folder: Path, task: TaskFile) -> Iterator[Arrived]:
    for row in recording.without_redeliveries(recording.read(folder, Kind.LABEL, task.task.model)):
        label = Label.decode(row.payload)
        if label.stream in {None, task.task.stream}:
            yield Arrived(row.device, row.arrival_ms, label)


def _require_fit(columns: Columns, task: TaskFile) -> None:
    """Refuse columns that do not fit the task, whatever the file holds."""
    faults = [
        f"--value {name}: the task has no such value; it has {', '.join(task.task.values)}"
        for name in columns.values
        if name not in task.task.values
    ]
    faults += [
        f"task.values.{spec.name}: an array cannot come from a CSV file" for spec in task.specs if spec.shape
    ]
    if task.task.kind is TaskKind.REGRESSION and columns.label is None:
        faults.append("--label: a regression needs the column of its label")
    if faults:
        raise ConfigError(faults)
