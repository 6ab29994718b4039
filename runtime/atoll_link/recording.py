"""The one recording format: MQTT messages as Parquet, by day and stream.

``PLACE/{kind}/{name}/{YYYY-MM-DD}/part-{first arrival ms}-{journal}.parquet``; ``name`` is the stream
of a reading, else the model; days are UTC days of arrival. One row is one message, its payload as it
came. Rows reach the disk in a journal (one fsync for all streams, so that a recorder can acknowledge
20 messages at a time without 20 files) and are folded into parts by rows, bytes or seconds. The names
of the parts follow from the journal alone: folding it twice, after a crash, makes the same files. A
damaged journal gives what is whole in it and is kept as ``journal-{number}.damaged``. Parts may lie in
a bucket, journals never do; while the bucket cannot be reached they wait.
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
from pathlib import Path
from types import TracebackType
from typing import IO, Final, Self

import pyarrow as pa
import structlog

from atoll_contract.errors import StorageError
from atoll_contract.ids import require_id
from atoll_link import journal as frames
from atoll_link.files import make_folder, storage_error, sync_folder
from atoll_link.place import Bucket, Folder, Place
from atoll_link.recording_bounds import Bounds, part_order, trim
from atoll_link.recording_parts import (
    SCHEMA,
    Kind,
    Row,
    batch_of,
    import_rows,
    part_rows,
    part_size,
    parts_of,
    put_part,
    rows_by_part,
    rows_of,
)

__all__ = [
    "Kind",
    "Recording",
    "Row",
    "import_rows",
    "names",
    "newest_since",
    "read",
    "read_part",
    "without_redeliveries",
]

_JOURNAL: Final = re.compile(r"journal-(\d+)\.rows")
_MAX_BUFFERED_ROWS: Final = 10_000
_MAX_BUFFERED_BYTES: Final = 8 * 1024 * 1024
_REMEMBERED: Final = 65_536
"""Longest stretch between a message and its redelivery: MQTT has no more packet ids in flight."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


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
        folder: Where the journal is, and the parts unless ``bucket`` says otherwise; made when it is not
            there.
        max_rows: Rows after which the journal is folded into parts.
        max_bytes: Size after which it is.
        max_age_s: Age after which it is.
        bucket: Where the parts go instead.
        bounds: How much is kept.
        written: Rows that are on disk, since this object was made.
        trimmed: Parts that were deleted to keep the bounds.
    """

    folder: Path
    max_rows: int = 50_000
    max_bytes: int = 16 * 1024 * 1024
    max_age_s: float = 900.0
    bucket: Bucket | None = None
    bounds: Bounds = field(default_factory=Bounds)
    written: int = field(default=0, init=False)
    trimmed: int = field(default=0, init=False)
    _rows: list[Row] = field(default_factory=list, init=False)
    _buffered_bytes: int = field(default=0, init=False)
    _journal: _Journal | None = field(default=None, init=False)
    _waiting: list[tuple[int, Path]] = field(default_factory=list, init=False)
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
            self._waiting = _journals(self.folder)
            self._last_number = max((number for number, _ in self._waiting), default=0)
            self._fold_waiting()
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
                batch = batch_of(self._rows).serialize().to_pybytes()
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
        self._waiting.append((journal.number, journal.path))
        self._fold_waiting()

    def _fold_waiting(self) -> None:
        while self._waiting:
            number, path = self._waiting[0]
            try:
                _fold(self._place, number, path)
            except StorageError as error:
                if self.bucket is None:
                    raise
                self._wait_for_bucket(error)
                return
            self._waiting.pop(0)
        self._trim()

    def _wait_for_bucket(self, error: StorageError) -> None:
        """Leave what cannot be stored now in its journals, unless they have become too many."""
        size_bytes = sum(path.stat().st_size for _, path in self._waiting)
        _log.warning(
            "recording.waiting", journals=len(self._waiting), bytes=size_bytes, detail=error.detail[:300]
        )
        if size_bytes > self.bounds.max_waiting_bytes:
            raise error

    def _trim(self) -> None:
        """Delete the oldest parts that a recorder has made, as far as the bounds ask for it."""
        found = trim(self._place, self.bounds, time.time() * 1e3)
        if found.parts:
            self.trimmed += found.parts
            _log.warning(
                "recording.trimmed", parts=found.parts, bytes=found.size_bytes, last_day=found.last_day
            )

    @property
    def _place(self) -> Folder | Bucket:
        return Folder(self.folder) if self.bucket is None else self.bucket

    def _unlock(self) -> None:
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def names(source: Path | Place, kind: Kind) -> list[str]:
    """Return the streams or models that ``source`` holds messages of ``kind`` from, sorted.

    Raises:
        StorageError: A folder or a journal cannot be read.
    """
    place, journals = _opened(source)
    found: set[str] = set()
    for number, path in journals:
        found |= {row.name for row in _journal_rows(number, path)[0] if row.kind is kind}
    return sorted(found | set(place.folders(kind)))


def read(source: Path | Place, kind: Kind, name: str, since_ms: float | None = None) -> Iterator[Row]:
    """Yield the rows of one stream or model in order of arrival, also while they are written.

    Files that are no parts are passed over, and with ``since_ms`` parts that hold only earlier arrivals.
    Of a bucket what a recorder still has in its journal is seen only where the bucket says its folder.

    Raises:
        StorageError: A part is damaged, not a recording, or cannot be read; the message names it.
    """
    # First the journals, then the parts: one that is folded in between is found as a part.
    place, journals = _opened(source)
    unfolded: dict[str, list[Row]] = {}
    for number, path in journals:
        rows, _ = _journal_rows(number, path)
        chosen = (row for row in rows if row.kind is kind and row.name == name)
        unfolded |= rows_by_part(number, chosen)
    parts = set(parts_of(place, kind, name))
    in_order = sorted(parts | unfolded.keys(), key=part_order)
    if since_ms is not None:
        # A part ends before the next one begins.
        starts = [part_order(part)[0] for part in in_order]
        in_order = in_order[max(0, bisect_right(starts, since_ms) - 1) :]
    for part in in_order:
        if part in parts:
            yield from part_rows(place, part)
        else:
            yield from unfolded[part]


def newest_since(
    source: Path | Place, kind: Kind, name: str, most_rows: int, most_bytes: int
) -> float | None:
    """Return from which arrival on the parts of one stream or model hold at most so many rows and bytes.

    None: all of them do. The newest part counts whatever its size, and what is in a journal does not count.

    Raises:
        StorageError: A part is damaged, not a recording, or cannot be read.
    """
    place, _ = _opened(source)
    in_order = sorted(parts_of(place, kind, name), key=part_order)
    rows = size_bytes = 0
    for at in range(len(in_order) - 1, -1, -1):
        own_rows, own_bytes = part_size(place, in_order[at])
        rows, size_bytes = rows + own_rows, size_bytes + own_bytes
        if (rows > most_rows or size_bytes > most_bytes) and at < len(in_order) - 1:
            return float(part_order(in_order[at + 1])[0])
    return None


def read_part(path: Path) -> Iterator[Row]:
    """Yield the rows of one part, in order of arrival.

    Raises:
        StorageError: It is damaged, no part of a recording, or cannot be read.
    """
    return part_rows(Folder(path.parent), path.name)


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


def _opened(source: Path | Place) -> tuple[Place, list[tuple[int, Path]]]:
    """Return where the parts are, and the journals beside them."""
    match source:
        case Path():
            return Folder(source), _journals(source)
        case Folder(path) | Bucket(journals=Path() as path):
            return source, _journals(path)
        case _:
            return source, []


def _journals(folder: Path) -> list[tuple[int, Path]]:
    found = (
        (_JOURNAL.fullmatch(name), folder / name)
        for name in [*Folder(folder).files(""), *Folder(folder).folders("")]
    )
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
            rows += rows_of(pa.ipc.read_record_batch(pa.py_buffer(body), SCHEMA))
        except (pa.ArrowException, ValueError) as error:
            found.damage = found.damage or f"a batch that is none of a recording: {error}"
    return rows, found.damage


def _fold(place: Place, number: int, journal: Path) -> None:
    """Write the parts of ``journal`` and delete it; a damaged one is kept under another name."""
    rows, damage = _journal_rows(number, journal)
    for part, group in rows_by_part(number, rows).items():
        put_part(place, part, group)
    kept = journal.with_suffix(".damaged")
    try:
        if damage is None:
            journal.unlink(missing_ok=True)
        else:
            journal.rename(kept)
        sync_folder(journal.parent)
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
