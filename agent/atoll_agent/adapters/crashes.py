"""Remembers over a restart how this process ended: in order, by a kill, or by a model's doing.

A file in the state folder tells: after an end in order it is gone, and a fatal signal, or a bug where
models are loaded or answer, leave their traceback in it; a bug elsewhere is no model's doing. Its first
line tells in which state of the machine this process started. After an end without a word it tells
whether the kernel has killed anybody for memory since; else it was a person, or the mains, and no model.
"""

from __future__ import annotations

import faulthandler
import os
import traceback
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TextIO

import structlog

from atoll_agent.ports import End, LaneEndedError
from atoll_contract.errors import AtollError

_MOST_BYTES: Final = 65_536
_MARK: Final = "started "
_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_VMSTAT: Final = Path("/proc/vmstat")
_SHOWN: Final = 8192
"""So much of a traceback is logged, of its beginning and of its end."""

log = structlog.get_logger()


class CrashRecord:
    """That file. As a context it notes how what is in it ended.

    Args:
        folder: The state folder; one process at a time.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / "crash.txt"
        self._last = folder / "last-crash.txt"
        self._file: TextIO | None = None
        self._is_starting = True

    def begin(self) -> End:
        """Return how the last run ended, and watch over this one.

        The traceback of a crash is kept in ``last-crash.txt``. Where the folder cannot be written nobody
        watches.
        """
        end = self._keep_last()
        try:
            # Open as long as this process lives: a signal handler can open nothing.
            self._file = self._path.open("w", encoding="utf-8")
        except OSError as error:
            log.warning("crashes.unwatched", file=str(self._path), detail=error.strerror)
        else:
            with suppress(OSError):  # on a full disk no kill is told from a stop
                os.write(self._file.fileno(), f"{_MARK}{_machine()}\n".encode())
                os.fsync(self._file.fileno())  # else a machine that goes down soon takes it along
            faulthandler.enable(self._file)
        return end

    def _keep_last(self) -> End:
        try:
            with self._path.open(encoding="utf-8", errors="replace") as file:
                before = file.readline(_MOST_BYTES)
                found = ("" if before.startswith(_MARK) else before) + file.read(_MOST_BYTES)
            if not found.strip("\0 \n"):  # what a power cut leaves of a file
                found = ""
            if found:
                log.error("agent.crashed", file=str(self._last), detail=_shown(found))
                self._path.replace(self._last)
        except FileNotFoundError:
            return End.ORDERLY
        except OSError as error:
            log.warning("crashes.unwatched", file=str(self._path), detail=error.strerror)
            return End.ORDERLY
        if found:
            return End.CRASHED
        boot, kills = before.removeprefix(_MARK).strip().partition(" ")[::2]
        boot_now, kills_now = _machine().partition(" ")[::2]
        return End.KILLED if kills and boot == boot_now and kills != kills_now else End.ORDERLY

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._file is None:
            return
        if isinstance(error, Exception) and self._is_by_model(error):
            traceback.print_exception(error, file=self._file)
            self._file.flush()
            return
        with suppress(OSError):
            self._path.unlink(missing_ok=True)

    def started(self) -> None:
        """Note that all models are loaded: from now on only the lane runs any."""
        self._is_starting = False

    def _is_by_model(self, error: Exception) -> bool:
        if isinstance(error, ExceptionGroup):  # of tasks, which run no model
            return error.subgroup(LaneEndedError) is not None
        if isinstance(error, LaneEndedError):
            return True
        return self._is_starting and not isinstance(error, (AtollError, OSError))


def _machine() -> str:
    """Return what stays the same until the machine restarts, or the kernel kills somebody for memory."""
    try:
        boot, counts = _BOOT_ID.read_text(encoding="ascii").strip(), _VMSTAT.read_text(encoding="ascii")
    except OSError:
        return ""
    return " ".join([boot, *(line for line in counts.splitlines() if line.startswith("oom_kill "))])


def _shown(found: str) -> str:
    """Return a traceback for the log: whole, or without its middle."""
    half = _SHOWN // 2
    return found if len(found) <= _SHOWN else f"{found[:half]}\n...\n{found[-half:]}"
