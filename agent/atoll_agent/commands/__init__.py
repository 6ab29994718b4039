"""One module per command of ``atoll-agent``: ``configure(parser)`` and ``run(arguments)``."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

DEFAULT_SETTINGS: Final = Path("/etc/atoll/agent.toml")


def add_settings_argument(parser: argparse.ArgumentParser) -> None:
    """Add ``--settings``."""
    parser.add_argument(
        "--settings",
        type=Path,
        default=DEFAULT_SETTINGS,
        metavar="FILE",
        help="the agent's settings (default: %(default)s)",
    )
