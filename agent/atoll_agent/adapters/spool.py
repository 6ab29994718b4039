"""Predictions that wait on disk until the broker takes them: one SQLite file, used by one thread of its own.

A commit is brought to disk before its future is done, so that a place in the spool outlasts a power cut.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, suppress
from pathlib import Path
from typing import Final, TypeVar

import msgspec.json
import msgspec.structs
import structlog

from atoll_agent.ports import SpoolState, Stored
from atoll_contract.errors import Reason, StorageError
from atoll_contract.messages import Prediction, Quality, encode_prediction

log = structlog.get_logger()

Result = TypeVar("Result")

FORMAT: Final = 1
_CLOSE_S: Final = 0.5
_ROW_BYTES: Final = 64
"""Bytes that a row takes besides its topic and payload, about."""
_BROKEN: Final = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_SCHEMA: Final = """
PRAGMA auto_vacuum=INCREMENTAL;
PRAGMA journal_mode=WAL;
PRAGMA synchronous=FULL;
PRAGMA journal_size_limit=1048576;
CREATE TABLE IF NOT EXISTS spool (
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    size INTEGER NOT NULL,
    topic TEXT NOT NULL,
    payload BLOB NOT NULL
);
"""


class DiskSpool:
    """Implements ``ports.Spool``.

    Args:
        path: The file; one process at a time.
        max_bytes: So much may wait; beyond it the oldest go, and are counted as lost.
    """

    def __init__(self, path: Path, max_bytes: int) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._connection: sqlite3.Connection | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="spool")
        self._handed_out = 0
        """The highest number that :meth:`oldest` has returned."""
        self.state = SpoolState()

    def open(self) -> None:
        """Find out what waits from before, and wait for that; a fault stands in ``state``."""
        with suppress(StorageError):
            self._submit(lambda _connection: None).result()

    def keep(self, predictions: Sequence[tuple[str, bytes]]) -> Future[None]:
        """See ``ports.Spool``."""
        return self._submit(lambda connection: self._keep(connection, predictions))

    def oldest(self, most: int) -> Future[Sequence[Stored]]:
        """See ``ports.Spool``."""

        def read(connection: sqlite3.Connection) -> Sequence[Stored]:
            query = "SELECT number, topic, payload FROM spool ORDER BY number LIMIT ?"
            found = [Stored(*row) for row in connection.execute(query, (most,))]
            if found:
                self._handed_out = found[-1].number
            return found

        return self._submit(read)

    def drop(self, last: int) -> Future[None]:
        """See ``ports.Spool``."""

        def delete(connection: sqlite3.Connection) -> None:
            query = "SELECT count(*), coalesce(sum(size), 0) FROM spool WHERE number <= ?"
            rows, size = connection.execute(query, (last,)).fetchone()
            with connection:
                connection.execute("DELETE FROM spool WHERE number <= ?", (last,))
            self._note(-rows, -size)
            connection.execute("PRAGMA incremental_vacuum").fetchall()

        return self._submit(delete)

    def close(self) -> None:
        """Finish what was asked for, and close the file; a disk that takes its time is not waited for."""
        wait([self._thread.submit(self._shut)], _CLOSE_S)
        self._thread.shutdown(wait=False)

    # The spool's own thread

    def _submit(self, work: Callable[[sqlite3.Connection], Result]) -> Future[Result]:
        return self._thread.submit(self._do, work)

    def _do(self, work: Callable[[sqlite3.Connection], Result]) -> Result:
        try:
            try:
                found = work(self._opened())
            except sqlite3.DatabaseError as error:
                if not _is_broken(error):
                    raise
                self._set_aside(str(error))
                found = work(self._opened())
        except (sqlite3.Error, OSError) as error:
            self._shut()  # and what is in it is counted anew
            fault = _storage_error(self._path, error)
            self.state = msgspec.structs.replace(self.state, fault=fault.detail)
            raise fault from error
        if self.state.fault is not None:
            self.state = msgspec.structs.replace(self.state, fault=None)
        return found

    def _opened(self) -> sqlite3.Connection:
        if self._connection is None:
            connection = sqlite3.connect(self._path, timeout=5.0, check_same_thread=False)
            try:
                found = int(connection.execute("PRAGMA user_version").fetchone()[0])
                if found not in {0, FORMAT}:
                    connection.close()
                    self._set_aside(f"format {found}, not {FORMAT}")
                    connection = sqlite3.connect(self._path, timeout=5.0, check_same_thread=False)
                connection.executescript(_SCHEMA)
                self._number_on(connection)
                connection.execute(f"PRAGMA user_version={FORMAT}")
                query = "SELECT count(*), coalesce(sum(size), 0) FROM spool"
                rows, size = connection.execute(query).fetchone()
            except BaseException:
                connection.close()
                raise
            self._connection = connection
            self.state = SpoolState(rows, size, self.state.lost)
        return self._connection

    def _number_on(self, connection: sqlite3.Connection) -> None:
        """Let a new file go on above what was handed out from one before: that is still to be dropped."""
        with connection:
            connection.execute(
                "INSERT INTO sqlite_sequence (name, seq) SELECT 'spool', ? "
                "WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = 'spool')",
                (self._handed_out,),
            )

    def _note(self, rows: int, size: int, lost: int = 0) -> None:
        """Note what came and went: to count what is there would read all of it each time."""
        state = self.state
        self.state = SpoolState(state.rows + rows, state.size_bytes + size, state.lost + lost, state.fault)

    def _keep(self, connection: sqlite3.Connection, predictions: Sequence[tuple[str, bytes]]) -> None:
        rows = [(topic, marked(payload)) for topic, payload in predictions]
        sized = [(len(topic) + len(payload) + _ROW_BYTES, topic, payload) for topic, payload in rows]
        added = sum(size for size, _, _ in sized)
        with connection:
            connection.executemany("INSERT INTO spool (size, topic, payload) VALUES (?, ?, ?)", sized)
            lost, freed = self._make_room(connection, self.state.size_bytes + added - self._max_bytes)
        self._note(len(rows) - lost, added - freed, lost)

    def _make_room(self, connection: sqlite3.Connection, excess: int) -> tuple[int, int]:
        """Delete the oldest that are too many; return how many, and their bytes.

        Not those that were handed out: they are on their way.
        """
        lost = freed = last = 0
        query = "SELECT number, size FROM spool WHERE number > ? ORDER BY number"
        with closing(connection.execute(query, (self._handed_out,))) as rows:
            while freed < excess and (row := next(rows, None)) is not None:
                last, size = row
                lost, freed = lost + 1, freed + size
        if lost:
            between = (self._handed_out, last)
            connection.execute("DELETE FROM spool WHERE number > ? AND number <= ?", between)
        return lost, freed

    def _set_aside(self, detail: str) -> None:
        """Give a file that cannot be read another name, so that the next predictions have a place."""
        self._shut()
        aside = self._path.with_suffix(".damaged")
        self._path.replace(aside)
        for suffix in ("-wal", "-shm"):  # they belong to no other file
            self._path.with_name(self._path.name + suffix).unlink(missing_ok=True)
        state = self.state
        log.error("spool.damaged", file=str(aside), detail=detail, predictions=state.rows)
        self._note(-state.rows, -state.size_bytes, lost=state.rows)

    def _shut(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):  # all that counts is on disk
                self._connection.close()
            self._connection = None


def marked(payload: bytes) -> bytes:
    """Return a prediction with the flag ``replayed``."""
    # Not decode_prediction: it is our own, and may be larger than what others' may be.
    prediction = msgspec.json.decode(payload, type=Prediction)
    quality = prediction.quality or []
    if Quality.REPLAYED in quality:
        return payload
    return encode_prediction(msgspec.structs.replace(prediction, quality=[*quality, Quality.REPLAYED]))


def _is_broken(error: sqlite3.DatabaseError) -> bool:
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _BROKEN


def _storage_error(path: Path, error: sqlite3.Error | OSError) -> StorageError:
    is_full = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_FULL
    return StorageError(f"{path}: {error}", Reason.NO_SPACE if is_full else Reason.STORAGE)
