"""A bundle on its way: chunks at their offsets in one file, and a journal of which are there.

The part stands beside the bundle that it becomes (``{sha256}.part``) and the journal beside the part
(``{sha256}.part.chunks``), so that a fetch that was broken off goes on where it was. A chunk is noted
as soon as it is written, which is enough to outlast a kill; every few seconds part and journal are
brought to disk, and after a power cut only what was noted before that counts.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from atoll_agent.rollout.release import Release
from atoll_contract.errors import Reason, StorageError
from atoll_link.files import storage_error, sync_folder, write_whole

_SPARE_BYTES: Final = 4 * 1024 * 1024
"""Space that must be left on the disk for everything else."""

_SYNC_BYTES: Final = 4 * 1024 * 1024
_SYNC_S: Final = 10.0
_READ_BYTES: Final = 1024 * 1024
_SYNCED: Final = "synced"
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")


class Part:
    """A context manager around the part of one release.

    Every method raises StorageError when the disk fails.

    Args:
        bundle: Where the bundle will be.
        release: Whose bundle it is.
        boot: Tells this start of the machine from others: what was written since then is there.
    """

    def __init__(self, bundle: Path, release: Release, boot: str | None = None) -> None:
        self._bundle = bundle
        self._path = bundle.with_suffix(".part")
        self._journal = bundle.with_suffix(".part.chunks")
        self._release = release
        self._boot = _this_boot() if boot is None else boot
        self._unsynced_bytes = 0
        self._synced_s = 0.0
        self.kept: set[int] = set()
        self.attempt = 1
        """Which attempt this is to get the right bytes; lasting, as the chunks are."""

    def __enter__(self) -> Self:
        """Open the part and find out which chunks are there.

        Raises:
            StorageError: Reason ``no_space``: the bundle would fill the disk.
        """
        with _translated(self._path):
            noted = _Journal.read(self._journal, self._title)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            try:
                if os.fstat(self._descriptor).st_size == self._release.length:
                    self.attempt = noted.attempt
                    self.kept = {number for number in noted.chunks(self._boot) if number < self.count}
                self._reserve()
                self._begin()
            except BaseException:
                os.close(self._descriptor)
                raise
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

    def write(self, number: int, payload: bytes) -> None:
        """Put a chunk in its place and note it."""
        with _translated(self._path):
            os.pwrite(self._descriptor, payload, number * self._release.chunk_size)
            self._note(f"{number}\n")
            self._unsynced_bytes += len(payload)
            if self._unsynced_bytes >= _SYNC_BYTES or time.monotonic() - self._synced_s >= _SYNC_S:
                self._sync()
        self.kept.add(number)

    def is_genuine(self) -> bool:
        """Bring the part to disk and tell whether its bytes are the ones that were signed."""
        digest = hashlib.sha256()
        with _translated(self._path):
            self._sync()
            for offset in range(0, self._release.length, _READ_BYTES):
                digest.update(os.pread(self._descriptor, _READ_BYTES, offset))
        return digest.hexdigest() == self._release.sha256

    def begin_again(self) -> None:
        """Forget all chunks: one of them is not what was signed, and nobody can tell which."""
        self.attempt += 1
        self.kept = set()
        with _translated(self._path):
            self._begin()

    def finish(self) -> None:
        """Make the part the bundle: from now on, also after a power cut, it counts as fetched."""
        with _translated(self._bundle):
            self._path.replace(self._bundle)
            sync_folder(self._bundle.parent)
            # Only now: a part without its journal would be fetched anew.
            self._journal.unlink(missing_ok=True)

    def discard(self) -> None:
        """Delete part and journal."""
        with _translated(self._path):
            self._journal.unlink(missing_ok=True)
            self._path.unlink(missing_ok=True)

    def _reserve(self) -> None:
        """Take all the space at once, so that the disk is not found to be full half-way."""
        free = shutil.disk_usage(self._path.parent).free
        missing = self._release.length - os.fstat(self._descriptor).st_blocks * 512
        if missing > 0 and free < missing + _SPARE_BYTES:
            self.discard()
            message = (
                f"{self._path.parent}: {free} bytes free; the bundle of {self._release.length} bytes needs "
                f"{missing + _SPARE_BYTES}, with some to spare"
            )
            raise StorageError(message, Reason.NO_SPACE)
        os.ftruncate(self._descriptor, self._release.length)
        try:
            os.posix_fallocate(self._descriptor, 0, self._release.length)
        except OSError:
            self.discard()
            raise

    def _begin(self) -> None:
        """Write the journal anew, without lines that a kill has torn or a power cut made worthless."""
        os.fsync(self._descriptor)
        self._synced_s = time.monotonic()
        numbers = "".join(f"{number}\n" for number in sorted(self.kept))
        head = f"{self._title}\nattempt {self.attempt}\nboot {self._boot}\n"
        write_whole(self._journal, f"{head}{numbers}{_SYNCED}\n".encode("ascii"))

    def _sync(self) -> None:
        os.fsync(self._descriptor)
        self._note(f"{_SYNCED}\n", is_lasting=True)
        self._unsynced_bytes = 0
        self._synced_s = time.monotonic()

    def _note(self, line: str, *, is_lasting: bool = False) -> None:
        descriptor = os.open(self._journal, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
        try:
            os.write(descriptor, line.encode("ascii"))
            if is_lasting:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)

    @property
    def _title(self) -> str:
        return f"{self._release.sha256} {self._release.length} {self._release.chunk_size}"


@dataclass(slots=True)
class _Journal:
    """What a journal says; empty when there is none, or one of another release."""

    attempt: int = 1
    boot: str = ""
    synced: set[int] = field(default_factory=set)
    noted: set[int] = field(default_factory=set)

    @classmethod
    def read(cls, path: Path, title: str) -> _Journal:
        found = cls()
        try:
            text = path.read_text(encoding="ascii", errors="replace")
        except FileNotFoundError:
            return found
        if text.startswith(f"{title}\n"):
            # A line without its end was torn.
            for line in text.splitlines(keepends=True)[1:]:
                if line.endswith("\n"):
                    found._heed(line[:-1])
        return found

    def _heed(self, line: str) -> None:
        match line.split(" "):
            case ["attempt", number] if number.isdecimal():
                self.attempt = int(number)
            case ["boot", boot]:
                self.boot = boot
            case [word] if word == _SYNCED:
                self.synced |= self.noted
                self.noted = set()
            case [number] if number.isascii() and number.isdecimal():
                self.noted.add(int(number))
            case _:
                pass  # a power cut left anything there

    def chunks(self, boot: str) -> set[int]:
        """Return the chunks that are there, now that the machine's start is ``boot``."""
        return self.synced | self.noted if boot and boot == self.boot else self.synced


def _this_boot() -> str:
    """Return what tells this start of the machine from others; empty where nothing does."""
    try:
        return _BOOT_ID.read_text(encoding="ascii").strip()
    except OSError:
        return ""


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise storage_error(path, error) from error
