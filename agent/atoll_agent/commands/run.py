"""``atoll-agent run``."""

from __future__ import annotations

import argparse
import asyncio
import faulthandler
import signal

from atoll_agent.commands import add_settings_argument
from atoll_agent.compose import compose
from atoll_agent.settings import AgentSettings


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_settings_argument(parser)


def run(arguments: argparse.Namespace) -> int:
    """Run the agent until SIGTERM or SIGINT."""
    # Until the crash record takes over, and where it cannot: later ones are logged at the next start.
    faulthandler.enable()
    # Until the settings can be read again they are read for the first time: no reason to end.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    settings = AgentSettings.read(arguments.settings)

    async def work() -> None:
        await compose(settings, arguments.settings).run()

    asyncio.run(work())
    return 0
