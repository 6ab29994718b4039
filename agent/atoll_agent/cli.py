"""``atoll-agent``: answers readings with predictions and takes over new releases safely."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from atoll_link.command_line import Command
from atoll_link.command_line import main as run_program

COMMANDS: Final = {
    "enrol": Command(
        "atoll_agent.commands.enrol",
        "give this device the trainer's root of trust",
        "enrol --settings /etc/atoll/agent.toml --root root.json",
    ),
    "check": Command(
        "atoll_agent.commands.check",
        "check a settings file and say what it means",
        "check --settings /etc/atoll/agent.toml",
    ),
    "doctor": Command(
        "atoll_agent.commands.doctor",
        "find what keeps the agent from its work, and say what to do",
        "doctor --settings /etc/atoll/agent.toml",
    ),
    "forgive": Command(
        "atoll_agent.commands.forgive",
        "have releases that this device refused tried again",
        "forgive --settings /etc/atoll/agent.toml wear",
    ),
    "run": Command(
        "atoll_agent.commands.run",
        "answer readings until told to stop",
        "run --settings /etc/atoll/agent.toml",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``atoll-agent`` and return its exit code."""
    return run_program("atoll-agent", __doc__ or "", COMMANDS, arguments)
