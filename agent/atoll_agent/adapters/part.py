"""A bundle on its way: chunks at their offsets in one file, and a record of which are there.

The record stands beside the part (``{part}.chunks``), so that a fetch that was broken off goes on
where it was. It is not synced: after a power cut it may speak of chunks that the disk does not hold,
which the digest of the whole file shows.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from atoll_agent.rollout.release import Release
from atoll_contract.errors import Reason, StorageError
from atoll_link.files import storage_error

_SPARE_BYTES: Final = 4 * 1024 * 1024
"""Space that must be left on the disk for everything else."""

_READ_BYTES: Final = 1024 * 1024


class Part:
    """A context manager around the part file of one release.

    Every method raises StorageError when the disk fails.
    """

    def __init__(self, path: Path, release: Release) -> None:
        self._path = path
        self._release = release
        self._record = path.with_name(f"{path.name}.chunks")
        self.kept: set[int] = set()

    def __enter__(self) -> Self:
        """Open the part and find out which chunks are there."""
        with _translated(self._path):
            self.kept = self._recorded()
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            if not self.kept:
                self.restart()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the files; what is there stays."""
        os.close(self._descriptor)

    @property
    def kept_bytes(self) -> int:
        """How many bytes of the bundle are there."""
        return sum(map(self.size_of, self.kept))

    def missing(self) -> list[int]:
        """Return the numbers of the chunks that are not there."""
        return [number for number in range(self.count) if number not in self.kept]

    @property
    def count(self) -> int:
        """How many chunks the bundle has."""
        return -(-self._release.length // self._release.chunk_size)

    def size_of(self, number: int) -> int:
        """Return the size of a chunk in bytes; only the last may be shorter than the others."""
        return min(self._release.chunk_size, self._release.length - number * self._release.chunk_size)

    def require_space(self) -> None:
        """Refuse to begin what would fill the disk.

        Raises:
            StorageError: Reason ``no_space``.
        """
        with _translated(self._path):
            free = shutil.disk_usage(self._path.parent).free
        needed = self._release.length - self.kept_bytes + _SPARE_BYTES
        if free < needed:
            message = (
                f"{self._path.parent}: {free} bytes free, {needed} are needed for the bundle and to spare"
            )
            raise StorageError(message, Reason.NO_SPACE)

    def write(self, number: int, payload: bytes) -> None:
        """Put a chunk in its place and record it."""
        with _translated(self._path):
            os.pwrite(self._descriptor, payload, number * self._release.chunk_size)
            with self._record.open("a", encoding="ascii") as record:
                record.write(f"{number}\n")
        self.kept.add(number)

    def is_genuine(self) -> bool:
        """Bring the part to disk and tell whether its bytes are the ones that were signed."""
        digest = hashlib.sha256()
        with _translated(self._path):
            os.fsync(self._descriptor)
            if os.fstat(self._descriptor).st_size != self._release.length:
                return False
            for offset in range(0, self._release.length, _READ_BYTES):
                digest.update(os.pread(self._descriptor, _READ_BYTES, offset))
        return digest.hexdigest() == self._release.sha256

    def restart(self) -> None:
        """Forget all chunks."""
        with _translated(self._path):
            os.ftruncate(self._descriptor, 0)
            os.ftruncate(self._descriptor, self._release.length)
            self._record.write_text(self._header, encoding="ascii")
        self.kept = set()

    def finish(self) -> None:
        """Delete the record: the part is whole."""
        with _translated(self._record):
            self._record.unlink(missing_ok=True)

    def discard(self) -> None:
        """Delete part and record."""
        with _translated(self._path):
            self._path.unlink(missing_ok=True)
            self._record.unlink(missing_ok=True)

    @property
    def _header(self) -> str:
        return f"{self._release.sha256} {self._release.length} {self._release.chunk_size}\n"

    def _recorded(self) -> set[int]:
        try:
            text = self._record.read_text(encoding="ascii", errors="replace")
            size = self._path.stat().st_size
        except FileNotFoundError:
            return set()
        if size != self._release.length or not text.startswith(self._header):
            return set()
        # A line without its end was torn.
        lines = (line for line in text.splitlines(keepends=True)[1:] if line.endswith("\n"))
        numbers = {int(line) for line in lines if line.strip().isdecimal()}
        return {number for number in numbers if number < self.count}


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise storage_error(path, error) from error
