"""Programs that the supervisor runs as short-lived children: JSON request in, JSON lines out."""

from __future__ import annotations

import ctypes
import signal
from typing import Final

_PR_SET_PDEATHSIG: Final = 1


def die_with_parent() -> None:
    """Ask the kernel to kill this process when the agent ends, however it ends (``prctl(2)``).

    A child that outlived it would share its client id and part files with the next one.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
