"""A file whose time of change tells a container's probe that agent or trainer goes on."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

import structlog

ALIVE_S: Final = 15.0
"""How often it is touched."""

log = structlog.get_logger()


class AliveFile:
    """Touched at each beat, if the last one is ``every_s`` ago; a failure is told once.

    Without a path it does nothing.
    """

    def __init__(self, path: Path | None, every_s: float = 0.0) -> None:
        self._path = path
        self._every_s = every_s
        self._next_s = 0.0
        self._has_failed = False

    def beat(self) -> None:
        """Make the file, or set its time of change to now."""
        now_s = time.monotonic()
        if self._path is None or now_s < self._next_s:
            return
        self._next_s = now_s + self._every_s
        try:
            self._path.touch()
        except OSError as error:
            if not self._has_failed:
                log.error("alive_file.untouched", file=str(self._path), detail=error.strerror)  # noqa: TRY400
            self._has_failed = True
        else:
            self._has_failed = False
