"""Whether this machine knows what time it is, and a time that has certainly passed.

A board without a battery wakes up in 1970, at the time of its last shutdown, or anywhere. It goes on
predicting, and what it says of time is flagged, until the system clock has been set by a time server.
"""

from __future__ import annotations

import ctypes
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Literal

from atoll_link.files import write_whole

BUILD_TIME: Final = datetime(2026, 11, 1, tzinfo=UTC)
"""No clock of a device is right that is before this; move it with each version."""

Trust = Literal["auto", "trusted", "untrusted"]
"""What the settings say of the system clock: ask the system, or believe it always, or never."""

_TIMESYNCD: Final = Path("/run/systemd/timesync/synchronized")
"""systemd-timesyncd makes it when it has set the clock; it lasts until the next start of the machine."""

_STEP: Final = timedelta(hours=1)  # the time is written no more often, for the SD card's sake
_TIME_ERROR: Final = 5


class SystemClock:
    """Tells whether the system clock is set. Any thread may read it; one thread looks."""

    def __init__(self, trust: Trust = "auto") -> None:
        self._trust = trust
        self._is_unsynced = True
        self.look()

    @property
    def is_time_unsynced(self) -> bool:
        """Whether, when last looked at, the system clock had not been set."""
        return self._is_unsynced

    def trust(self, trust: Trust) -> None:
        """Take another word for the system clock from now on."""
        self._trust = trust
        self.look()

    def look(self) -> bool:
        """Ask the system again; return whether its answer has changed."""
        before = self._is_unsynced
        match self._trust:
            case "trusted":
                self._is_unsynced = False
            case "untrusted":
                self._is_unsynced = True
            case "auto":
                # The kernel gives the clock up some hours after the last word of a time server; the file
                # stays, and a clock that was right in the morning is good enough in the evening.
                self._is_unsynced = not (_TIMESYNCD.exists() or _is_kernel_synchronised())
        return self._is_unsynced != before


class PassedTime:
    """A time that has certainly passed, kept in a file: expiry cannot be judged by an earlier one."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def read(self) -> datetime:
        """Return it; never before this version was built."""
        try:
            return max(datetime.fromisoformat(self._file.read_text(encoding="ascii")), BUILD_TIME)
        except (FileNotFoundError, ValueError, TypeError):  # TypeError: without an offset it is not ours
            return BUILD_TIME

    def learn(self, now: datetime) -> None:
        """Keep ``now``, the time of a clock that was set.

        Raises:
            StorageError: The file cannot be written.
        """
        if now - self.read() > _STEP:
            write_whole(self._file, now.isoformat().encode("ascii"))


class _Timex(ctypes.Structure):
    """``struct timex`` of adjtimex(2), as far as the kernel may write it."""

    _fields_ = (("modes", ctypes.c_uint), ("_rest", ctypes.c_byte * 252))


def _is_kernel_synchronised() -> bool:
    """Whether a time server (timesyncd, chrony, ntpd, PTP) steers the kernel's clock: ``adjtimex(2)``."""
    state = ctypes.CDLL(None).adjtimex(ctypes.byref(_Timex()))
    return 0 <= int(state) < _TIME_ERROR
