"""``atoll-agent forgive``."""

from __future__ import annotations

import argparse

from atoll_agent.adapters.store import StateStore
from atoll_agent.commands import add_settings_argument
from atoll_agent.settings import AgentSettings
from atoll_contract.errors import ConfigError


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.epilog = "The agent must not run meanwhile. At its next start it tries those releases again."
    add_settings_argument(parser)
    parser.add_argument("model", metavar="MODEL", help="id of the model")


def run(arguments: argparse.Namespace) -> int:
    """Forget which releases of a model this device has refused, and say which they were."""
    settings = AgentSettings.read(arguments.settings)
    if arguments.model not in {model.name for model in settings.model}:
        raise ConfigError(f"{arguments.settings}: names no model {arguments.model!r}")
    store = StateStore(settings.agent.state_dir)
    store.lock()
    forgiven = store.forgive(arguments.model)
    for refused in forgiven:
        print(f"release {refused.release} is tried again; it was refused: {refused.reason}: {refused.detail}")  # noqa: T201 - the result
    if not forgiven:
        print(f"{arguments.model}: nothing was refused")  # noqa: T201 - as above
    return 0
