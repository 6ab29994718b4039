"""``atoll-trainer init``: keys and an empty, signed release repository."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path

from atoll_contract.errors import ConfigError
from atoll_link.files import make_folder, storage_error, write_whole
from atoll_trainer.home import Home
from atoll_trainer.keys import OFFLINE, KeyName, create_key, key_path, read_passphrase
from atoll_trainer.repository import Repository

_PRIVATE = 0o700


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "--home",
        type=Path,
        metavar="DIR",
        help="trainer folder (default: /var/lib/atoll-trainer if it can be written, else atoll-trainer in "
        "the XDG state folder, ~/.local/state)",
    )
    parser.add_argument(
        "--passphrase-file", type=Path, metavar="FILE", help="encrypt the keys with the first line of FILE"
    )
    parser.add_argument("--demo", action="store_true", help="for a trial: the keys are not taken care of")
    parser.epilog = (
        f"{parser.epilog}\n\n"
        "Makes HOME/keys (root, targets, online, trainer), HOME/repository and HOME/root.json, the file\n"
        "that agents are enrolled with. Whoever has the root key decides what all devices run."
    )


def run(arguments: argparse.Namespace) -> int:
    """Make keys and repository and say what to do next."""
    home = Home.find(arguments.home)
    passphrase = read_passphrase(arguments.passphrase_file)
    create_home(home, passphrase)
    print(_next_steps(home, is_demo=arguments.demo, is_encrypted=passphrase is not None))  # noqa: T201
    return 0


def create_home(home: Home, passphrase: bytes | None = None) -> None:
    """Make keys and an empty repository in ``home``, and the root file for agents.

    Raises:
        ConfigError: There is one already.
        StorageError: It cannot be written.
    """
    keys, root = home.folder / "keys", home.folder / "root.json"
    for path in (keys, home.repository, root):
        if _exists(path):
            raise ConfigError(
                f"{path} exists: this home is not touched, as its keys may be all that devices trust; "
                "choose another, or delete it if an earlier init was interrupted"
            )
    make_folder(keys)
    try:
        keys.chmod(_PRIVATE)
    except OSError as error:
        raise storage_error(keys, error) from error
    signers = {name: create_key(keys, name, passphrase) for name in KeyName}
    repository = Repository.create(home.repository, signers, datetime.now(UTC))
    write_whole(root, repository.root)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise storage_error(path, error) from error


def _next_steps(home: Home, *, is_demo: bool, is_encrypted: bool) -> str:
    keys = home.folder / "keys"
    lines = [
        f"keys        {keys} ({'encrypted' if is_encrypted else 'not encrypted'})",
        f"repository  {home.repository}",
        f"trust root  {home.folder / 'root.json'}",
        "",
    ]
    if is_demo:
        lines.append("These keys are for a demonstration only: do not enrol real devices with this root.")
        return "\n".join(lines)
    offline = " and ".join(str(key_path(keys, name)) for name in OFFLINE)
    return "\n".join(
        [
            *lines,
            "Next:",
            f"1. Move {offline} to a medium",
            "   that is offline, with a copy elsewhere. Publishing does not need them. Whoever has them",
            "   decides what all devices run; who has lost them must enrol all devices anew.",
            f"2. Enrol each agent: atoll-agent enrol --root {home.folder / 'root.json'}",
            "3. Publish: atoll-trainer publish --settings trainer.toml MODEL-1.atoll",
        ]
    )
