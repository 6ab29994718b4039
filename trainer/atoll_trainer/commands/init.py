"""``atoll-trainer init``: keys and an empty, signed release repository."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path

from atoll_contract.errors import ConfigError
from atoll_link.files import make_folder, storage_error, write_whole
from atoll_trainer.home import Home
from atoll_trainer.keys import OFFLINE, KeyName, create_key, key_file, read_passphrases
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
    parser.add_argument(
        "--offline-passphrase-file",
        type=Path,
        metavar="FILE",
        help="encrypt the root and targets keys with the first line of FILE instead",
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
    passphrases = read_passphrases(filter(None, [arguments.passphrase_file]))
    offline = read_passphrases(filter(None, [arguments.offline_passphrase_file])) or passphrases
    files = create_home(home, next(iter(passphrases), None), next(iter(offline), None))
    print(_next_steps(home, files, arguments))  # noqa: T201
    return 0


def create_home(
    home: Home, passphrase: bytes | None = None, offline_passphrase: bytes | None = None
) -> dict[KeyName, Path]:
    """Make keys and an empty repository in ``home``, and the root file for agents.

    Args:
        home: That is not there yet.
        passphrase: Encrypts the online and trainer keys.
        offline_passphrase: Encrypts the root and targets keys.

    Returns:
        The files of the keys.

    Raises:
        ConfigError: There is one already.
        StorageError: It cannot be written.
    """
    keys = home.keys
    for path in (keys, home.repository, home.root):
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
    signers = {
        name: create_key(keys, name, offline_passphrase if name in OFFLINE else passphrase)
        for name in KeyName
    }
    repository = Repository.create(home.repository, signers, datetime.now(UTC))
    write_whole(home.root, repository.root)
    return {name: keys / key_file(name, signer.public_key.keyid) for name, signer in signers.items()}


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError as error:
        raise storage_error(path, error) from error


def _next_steps(home: Home, files: dict[KeyName, Path], arguments: argparse.Namespace) -> str:
    encryptions = {
        name: arguments.passphrase_file or (name in OFFLINE and arguments.offline_passphrase_file)
        for name in files
    }
    lines = [
        *(
            f"{f'{name} key':<12}{path} ({'encrypted' if encryptions[name] else 'not encrypted'})"
            for name, path in files.items()
        ),
        f"repository  {home.repository}",
        f"trust root  {home.root}",
        "",
    ]
    if arguments.demo:
        lines.append("These keys are for a demonstration only: do not enrol real devices with this root.")
        return "\n".join(lines)
    offline = " and ".join(files[name].name for name in OFFLINE)
    return "\n".join(
        [
            *lines,
            "Next:",
            f"1. Move {offline} to a medium that is offline,",
            "   with a copy elsewhere. Publishing does not need them. Whoever has them decides what all",
            "   devices run; who has lost them must enrol all devices anew.",
            f"2. Enrol each agent: atoll-agent enrol --root {home.root}",
            "3. Publish: atoll-trainer publish --settings trainer.toml MODEL-1.atoll",
        ]
    )
