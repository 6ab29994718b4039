"""What Home Assistant was told, in a file of the state folder."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import msgspec
import structlog

from atoll_agent.ports import Announced
from atoll_contract.errors import StorageError
from atoll_link.files import write_whole

log = structlog.get_logger()

_FORMAT: Final = 1


class _File(msgspec.Struct, forbid_unknown_fields=True):
    """The file."""

    format: int
    announced: Announced


class NotesFile:
    """Implements ``ports.Notes``. A disk that fails costs no more than entities that stay."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> Announced | None:
        """Return what is noted; a damaged file says nothing."""
        try:
            file = msgspec.json.decode(self._path.read_bytes(), type=_File)
        except FileNotFoundError:
            return None
        except (OSError, msgspec.MsgspecError) as error:
            self._warn(str(error))
            return None
        return file.announced if file.format == _FORMAT else None

    def write(self, announced: Announced) -> None:
        """Note ``announced``."""
        try:
            write_whole(self._path, msgspec.json.encode(_File(_FORMAT, announced)))
        except StorageError as error:
            self._warn(error.detail)

    def delete(self) -> None:
        """Forget what is noted."""
        try:
            self._path.unlink(missing_ok=True)
        except OSError as error:
            self._warn(str(error))

    def _warn(self, detail: str) -> None:
        log.warning("homeassistant.unsaved", file=str(self._path), detail=detail[:200])
