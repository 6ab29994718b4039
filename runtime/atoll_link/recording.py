"""The one recording format: MQTT messages as Parquet, by day and stream. The only importer of Arrow.

``FOLDER/{kind}/{name}/{YYYY-MM-DD}/part-{first arrival ms}-{journal}.parquet``; ``name`` is the stream
of a reading, else the model; days are UTC days of arrival. One row is one message, its payload as it
came. Rows reach the disk in a journal (one fsync for all streams, so that a recorder can acknowledge
20 messages at a time without 20 files) and are folded into parts by rows, bytes or seconds. The names
of the parts follow from the journal alone: folding it twice, after a crash, makes the same files. A
damaged journal gives what is whole in it and is kept as ``journal-{number}.damaged``.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import time
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

import pyarrow as pa
import pyarrow.parquet as pq
import structlog

from atoll_contract.errors import StorageError
from atoll_contract.ids import require_id
from atoll_link import journal as frames
from atoll_link.files import make_folder, put_whole, storage_error, sync_folder

_PART: Final = re.compile(r"part-(\d+)-(\d+)\.parquet")
_JOURNAL: Final = re.compile(r"journal-(\d+)\.rows")
_MAX_BUFFERED_ROWS: Final = 10_000
_MAX_BUFFERED_BYTES: Final = 8 * 1024 * 1024
_REMEMBERED: Final = 65_536
"""Longest stretch between a message and its redelivery: MQTT has no more packet ids in flight."""

_SCHEMA: Final = pa.schema(
    [
        pa.field("arrival_ms", pa.float64(), nullable=False),
        pa.field("time_ms", pa.float64()),
        pa.field("kind", pa.string(), nullable=False),
        pa.field("name", pa.string(), nullable=False),
        pa.field("device", pa.string(), nullable=False),
        pa.field("topic", pa.string(), nullable=False),
        pa.field("payload", pa.binary(), nullable=False),
        pa.field("qos", pa.int8(), nullable=False),
        pa.field("retained", pa.bool_(), nullable=False),
        pa.field("duplicate", pa.bool_(), nullable=False),
    ],
    metadata={"atoll_recording": "1"},
)
_DICTIONARIES: Final = ["kind", "name", "device", "topic"]

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Kind(StrEnum):
    """What a recorded message is."""

    READING = "reading"
    LABEL = "label"
    PREDICTION = "prediction"


@dataclass(frozen=True, slots=True)
class Row:
    """One MQTT message.

    Attributes:
        arrival_ms: When it came, milliseconds since the epoch.
        time_ms: Its event time, of a batch that of the first reading; None: the arrival counts.
        kind: What it is.
        name: The stream of a reading, else the model.
        device: Whom it speaks of.
        topic: Where it was published.
        payload: Its bytes, as they came.
        qos: Of its delivery.
        is_retained: The broker had kept it.
        is_duplicate: The DUP flag: the broker may have sent it before.
    """

    arrival_ms: float
    time_ms: float | None
    kind: Kind
    name: str
    device: str
    topic: str
    payload: bytes
    qos: int
    is_retained: bool = False
    is_duplicate: bool = False


@dataclass(slots=True)
class _Journal:
    """Batches of rows, each a frame, that grow in number until they are folded into parts."""

    number: int
    path: Path
    file: IO[bytes]
    started_s: float
    rows: int = 0
    size_bytes: int = 0


@dataclass(slots=True)
class Recording:
    """Writes rows below a folder; one writer per folder at a time.

    After :meth:`flush` every row appended so far is on disk and a reader finds it. Use as a context
    manager: entering folds what a killed writer left behind, leaving folds what is there.

    Attributes:
        folder: Where the recording is; made when it is not there.
        max_rows: Rows after which the journal is folded into parts.
        max_bytes: Size after which it is.
        max_age_s: Age after which it is.
        written: Rows that are on disk, since this object was made.
    """

    folder: Path
    max_rows: int = 50_000
    max_bytes: int = 16 * 1024 * 1024
    max_age_s: float = 900.0
    written: int = field(default=0, init=False)
    _rows: list[Row] = field(default_factory=list, init=False)
    _buffered_bytes: int = field(default=0, init=False)
    _journal: _Journal | None = field(default=None, init=False)
    _last_number: int = field(default=0, init=False)
    _lock: int = field(default=-1, init=False)

    def __enter__(self) -> Self:
        """Lock the folder and fold what a killed writer left behind.

        Raises:
            StorageError: The folder cannot be written, or another writer has it.
        """
        make_folder(self.folder)
        try:
            self._lock = os.open(self.folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._unlock()
            raise StorageError(f"{self.folder}: another recorder writes here; stop it first") from error
        except OSError as error:
            raise storage_error(self.folder, error) from error
        try:
            for number, path in _journals(self.folder):
                self._last_number = number
                _fold(self.folder, number, path)
        except BaseException:
            self._unlock()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Fold everything into parts; after an error leave it to the next writer."""
        try:
            if kind is None:
                self.flush(time.monotonic())
                self._fold_journal()
        finally:
            if self._journal is not None:
                self._journal.file.close()
            self._unlock()

    @property
    def pending(self) -> int:
        """How many rows are not on disk yet."""
        return len(self._rows)

    def append(self, row: Row, now_s: float) -> None:
        """Take in ``row``; a full buffer is flushed. ``now_s`` is a monotonic time.

        Raises:
            MalformedMessageError: ``row.name`` is not an id.
            StorageError: As :meth:`flush`.
        """
        require_id(row.name, "name")
        self._rows.append(row)
        self._buffered_bytes += len(row.payload) + len(row.topic)
        if len(self._rows) >= _MAX_BUFFERED_ROWS or self._buffered_bytes >= _MAX_BUFFERED_BYTES:
            self.flush(now_s)

    def flush(self, now_s: float) -> None:
        """Bring every row to disk, and fold the journal when it is large or old enough.

        Raises:
            StorageError: The disk is full or broken: the rows since the last flush are not safe.
        """
        if self._rows:
            journal = self._journal or self._start(now_s)
            try:
                batch = _batch(self._rows).serialize().to_pybytes()
                _write_all(journal.file, frames.frame(journal.number, batch))
                os.fsync(journal.file.fileno())
                journal.size_bytes = journal.file.tell()
            except OSError as error:
                # What follows a torn batch could not be read: a later flush starts a new journal.
                journal.file.close()
                self._journal = None
                raise storage_error(journal.path, error) from error
            journal.rows += len(self._rows)
            self.written += len(self._rows)
            self._rows.clear()
            self._buffered_bytes = 0
        if self._journal is not None and self._is_due(self._journal, now_s):
            self._fold_journal()

    def _is_due(self, journal: _Journal, now_s: float) -> bool:
        return (
            journal.rows >= self.max_rows
            or journal.size_bytes >= self.max_bytes
            or now_s - journal.started_s >= self.max_age_s
        )

    def _start(self, now_s: float) -> _Journal:
        self._last_number = max(self._last_number + 1, int(self._rows[0].arrival_ms))
        path = self.folder / f"journal-{self._last_number}.rows"
        try:
            file = path.open("xb", buffering=0)
            sync_folder(self.folder)
        except OSError as error:
            raise storage_error(path, error) from error
        self._journal = _Journal(self._last_number, path, file, now_s)
        return self._journal

    def _fold_journal(self) -> None:
        if (journal := self._journal) is None:
            return
        journal.file.close()
        self._journal = None
        _fold(self.folder, journal.number, journal.path)

    def _unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def names(folder: Path, kind: Kind) -> list[str]:
    """Return the streams or models that ``folder`` holds messages of ``kind`` from, sorted.

    Raises:
        StorageError: A folder or a journal cannot be read.
    """
    found: set[str] = set()
    for number, path in _journals(folder):
        found |= {row.name for row in _journal_rows(number, path)[0] if row.kind is kind}
    return sorted(found | {entry.name for entry in _listed(folder / kind) if entry.is_dir()})


def read(folder: Path, kind: Kind, name: str, since_ms: float | None = None) -> Iterator[Row]:
    """Yield the rows of one stream or model in order of arrival, also while they are written.

    Files that are no parts are passed over, and with ``since_ms`` parts that hold only earlier arrivals.

    Raises:
        StorageError: A part is damaged, not a recording, or cannot be read; the message names it.
    """
    # First the journals, then the parts: one that is folded in between is found as a part.
    unfolded: dict[Path, list[Row]] = {}
    for number, path in _journals(folder):
        rows, _ = _journal_rows(number, path)
        chosen = (row for row in rows if row.kind is kind and row.name == name)
        unfolded |= _by_part(folder, number, chosen)
    days = [day for day in _listed(folder / kind / name) if day.is_dir()]
    parts = {
        Path(entry.path) for day in days for entry in _listed(Path(day.path)) if _PART.fullmatch(entry.name)
    }
    in_order = sorted(parts | unfolded.keys(), key=_order)
    if since_ms is not None:
        # A part ends before the next one begins.
        starts = [_order(path)[0] for path in in_order]
        in_order = in_order[max(0, bisect_right(starts, since_ms) - 1) :]
    for path in in_order:
        if path in parts:
            yield from _part_rows(path)
        else:
            yield from unfolded[path]


def read_part(path: Path) -> Iterator[Row]:
    """Yield the rows of one part, in order of arrival.

    Raises:
        StorageError: It is damaged, no part of a recording, or cannot be read.
    """
    return _part_rows(path)


def without_redeliveries(rows: Iterable[Row]) -> Iterator[Row]:
    """Yield ``rows`` without those that the broker sent again after a lost connection.

    Redelivered means: the DUP flag is set, and topic and payload equal those of an earlier row.
    """
    seen: OrderedDict[bytes, None] = OrderedDict()
    for row in rows:
        digest = hashlib.blake2b(row.topic.encode() + b"\0" + row.payload, digest_size=16).digest()
        if row.is_duplicate and digest in seen:
            continue
        seen[digest] = None
        if len(seen) > _REMEMBERED:
            seen.popitem(last=False)
        yield row


def _batch(rows: list[Row]) -> Any:
    columns = [
        [row.arrival_ms for row in rows],
        [row.time_ms for row in rows],
        [row.kind.value for row in rows],
        [row.name for row in rows],
        [row.device for row in rows],
        [row.topic for row in rows],
        [row.payload for row in rows],
        [row.qos for row in rows],
        [row.is_retained for row in rows],
        [row.is_duplicate for row in rows],
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)]
    return pa.record_batch(arrays, schema=_SCHEMA)


def _rows(batch: Any) -> Iterator[Row]:
    columns = [batch.column(name).to_pylist() for name in _SCHEMA.names]
    for arrival_ms, time_ms, kind, *rest in zip(*columns, strict=True):
        yield Row(arrival_ms, time_ms, Kind(kind), *rest)


def _part_rows(path: Path) -> Iterator[Row]:
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=8192):
                yield from _rows(batch)
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        text = str(error).partition("\n")[0]
        message = f"{path}: damaged, or no part of a recording ({text}): move it out of the folder"
        raise StorageError(message) from error


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    """Return what is in ``folder``, by name; nothing when it is not there."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entries, key=lambda entry: entry.name)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise storage_error(folder, error) from error


def _journals(folder: Path) -> list[tuple[int, Path]]:
    found = ((_JOURNAL.fullmatch(entry.name), Path(entry.path)) for entry in _listed(folder))
    return sorted((int(match[1]), path) for match, path in found if match)


def _journal_rows(number: int, path: Path) -> tuple[list[Row], str | None]:
    """Return the rows of a journal, and what is damaged in it.

    What stands behind the last whole batch was never acknowledged: its writer was killed, or is at it.
    """
    try:
        content = path.read_bytes()
    except FileNotFoundError:  # it has just been folded
        return [], None
    except OSError as error:
        raise storage_error(path, error) from error
    found = frames.scan(number, content)
    rows: list[Row] = []
    for body in found.bodies:
        try:
            rows += _rows(pa.ipc.read_record_batch(pa.py_buffer(body), _SCHEMA))
        except (pa.ArrowException, ValueError) as error:
            found.damage = found.damage or f"a batch that is none of a recording: {error}"
    return rows, found.damage


def _by_part(folder: Path, number: int, rows: Iterable[Row]) -> dict[Path, list[Row]]:
    """Return the rows of the journal with this number, by the part they belong to."""
    groups: dict[tuple[Kind, str, str], list[Row]] = {}
    for row in rows:
        day = datetime.fromtimestamp(row.arrival_ms / 1e3, UTC).date().isoformat()
        groups.setdefault((row.kind, row.name, day), []).append(row)
    return {
        folder / kind / name / day / f"part-{int(group[0].arrival_ms):013d}-{number}.parquet": group
        for (kind, name, day), group in groups.items()
    }


def _order(path: Path) -> list[int]:
    """First arrival, then journal: both stand in the name of a part."""
    return [int(number) for number in path.stem.split("-")[1:]]


def _fold(folder: Path, number: int, journal: Path) -> None:
    """Write the parts of ``journal`` and delete it; a damaged one is kept under another name."""
    rows, damage = _journal_rows(number, journal)
    for path, group in _by_part(folder, number, rows).items():
        make_folder(path.parent)
        table = pa.Table.from_batches([_batch(group)])
        put_whole(path, partial(pq.write_table, table, compression="zstd", use_dictionary=_DICTIONARIES))
    kept = journal.with_suffix(".damaged")
    try:
        if damage is None:
            journal.unlink(missing_ok=True)
        else:
            journal.rename(kept)
        sync_folder(folder)
    except OSError as error:
        raise storage_error(journal, error) from error
    if damage is not None:
        _log.warning(
            "journal.damaged", file=str(journal), kept=str(kept), rows=len(rows), detail=damage[:300]
        )


def _write_all(file: IO[bytes], content: bytes) -> None:
    """Write ``content`` to an unbuffered ``file``, which may take less at a time."""
    rest = memoryview(content)
    while rest:
        rest = rest[file.write(rest) :]
