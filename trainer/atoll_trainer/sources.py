"""Where readings to learn from come from: a recording, or a CSV file."""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np

from atoll_contract.errors import ConfigError, MalformedMessageError
from atoll_contract.messages import Label, Value
from atoll_ingest.dialect import AtollDialect
from atoll_ingest.join import Overdue
from atoll_ingest.reader import Recipe
from atoll_ingest.stream import Stream
from atoll_link import recording
from atoll_link.csv_columns import Columns, RowReader
from atoll_link.csv_file import CsvFile
from atoll_link.place import Place
from atoll_link.recording import Kind, Row
from atoll_signal.labels import Arrived, LabelJoin
from atoll_trainer.cells import Cells
from atoll_trainer.dataset import Observed, Readings, Refusals, UnsuitableDataError, collect
from atoll_trainer.task import TaskFile

_MAX_SPREAD_MS: Final = 3_600_000.0
"""How much earlier than its time a reading, or a part of it, may arrive."""
_MOST_ROWS: Final = 4_000_000
_MOST_BYTES: Final = 1 << 30
"""Of a recording, unpacked: the newest messages are read, and it is told what was left out."""
_MAX_DEVICES: Final = 65_536
"""Devices that a stream's reader remembers."""


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
    cells = Cells(task, columns, header, path)
    reader = RowReader(cells.columns, cells.header, path)
    refusals = Refusals()

    def observed() -> Iterator[Observed]:
        for line in file.lines():
            try:
                row = reader.read(line.number, cells.of(line.cells))
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


def from_recording(
    folder: Path | Place,
    task: TaskFile,
    stream: Stream | None = None,
    since_ms: float | None = None,
    most_rows: int = _MOST_ROWS,
) -> tuple[Readings, int]:
    """Return the task's readings in a recording, labelled, and how many labels found no reading.

    Args:
        folder: Of the recording.
        task: Says which stream and model.
        stream: How its messages are read; by default as our own dialect.
        since_ms: Only what was measured from then on, by event time.
        most_rows: Of more messages the newest are read: whole parts of the recording.

    Raises:
        StorageError: A part of it is damaged.
        UnsuitableDataError: No reading can be used.
    """
    if task.task.stream not in (known := recording.names(folder, Kind.READING)):
        there = f"there are {', '.join(known)}" if known else "there are none at all"
        raise UnsuitableDataError(f"{folder}: no readings of stream {task.task.stream!r}; {there}")
    arrived_ms = recording.newest_since(folder, Kind.READING, task.task.stream, most_rows, _MOST_BYTES)
    # Labels are joined to all readings, also to those that are refused: the label of a reading that lacks
    # a value must not go to its neighbour. One pass: a recorder may add and delete meanwhile.
    names: dict[str, str] = {}
    devices: list[str] = []
    times, arrivals = array("d"), array("d")
    digest = hashlib.sha256()
    refusals = Refusals()

    def observed() -> Iterator[Observed]:
        for place, one in enumerate(_recorded(folder, task, stream, refusals, (since_ms, arrived_ms))):
            device = names.setdefault(one.device, one.device)
            devices.append(device)
            times.append(one.time_ms)
            arrivals.append(one.arrival_ms)
            digest.update(f"{one.device} {one.time_ms} ".encode() + one.payload)
            # Its place stands for the label, which is not known yet.
            yield Observed(one.number, device, one.time_ms, one.values, float(place), one.step_ms)

    has_labels = task.task.kind.has_labels
    found = list(_labels(folder, task, (since_ms, arrived_ms))) if has_labels else []
    readings = collect(observed(), task, str(folder), "", refusals)
    join = LabelJoin(devices, np.array(times), np.array(arrivals), task.task.label_tolerance_ms)
    if arrived_ms is not None:
        first_ms = min(times)
        found = [one for one in found if _end_ms(one.label) >= first_ms]
    labels, lost = join.join(found)
    digest.update(labels.tobytes())
    own = labels[readings.labels.astype(np.int64)]
    is_cut = arrived_ms is not None and (since_ms is None or arrived_ms > since_ms)
    cut_ms = arrived_ms if is_cut else None
    return replace(readings, labels=own, sha256=digest.hexdigest(), cut_ms=cut_ms), lost


_Since = tuple[float | None, float | None]
"""By event time, and by arrival."""


class _Recorded(NamedTuple):
    """A reading of a recording, and the number of the message that completed it."""

    number: int
    device: str
    time_ms: float
    arrival_ms: float
    values: dict[str, Value]
    payload: bytes
    step_ms: float | None


def _recorded(
    folder: Path | Place, task: TaskFile, stream: Stream | None, refusals: Refusals, since: _Since
) -> Iterator[_Recorded]:
    """Yield the readings, as the agent reads them from the same messages."""
    since_ms, _ = since
    found = recording.read(folder, Kind.READING, task.task.stream, _arrived_since(since))
    rows = recording.without_redeliveries(found)
    read = _reading(stream)
    for number, row in enumerate(rows, start=1):
        try:
            told = list(read(row))
        except MalformedMessageError as error:
            refusals.add(number, error)
            continue
        for device, reading, arrival_ms in told:
            time_ms = arrival_ms if reading.time_ms is None else reading.time_ms
            if since_ms is not None and time_ms < since_ms:
                continue
            values: dict[str, Value] = reading.values if isinstance(reading.values, dict) else {}
            yield _Recorded(number, device, time_ms, arrival_ms, values, row.payload, reading.step_ms)


def _reading(stream: Stream | None) -> Callable[[Row], Iterator[Overdue]]:
    """Return what reads the messages of a recording, one after the other."""
    dialect = AtollDialect() if stream is None else stream.dialect
    if not isinstance(dialect, Recipe):
        # The recorder has found the device; where it is recorded from may have changed since.
        plain = dialect
        return lambda row: (Overdue(row.device, each, row.arrival_ms) for each in plain.decode(row.payload))
    assert stream is not None  # noqa: S101 - it has the recipe
    reader = stream.reader(_MAX_DEVICES)

    def read(row: Row) -> Iterator[Overdue]:
        yield from reader.overdue(row.arrival_ms)
        for device, reading in reader.read(row.topic, row.payload, row.arrival_ms):
            yield Overdue(device, reading, row.arrival_ms)

    return read


def _arrived_since(since: _Since) -> float | None:
    """Return from when on to read what was measured since: values of one reading may come one by one."""
    since_ms, arrived_ms = since
    bounds = [arrived_ms, None if since_ms is None else since_ms - _MAX_SPREAD_MS]
    return max((bound for bound in bounds if bound is not None), default=None)


def _labels(folder: Path | Place, task: TaskFile, since: _Since) -> Iterator[Arrived]:
    since_ms, _ = since
    found = recording.read(folder, Kind.LABEL, task.task.model, _arrived_since(since))
    for row in recording.without_redeliveries(found):
        label = Label.decode(row.payload)
        if since_ms is not None and _end_ms(label) < since_ms:
            continue
        if label.stream in {None, task.task.stream}:
            yield Arrived(row.device, row.arrival_ms, label)


def _end_ms(label: Label) -> float:
    return (label.end_ms if label.time_ms is None else label.time_ms) or 0.0


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
    if task.task.kind.needs_labels and columns.label is None and task.csv.label is None:
        faults.append(f"--label: a {task.task.kind.value} needs the column of its label")
    if faults:
        raise ConfigError(faults)
