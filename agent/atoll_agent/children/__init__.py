"""Programs that the agent runs as children.

Those of the supervisor live shortly: JSON request in, JSON lines out. That of an Edge TPU stays.
"""

from __future__ import annotations

import ctypes
import os
import signal
from contextlib import suppress
from pathlib import Path
from typing import Final

from atoll_agent.adapters.child_environment import AGENT_PID

_PR_SET_PDEATHSIG: Final = 1
_NICENESS: Final = 10


def be_a_child(*, is_urgent: bool = False) -> None:
    """Ask the kernel to kill this process with the agent, and before it where memory is short.

    A child that outlived it would share its client id, part files or Edge TPU with the next one
    (``prctl(2)``); the agent answers readings, which cannot wait for a new model, and goes first.

    Args:
        is_urgent: A reading waits for it: it is as important as the agent.

    Raises:
        SystemExit: The agent has ended already, before the kernel was asked.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    parent = str(os.getppid())
    if os.environ.get(AGENT_PID, parent) != parent:
        raise SystemExit(1)
    if not is_urgent:
        os.nice(_NICENESS)
        with suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
