"""``atoll-trainer keys``: what keys there are, new ones for old, and longer validity."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import structlog
from securesystemslib.signer import Key
from tuf.api.metadata import Root, Targets

from atoll_contract.errors import ConfigError
from atoll_link.command_line import add_log_level
from atoll_trainer import trust
from atoll_trainer.commands.options import add_trainer_options, trainer_from
from atoll_trainer.keys import OFFLINE, KeyName, KeyRing, create_key, key_file, read_passphrases
from atoll_trainer.metadata import KEY_OF, LIFETIME, SignedMetadata
from atoll_trainer.publication import Trainer, open_publication
from atoll_trainer.repository import Repository
from atoll_trainer.tables import table

_KEYID_CHARS: Final = 8
_PUBLISHING: Final = (KeyName.TRAINER, KeyName.ONLINE)
_NAMES: Final = "root, targets, online (snapshot and timestamp) or trainer (releases)"

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions of this command."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _action(actions, "list", "what is where, and when each role runs out", _list)
    rotate = _action(actions, "rotate", "put a new key in the place of an old one", _rotate)
    rotate.add_argument("name", choices=[name.value for name in KeyName], metavar="KEY", help=_NAMES)
    rotate.add_argument("--id", metavar="ID", help="which root key, where there are several")
    rotate.add_argument(
        "--stolen",
        action="store_true",
        help="stop trusting the old key at once; devices may refuse what they see for some seconds",
    )
    roots = _action(actions, "root", "add or remove root keys, and say how many must sign", _set_root)
    roots.add_argument("--add", type=int, default=0, metavar="N", help="make so many new keys")
    roots.add_argument("--remove", action="append", default=[], metavar="ID", help="stop trusting this key")
    roots.add_argument("--threshold", type=int, metavar="N", help="so many must sign a root")
    renew = _action(actions, "renew", "sign root or targets anew before they run out", _renew)
    renew.add_argument("roles", nargs="+", choices=[name.value for name in OFFLINE], metavar="ROLE")
    for action in (rotate, roots):
        action.add_argument(
            "--new-passphrase-file",
            type=Path,
            metavar="FILE",
            help="encrypt new keys with its first line (default: as the key that they replace)",
        )
    parser.epilog = (
        f"{parser.epilog}\n"
        "  atoll-trainer keys rotate trainer --settings trainer.toml --keys /media/targets-key\n"
        "  atoll-trainer keys root --add 2 --threshold 2 --settings trainer.toml --keys /media/root-key\n\n"
        "Needed beside the online keys: the targets key to rotate trainer and to renew targets, and as\n"
        "many root keys as must sign for everything else. A new key is written beside the one that it\n"
        "replaces; if that is not here, root and targets keys to the first --keys folder, others to\n"
        "HOME/keys. Run it again after any failure."
    )


def run(arguments: argparse.Namespace) -> int:
    """Do what the action says."""
    perform: Callable[[Trainer, argparse.Namespace], None] = arguments.perform
    trainer = trainer_from(arguments)
    given = read_passphrases(filter(None, [arguments.new_passphrase_file]))
    perform(replace(trainer, ring=trainer.ring.with_passphrases(given)), arguments)
    return 0


@dataclass(frozen=True, slots=True)
class RoleView:
    """One role as it is listed.

    Attributes:
        role: Its name.
        version: Of its metadata.
        expires: When they run out, ISO 8601.
        days_left: Until then.
        threshold: How many of the keys must sign.
        keys: File of each, or its name when it is not here.
    """

    role: str
    version: int
    expires: str
    days_left: int
    threshold: int
    keys: list[str]


def _list(trainer: Trainer, arguments: argparse.Namespace) -> None:
    metadata = Repository.load(trainer.home.repository).metadata
    now = datetime.now(UTC)
    views = [_view(metadata, trainer.ring, role, now) for role in LIFETIME]
    untrusted = sorted(map(str, _untrusted(trainer.ring, metadata)))
    if arguments.json:
        print(json.dumps({"roles": list(map(asdict, views)), "untrusted": untrusted}))  # noqa: T201
        return
    rows = [
        [view.role, view.version, view.expires[:10], view.days_left, view.threshold, key]
        for view in views
        for key in view.keys
    ]
    print(table(["role", "version", "expires", "days left", "must sign", "key"], rows))  # noqa: T201
    for path in untrusted:
        print(f"no device trusts {path} (any more)")  # noqa: T201


def _view(metadata: SignedMetadata, ring: KeyRing, role: str, now: datetime) -> RoleView:
    keyids, threshold = metadata.quorum(role)
    expires = metadata.expires(role)
    return RoleView(
        role=role,
        version=metadata.version(role),
        expires=expires.isoformat(),
        days_left=(expires - now).days,
        threshold=threshold,
        keys=[_found(ring, KEY_OF[role], keyid) for keyid in keyids],
    )


def _rotate(trainer: Trainer, arguments: argparse.Namespace) -> None:
    name = KeyName(arguments.name)
    if name is KeyName.ROOT:
        _replace_root_keys(
            trainer, arguments, 1, lambda trusted: [_root_key_to_replace(trusted, arguments.id)]
        )
        return
    metadata = Repository.load(trainer.home.repository).metadata
    stolen = _suspects(metadata, name) if arguments.stolen else []
    with open_publication(trainer, stolen=stolen) as publication:
        metadata, now = publication.repository.metadata, datetime.now(UTC)
        trust.require_keys(metadata, trainer.ring, trust.keys_to_replace(metadata, name))
        if not trust.is_rotating(metadata, name):
            old = trust.trusted(metadata, name)
            trust.admit(metadata, trainer.ring, now, name, lambda: _new_key(trainer, arguments, name, old))
        if arguments.stolen:
            trust.dismiss(metadata, trainer.ring, now, name)
        if not metadata.is_signed(Targets.type):
            trust.sign_targets(metadata, trainer.ring, now)
        publication.bring_out()
        # Only now: whatever devices have fetched until here, they can verify by the old key or the new.
        if trust.dismiss(metadata, trainer.ring, now, name):
            publication.bring_out()
    _list(trainer, arguments)


def _suspects(metadata: SignedMetadata, name: KeyName) -> list[str]:
    """Return the ids of keys that a thief of this one may have; the online key lies beside it, or near."""
    old = trust.trusted(metadata, name)
    stolen = old[:-1] if trust.is_rotating(metadata, name) else old
    return stolen if name is KeyName.ONLINE else [*stolen, *trust.trusted(metadata, KeyName.ONLINE)]


def _set_root(trainer: Trainer, arguments: argparse.Namespace) -> None:
    _replace_root_keys(
        trainer,
        arguments,
        arguments.add,
        lambda trusted: [_only(trusted, keyid) for keyid in arguments.remove],
        arguments.threshold,
    )


def _replace_root_keys(
    trainer: Trainer,
    arguments: argparse.Namespace,
    add: int,
    choose: Callable[[Sequence[str]], list[str]],
    threshold: int | None = None,
) -> None:
    """Sign a root with other root keys, unless that was done and only has to be brought out still.

    Args:
        trainer: Who publishes.
        arguments: Of the command.
        add: How many new keys.
        choose: Returns those of the trusted keys that are trusted no more.
        threshold: How many must sign a root; None: as before.
    """
    with open_publication(trainer) as publication:
        metadata = publication.repository.metadata
        if not publication.is_root_out and _has_root_keys(metadata, add, choose, threshold):
            print("the new root was signed already, and is brought out now", file=sys.stderr)  # noqa: T201
        else:
            remove = choose(trust.trusted(metadata, KeyName.ROOT))
            trust.require_keys(metadata, trainer.ring, (KeyName.ROOT, *_PUBLISHING))
            beside = [*trust.trusted(metadata, KeyName.ROOT), *remove]
            trust.set_root_keys(
                metadata,
                trainer.ring,
                datetime.now(UTC),
                add=add,
                make_key=lambda: _new_key(trainer, arguments, KeyName.ROOT, beside),
                remove=remove,
                threshold=threshold,
            )
        publication.bring_out()
    _list(trainer, arguments)


def _has_root_keys(
    metadata: SignedMetadata, add: int, choose: Callable[[Sequence[str]], list[str]], threshold: int | None
) -> bool:
    """Whether the newest root differs from the one before it by what is asked for."""
    before = metadata.root_quorum_before()
    if before is None:
        return False
    try:
        remove = choose(before[0])
    except ConfigError:  # another command was interrupted
        return False
    keyids, must_sign = metadata.quorum(Root.type)
    gone, new = set(before[0]) - set(keyids), set(keyids) - set(before[0])
    return gone == set(remove) and len(new) == add and must_sign == (threshold or before[1])


def _renew(trainer: Trainer, arguments: argparse.Namespace) -> None:
    with open_publication(trainer) as publication:
        metadata, now = publication.repository.metadata, datetime.now(UTC)
        trust.require_keys(metadata, trainer.ring, (*map(KeyName, arguments.roles), *_PUBLISHING))
        if Root.type in arguments.roles:
            trust.change_root(metadata, trainer.ring, now, lambda _root: None)
        if Targets.type in arguments.roles:
            trust.sign_targets(metadata, trainer.ring, now)
        publication.bring_out()
    _list(trainer, arguments)


def _new_key(trainer: Trainer, arguments: argparse.Namespace, name: KeyName, replaced: Sequence[str]) -> Key:
    """Make a key beside the last of ``replaced`` that is here, and encrypt it like that one."""
    ring = trainer.ring
    old = next((path for keyid in reversed(replaced) if (path := ring.find(name, keyid))), None)
    if old is not None:
        folder = old.parent
    else:
        folder = arguments.keys[0] if name in OFFLINE and arguments.keys else trainer.home.keys
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder: is the medium there?")
    passphrase = ring.passphrases[-1] if ring.passphrases else None
    if old is not None and arguments.new_passphrase_file is None:
        passphrase = ring.passphrase_of(old)
    key = create_key(folder, name, passphrase).public_key
    file = str(folder / key_file(name, key.keyid))
    _log.info("key.made", key=name.value, file=file, is_encrypted=passphrase is not None)
    return key


def _root_key_to_replace(trusted: Sequence[str], given: str | None) -> str:
    if given is None and len(trusted) > 1:
        ids = ", ".join(keyid[:_KEYID_CHARS] for keyid in trusted)
        raise ConfigError(f"--id: which of the root keys {ids}?")
    return _only(trusted, given or trusted[0])


def _only(keyids: Sequence[str], given: str) -> str:
    found = [keyid for keyid in keyids if keyid.startswith(given)]
    if len(found) != 1:
        ids = ", ".join(keyid[:_KEYID_CHARS] for keyid in keyids)
        raise ConfigError(f"{given!r} is not one of the root keys: {ids}")
    return found[0]


def _found(ring: KeyRing, name: KeyName, keyid: str) -> str:
    path = ring.find(name, keyid)
    return f"{key_file(name, keyid)} (not here)" if path is None else str(path)


def _untrusted(ring: KeyRing, metadata: SignedMetadata) -> list[Path]:
    trusted = {key_file(name, keyid) for name in KeyName for keyid in trust.trusted(metadata, name)}
    return [path for folder in ring.folders for path in folder.glob("*.pem") if path.name not in trusted]


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    perform: Callable[[Trainer, argparse.Namespace], None],
) -> argparse.ArgumentParser:
    action = actions.add_parser(name, help=summary, description=summary)
    action.set_defaults(perform=perform)
    add_log_level(action)
    add_trainer_options(action)
    action.add_argument("--json", action="store_true", help="print the keys as one JSON object")
    action.set_defaults(new_passphrase_file=None)
    return action
