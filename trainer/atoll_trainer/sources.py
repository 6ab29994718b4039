"""Where readings to learn from come from: a recording, or a CSV file."""

from __future__ import annotations

import csv
import gzip
import hashlib
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import numpy as np

from atoll_contract.errors import ConfigError, MalformedMessageError, Reason
from atoll_contract.ids import escape
from atoll_contract.messages import Label, Reading, Value
from atoll_ingest.dialect import AtollDialect, Dialect
from atoll_ingest.time import TimeUnit, to_time_ms
from atoll_link import recording
from atoll_link.recording import Kind, Row
from atoll_trainer.dataset import Observed, Readings, Refusals, UnsuitableDataError, collect
from atoll_trainer.labels import Arrived, LabelJoin
from atoll_trainer.task import TaskFile, TaskKind

_STEP_MS = 1000.0
"""Between the rows of a file without times, when the task does not say."""


@dataclass(frozen=True, slots=True)
class CsvColumns:
    """Which columns of a CSV file mean what.

    Attributes:
        values: Column of each value, by the value's name; by default the column of that name.
        time: Column of the event time; None: the rows are ``step_ms`` apart.
        time_unit: How it is written.
        label: Column of the label.
        device: Column of the device's name, or the one device's name when there is no such column.
    """

    values: dict[str, str]
    time: str | None = None
    time_unit: TimeUnit = TimeUnit.ISO8601
    label: str | None = None
    device: str | None = None


def from_csv(path: Path, columns: CsvColumns, task: TaskFile) -> Readings:
    """Return the readings in a CSV file with a header, ``.csv`` or ``.csv.gz``.

    Raises:
        ConfigError: The file cannot be read, or lacks a column.
        UnsuitableDataError: No row can be used.
    """
    refusals = Refusals()
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        with _open_text(path) as text:
            rows = csv.reader(text)
            header = next(rows, None)
            if header is None:
                raise UnsuitableDataError(f"{path}: no row")
            places = _Places.find(path, header, columns, task)
            observed = _csv_rows(rows, lambda: rows.line_num, places, columns, task, refusals)
            return collect(observed, task, str(path), digest, refusals)
    except (OSError, EOFError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise ConfigError(f"{path}: not a CSV file in UTF-8: {error}") from error


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
            yield Observed(number, row.device, time_ms, values, None if math.isnan(label) else label)

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


def _open_text(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig", newline="")
    return path.open(encoding="utf-8-sig", newline="")


@dataclass(frozen=True, slots=True)
class _Places:
    """Where in a row of the file what stands."""

    values: dict[str, int]
    time: int | None
    label: int | None
    device: int | None

    @classmethod
    def find(cls, path: Path, header: list[str], columns: CsvColumns, task: TaskFile) -> _Places:
        known = {name.strip(): place for place, name in enumerate(header)}
        faults = []

        def place(option: str, column: str) -> int:
            if column not in known:
                faults.append(f"{path}: {option}: no column {column!r}; there are {', '.join(known)}")
            return known.get(column, 0)

        if unknown := sorted(columns.values.keys() - task.task.values.keys()):
            faults.append(
                f"--value {unknown[0]}: the task has no such value; it has {', '.join(task.task.values)}"
            )
        faults += [
            f"task.values.{spec.name}: an array cannot come from a CSV file"
            for spec in task.specs
            if spec.shape
        ]
        values = {name: place(f"--value {name}", columns.values.get(name, name)) for name in task.task.values}
        time = None if columns.time is None else place("--time", columns.time)
        label = None if columns.label is None else place("--label", columns.label)
        if task.task.kind is TaskKind.REGRESSION and label is None:
            faults.append("--label: a regression needs the column of its label")
        if faults:
            raise ConfigError(faults)
        return cls(values, time, label, known.get(columns.device or ""))


def _csv_rows(
    rows: Iterator[list[str]],
    lines: Callable[[], int],
    places: _Places,
    columns: CsvColumns,
    task: TaskFile,
    refusals: Refusals,
) -> Iterator[Observed]:
    only_device = escape(columns.device or "csv")
    step_ms = task.task.step_ms or _STEP_MS
    for count, row in enumerate(rows):
        number = lines()
        if not any(row):
            continue
        try:
            time_ms = (
                count * step_ms if places.time is None else _time(_cell(row, places.time), columns.time_unit)
            )
            device = only_device if places.device is None else escape(_cell(row, places.device))
            values: dict[str, Value] = {
                name: _number(name, _cell(row, at)) for name, at in places.values.items()
            }
            label = math.nan if places.label is None else _number("label", _cell(row, places.label))
        except MalformedMessageError as error:
            refusals.add(number, error)
            continue
        is_labelled = label is not None and math.isfinite(label)
        yield Observed(number, device, time_ms, values, label if is_labelled else None)


def _cell(row: list[str], place: int) -> str:
    return row[place].strip() if place < len(row) else ""


def _number(name: str, cell: str) -> float | None:
    if not cell:
        return None
    try:
        return float(cell)
    except ValueError as error:
        raise MalformedMessageError(f"{name}: {cell[:40]!r} is not a number") from error


def _time(cell: str, unit: TimeUnit) -> float:
    if unit is TimeUnit.ISO8601:
        return to_time_ms(cell, unit)
    try:
        return to_time_ms(float(cell), unit)
    except ValueError as error:
        raise MalformedMessageError(f"time {cell[:40]!r} is not a number", Reason.BAD_TIME) from error
