"""Programs that the supervisor runs as short-lived children: JSON request in, JSON lines out."""

from __future__ import annotations

import ctypes
import os
import signal
from typing import Final

_PR_SET_PDEATHSIG: Final = 1
_NICENESS: Final = 10


def be_a_child() -> None:
    """Ask the kernel to kill this process when the agent ends, and to let the agent go first.

    A child that outlived it would share its client id and part files with the next one (``prctl(2)``);
    the agent answers readings, which cannot wait for a new model.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    os.nice(_NICENESS)
