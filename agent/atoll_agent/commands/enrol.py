"""``atoll-agent enrol``."""

from __future__ import annotations

import argparse
from pathlib import Path

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root

from atoll_agent.adapters.store import StateStore
from atoll_agent.commands import add_settings_argument
from atoll_agent.settings import AgentSettings
from atoll_contract.errors import ConfigError


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_settings_argument(parser)
    parser.add_argument(
        "--root",
        type=Path,
        required=True,
        metavar="FILE",
        help="root.json of the trainer, brought here by a way that you trust",
    )


def run(arguments: argparse.Namespace) -> int:
    """Store the root of trust and make the agent's token."""
    settings = AgentSettings.read(arguments.settings)
    root = _read_root(arguments.root)
    identity = StateStore(settings.agent.state_dir).enrol(root)
    print(f"agent   {settings.agent.id}")  # noqa: T201
    print(f"site    {settings.agent.site}")  # noqa: T201
    print(f"state   {settings.agent.state_dir}")  # noqa: T201
    print(f"token   {identity.token[:8]}...")  # noqa: T201
    print(f"next    atoll-agent run --settings {arguments.settings}")  # noqa: T201
    return 0


def _read_root(path: Path) -> bytes:
    try:
        content = path.read_bytes()
        metadata = Metadata[Root].from_bytes(content)
        metadata.signed.verify_delegate("root", metadata.signed_bytes, metadata.signatures)
    except OSError as error:
        raise ConfigError(f"--root {path}: cannot be read: {error.strerror}") from error
    except (RepositoryError, AttributeError, ValueError) as error:
        raise ConfigError(f"--root {path}: is no signed root metadata: {error}") from error
    return content
