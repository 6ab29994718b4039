"""Where recordings are kept: a folder of this machine, or a store that fsspec knows.

The only importer of fsspec; ``s3://`` goes through Arrow, which brings its own client. Names are
relative, with ``/`` between their parts. A file is there whole or not at all: a folder renames it, a
bucket shows an object once it is stored.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import IO, Any, Final, Protocol
from urllib.parse import parse_qsl, urlsplit

from atoll_contract.errors import ConfigError, StorageError
from atoll_link.files import make_folder, put_whole, storage_error

_LOCAL: Final = ("file://", "local://")
_CONNECT_S: Final = 10.0
_REQUEST_S: Final = 60.0
_SWITCHES: Final[Mapping[str, bool]] = {"true": True, "false": False}
_PASSWORD: Final = re.compile(r"(://[^/@:]*):[^/@]*@")
"""Of a URL, and of each in a chain of them."""
_COPIED_BYTES: Final = 1 << 20


class Place(Protocol):
    """Files below one root. ``str`` of it names the root, for people."""

    def folders(self, name: str) -> list[str]:
        """Return the names of the folders in ``name``, sorted; none when it is not there.

        Raises:
            StorageError: It cannot be listed.
        """

    def files(self, name: str) -> dict[str, int]:
        """Return the sizes of the files in ``name``, by their names, sorted; see :meth:`folders`."""

    def put(self, name: str, write: Callable[[Path], None]) -> None:
        """Let ``write`` make a temporary file, which becomes ``name``.

        Raises:
            StorageError: It cannot be stored.
        """

    def open(self, name: str) -> IO[bytes]:
        """Return the file ``name``, open for reading.

        Raises:
            OSError: It cannot be read.
        """

    def remove(self, name: str) -> None:
        """Delete the file ``name``; one that is not there is no fault.

        Raises:
            StorageError: It cannot be deleted.
        """


def place(text: str | Path) -> Folder | Bucket:
    """Return the place that a path or a URL names.

    >>> str(place("file:///var/lib/recordings"))
    '/var/lib/recordings'

    Raises:
        ConfigError: There is no such kind of store, or what it needs is not installed.
    """
    if isinstance(text, Path) or "://" not in text:
        return Folder(Path(text))
    if text.startswith(_LOCAL):
        return Folder(Path(text.partition("://")[2]))
    bucket = Bucket(text.rstrip("/"))
    bucket.check()
    return bucket


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder of this machine; files reach the disk before they have their name."""

    path: Path

    def __str__(self) -> str:
        return str(self.path)

    def folders(self, name: str) -> list[str]:
        """As in :class:`Place`."""
        return [entry.name for entry in self._listed(name) if entry.is_dir()]

    def files(self, name: str) -> dict[str, int]:
        """As in :class:`Place`."""
        found = {}
        for entry in self._listed(name):
            try:
                if entry.is_file():
                    found[entry.name] = entry.stat().st_size
            except FileNotFoundError:  # deleted in between
                continue
        return found

    def put(self, name: str, write: Callable[[Path], None]) -> None:
        """As in :class:`Place`."""
        path = self.path / name
        make_folder(path.parent)
        put_whole(path, write)

    def open(self, name: str) -> IO[bytes]:
        """As in :class:`Place`."""
        return (self.path / name).open("rb")

    def remove(self, name: str) -> None:
        """As in :class:`Place`; a folder that is left empty goes too."""
        path = self.path / name
        try:
            path.unlink(missing_ok=True)
            if path.parent != self.path and not any(path.parent.iterdir()):
                path.parent.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            raise storage_error(path, error) from error

    def free_bytes(self) -> int:
        """Return how much the disk below can take."""
        return shutil.disk_usage(self.path).free

    def _listed(self, name: str) -> list[os.DirEntry[str]]:
        path = self.path / name
        try:
            with os.scandir(path) as entries:
                return sorted(entries, key=lambda entry: entry.name)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise storage_error(path, error) from error


@dataclass(frozen=True)
class Bucket:
    """Objects below a URL, ``s3://bucket/folder?region=eu-central-1&endpoint_override=host:9000``.

    Passwords are found where the store's own tools look: the environment, ``~/.aws``, the instance.

    Attributes:
        url: Where.
        journals: Folder of this machine in which a recorder keeps what is not stored yet.
    """

    url: str = field(repr=False)
    journals: Path | None = None

    def __str__(self) -> str:
        # Without passwords, and without what follows "?": it may hold a key.
        return _PASSWORD.sub(r"\1:***@", self.url.partition("?")[0])

    @property
    def _is_s3(self) -> bool:
        return self.url.startswith("s3://")

    @cached_property
    def _store(self) -> tuple[Any, str]:
        if self._is_s3:
            url = urlsplit(self.url)
            options = {name: _SWITCHES.get(text, text) for name, text in parse_qsl(url.query)}
            store = importlib.import_module("pyarrow.fs").S3FileSystem(
                connect_timeout=_CONNECT_S,
                request_timeout=_REQUEST_S,
                allow_delayed_open=True,  # one request for what fits into one
                **options,
            )
            wrapper = importlib.import_module("fsspec.implementations.arrow").ArrowFSWrapper(store)
            return wrapper, f"{url.netloc}{url.path}".rstrip("/")
        store, root = importlib.import_module("fsspec").url_to_fs(self.url)
        return store, str(root).rstrip("/")

    def check(self) -> None:
        """Refuse a URL that nothing here can open.

        Raises:
            ConfigError: As :func:`place`.
        """
        try:
            self._store  # noqa: B018 - made here, while somebody is there to read what is wrong
        except ImportError as error:
            raise ConfigError(f"{self}: needs a package that is not installed: {error}") from error
        except (ValueError, TypeError) as error:
            what = (
                "cannot be opened with these options" if self._is_s3 else "no kind of store that fsspec knows"
            )
            raise ConfigError(f"{self}: {what}: {error}") from error
        except OSError as error:
            raise self._error("", error) from error

    def folders(self, name: str) -> list[str]:
        """As in :class:`Place`."""
        return sorted(found for found, kind, _ in self._listed(name) if kind == "directory")

    def files(self, name: str) -> dict[str, int]:
        """As in :class:`Place`."""
        return {found: size for found, kind, size in sorted(self._listed(name)) if kind == "file"}

    def put(self, name: str, write: Callable[[Path], None]) -> None:
        """As in :class:`Place`."""
        store, root = self._store
        with TemporaryDirectory(prefix="atoll-") as folder:
            temporary = Path(folder, "object")
            try:
                write(temporary)
                if not self._is_s3:
                    store.put_file(str(temporary), f"{root}/{name}")
                    return
                # put_file would store an empty object for each folder above it.
                with temporary.open("rb") as file, store.open(f"{root}/{name}", "wb") as stream:
                    shutil.copyfileobj(file, stream, _COPIED_BYTES)
            except OSError as error:
                raise self._error(name, error) from error

    def open(self, name: str) -> IO[bytes]:
        """As in :class:`Place`."""
        store, root = self._store
        found: IO[bytes] = store.open(f"{root}/{name}", "rb")
        return found

    def remove(self, name: str) -> None:
        """As in :class:`Place`."""
        store, root = self._store
        try:
            store.rm_file(f"{root}/{name}")
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._error(name, error) from error

    def _listed(self, name: str) -> list[tuple[str, str, int]]:
        """Return name, kind and size of what is in ``name``."""
        store, root = self._store
        try:
            store.invalidate_cache()  # others write there too
            found = store.ls(f"{root}/{name}".rstrip("/"), detail=True)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise self._error(name, error) from error
        return [
            (str(each["name"]).rstrip("/").rpartition("/")[2], str(each["type"]), int(each["size"] or 0))
            for each in found
        ]

    def _error(self, name: str, error: OSError) -> StorageError:
        return StorageError(f"{self}/{name}: {error}")
