"""Files change whole or not at all: temporary file, fsync, rename, fsync of the folder."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from atoll_contract.errors import Reason, StorageError


def write_whole(path: Path, content: bytes, mode: int = 0o644) -> None:
    """Make ``path`` hold ``content``, also after a power cut: the old content or the new one.

    Raises:
        StorageError: It cannot be written.
    """
    put_whole(path, lambda temporary: _write(temporary, content, mode))


def put_whole(path: Path, write: Callable[[Path], None]) -> None:
    """Let ``write`` make a temporary file beside ``path``, fsync it and rename it to ``path``.

    Raises:
        StorageError: It cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):  # a read-only disk refuses this too
            temporary.unlink(missing_ok=True)
        raise storage_error(path, error) from error


def make_folder(path: Path) -> None:
    """Make the folder ``path`` and those above it, such that they outlast a power cut.

    Raises:
        StorageError: It cannot be made.
    """
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    try:
        path.mkdir(parents=True, exist_ok=True)
        for folder in missing:
            sync_folder(folder.parent)
    except OSError as error:
        raise storage_error(path, error) from error


def sync_folder(folder: Path) -> None:
    """Bring the names in ``folder`` to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def storage_error(path: Path, error: OSError) -> StorageError:
    """Return what to raise for an ``error`` of ``path``."""
    reason = Reason.NO_SPACE if error.errno in {errno.ENOSPC, errno.EDQUOT} else Reason.STORAGE
    return StorageError(f"{path}: {error.strerror or error}", reason)


def _write(path: Path, content: bytes, mode: int) -> None:
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        file.write(content)
