"""A file whose time of change tells a container's probe that the agent goes on."""

from __future__ import annotations

from pathlib import Path

import structlog

log = structlog.get_logger()


class AliveFile:
    """Touched at each beat; where that fails it is told once, and the probe does the rest."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._has_failed = False

    def beat(self) -> None:
        """Make the file, or set its time of change to now."""
        try:
            self._path.touch()
        except OSError as error:
            if not self._has_failed:
                log.error("alive_file.untouched", file=str(self._path), detail=error.strerror)  # noqa: TRY400
            self._has_failed = True
        else:
            self._has_failed = False
