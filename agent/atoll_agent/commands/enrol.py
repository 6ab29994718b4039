"""``atoll-agent enrol``."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root

from atoll_agent.adapters.store import StateStore
from atoll_agent.commands import add_settings_argument
from atoll_agent.enrolment import COLUMNS, make_folders, read_devices
from atoll_agent.settings import AgentSettings
from atoll_contract.errors import ConfigError

EPILOG = f"""\
This device:
  atoll-agent enrol --settings /etc/atoll/agent.toml --root root.json

Many devices: a folder for each, with settings, root of trust and token, ready to be copied:
  atoll-agent enrol --settings fleet.toml --root root.json --devices devices.csv --out devices
  scp devices/pi-7/*.* root@pi-7:/etc/atoll/
  scp -r devices/pi-7/state/. root@pi-7:/var/lib/atoll/
  ssh root@pi-7 chown -R atoll: /var/lib/atoll

devices.csv names its columns in the first line: {", ".join(COLUMNS)}.
Only id is needed; the others replace what fleet.toml says, which holds for all devices:
  id,site,password
  pi-7,plant-a,correct-horse
  pi-8,plant-b,battery-staple

Run again, it makes the folders that are missing and leaves the others alone.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EPILOG
    add_settings_argument(parser)
    parser.add_argument(
        "--root",
        type=Path,
        required=True,
        metavar="FILE",
        help="root.json of the trainer, brought here by a way that you trust",
    )
    many = parser.add_argument_group("many devices")
    many.add_argument("--devices", type=Path, metavar="CSV", help="one device per line")
    many.add_argument("--out", type=Path, metavar="DIR", help="where their folders are made")
    many.add_argument(
        "--overwrite", action="store_true", help="replace files that differ; tokens stay as they are"
    )


def run(arguments: argparse.Namespace) -> int:
    """Store the root of trust and make the agent's token, here or in a folder per device."""
    if (arguments.devices is None) != (arguments.out is None):
        raise ConfigError("--devices and --out go together")
    if arguments.overwrite and arguments.out is None:
        raise ConfigError("--overwrite belongs to --devices and --out")
    root = _read_root(arguments.root)
    if arguments.out is not None:
        return _enrol_many(arguments, root)
    settings = AgentSettings.read(arguments.settings)
    identity = StateStore(settings.agent.state_dir).enrol(root)
    print(f"agent   {settings.agent.id}")  # noqa: T201
    print(f"site    {settings.agent.site}")  # noqa: T201
    print(f"state   {settings.agent.state_dir}")  # noqa: T201
    print(f"token   {identity.token[:8]}...")  # noqa: T201
    # What root's own agent wrote the service's user could not read.
    is_ours = settings.agent.state_dir.stat().st_uid == os.geteuid()
    start = f"atoll-agent run --settings {arguments.settings}" if is_ours else "systemctl start atoll-agent"
    print(f"next    {start}")  # noqa: T201
    return 0


def _enrol_many(arguments: argparse.Namespace, root: bytes) -> int:
    outcomes = make_folders(
        read_devices(arguments.devices),
        arguments.settings,
        root,
        arguments.out,
        is_overwriting=arguments.overwrite,
    )
    for device, outcome in outcomes.items():
        print(f"{outcome.value:9} {arguments.out / device}")  # noqa: T201
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
