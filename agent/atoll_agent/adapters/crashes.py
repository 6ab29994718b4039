"""Remembers over a restart that this process ended by its own doing: by a fatal signal, or a bug.

A kill, a power cut and a clean stop leave nothing behind. What a crash leaves is its traceback.
"""

from __future__ import annotations

import faulthandler
import traceback
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TextIO

import structlog

from atoll_contract.errors import AtollError

_MOST_BYTES: Final = 65_536
_SHOWN: Final = 8192
"""So much of a traceback is logged, of its beginning and of its end."""

log = structlog.get_logger()


class CrashRecord:
    """A file in the state folder that is empty unless the agent has crashed.

    As a context it notes an exception that ends what is in it.

    Args:
        folder: The state folder; one process at a time.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "crash.txt"
        self._last = folder / "last-crash.txt"
        self._file: TextIO | None = None

    def begin(self) -> bool:
        """Return whether the last run crashed, and watch over this one.

        Its traceback is kept in ``last-crash.txt``. Where the folder cannot be written nobody watches.
        """
        has_crashed = self._keep_last()
        try:
            # Open as long as this process lives: a signal handler can open nothing.
            self._file = self._path.open("w", encoding="utf-8")
        except OSError as error:
            log.warning("crashes.unwatched", file=str(self._path), detail=error.strerror)
        else:
            faulthandler.enable(self._file)
        return has_crashed

    def _keep_last(self) -> bool:
        try:
            with self._path.open(encoding="utf-8", errors="replace") as file:
                found = file.read(_MOST_BYTES)
            if found:
                log.error("agent.crashed", file=str(self._last), detail=_shown(found))
                self._path.replace(self._last)
        except FileNotFoundError:
            return False
        except OSError as error:
            log.warning("crashes.unwatched", file=str(self._path), detail=error.strerror)
            return False
        return bool(found)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is not None and isinstance(error, Exception) and _is_bug(error):
            traceback.print_exception(error, file=self._file)
            self._file.flush()


def _is_bug(error: Exception) -> bool:
    """Whether anything in ``error`` is more than the surroundings, or settings that are wrong."""
    if isinstance(error, ExceptionGroup):
        return error.split(AtollError)[1] is not None
    return not isinstance(error, AtollError)


def _shown(found: str) -> str:
    """Return a traceback for the log: whole, or without its middle."""
    half = _SHOWN // 2
    return found if len(found) <= _SHOWN else f"{found[:half]}\n...\n{found[-half:]}"
