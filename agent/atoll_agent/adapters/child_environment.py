"""What a child is told of the agent that starts it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

AGENT_PID: Final = "ATOLL_AGENT_PID"


def child_environment() -> Mapping[str, str]:
    """Return the environment that a child of this process is started with."""
    return {**os.environ, AGENT_PID: str(os.getpid())}
