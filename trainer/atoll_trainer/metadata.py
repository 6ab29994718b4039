"""The signed metadata of a release repository, one file per role and version.

Consistent-snapshot names of The Update Framework: ``3.root.json``, ``1.targets.json``,
``7.trainer.json``, ``9.snapshot.json``, ``timestamp.json``. The newest version counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Final, cast

from securesystemslib.signer import CryptoSigner
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Role,
    Root,
    Snapshot,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from atoll_contract.errors import ConfigError, DeviceError, Reason, StorageError
from atoll_contract.release import TRAINER_PATHS, TRAINER_ROLE
from atoll_link.files import make_folder, storage_error, write_whole
from atoll_trainer.keys import KeyName

LIFETIME: Final = {
    Root.type: timedelta(days=730),
    Targets.type: timedelta(days=180),
    TRAINER_ROLE: timedelta(days=60),
    Snapshot.type: timedelta(days=60),
    Timestamp.type: timedelta(days=30),
}
"""How long a signature of each role is good for; the order is that in which roles are published."""

_SIGNATURE_BYTES: Final = 256

KEY_OF: Final = {
    Root.type: KeyName.ROOT,
    Targets.type: KeyName.TARGETS,
    TRAINER_ROLE: KeyName.TRAINER,
    Snapshot.type: KeyName.ONLINE,
    Timestamp.type: KeyName.ONLINE,
}
"""Which key signs each role."""


class SignedMetadata:
    """The newest metadata of every role, in memory and in ``folder``."""

    def __init__(self, folder: Path, roles: dict[str, Metadata[Any]]) -> None:
        self._folder = folder
        self._roles = roles

    @classmethod
    def create(cls, folder: Path, keys: Mapping[KeyName, CryptoSigner], now: datetime) -> SignedMetadata:
        """Write the first version of every role to ``folder``: nothing is released yet.

        Raises:
            StorageError: It cannot be written.
        """
        root = Root(consistent_snapshot=True)
        for role, name in KEY_OF.items():
            if role != TRAINER_ROLE:
                root.add_key(keys[name].public_key, role)
        key = keys[KeyName.TRAINER].public_key
        delegated = DelegatedRole(TRAINER_ROLE, [key.keyid], 1, terminating=True, paths=[TRAINER_PATHS])
        delegations = Delegations({key.keyid: key}, {TRAINER_ROLE: delegated})
        metadata = cls(
            folder,
            {
                Root.type: Metadata(root),
                Targets.type: Metadata(Targets(delegations=delegations)),
                TRAINER_ROLE: Metadata(Targets()),
                Snapshot.type: Metadata(Snapshot()),
                Timestamp.type: Metadata(Timestamp()),
            },
        )
        make_folder(folder)
        for role in metadata._roles:
            metadata._write(role, [keys[KEY_OF[role]]], now)
        return metadata

    @classmethod
    def read(cls, folder: Path) -> SignedMetadata:
        """Return the metadata in ``folder``, its signatures checked.

        Raises:
            ConfigError: There is none, or its making was interrupted.
            StorageError: A file cannot be read or is damaged.
        """
        metadata = cls(folder, {role: read_file(_newest(folder, role)) for role in LIFETIME})
        for role in LIFETIME:
            if not (metadata._is_accepted(role) or metadata._was_accepted(role)):
                raise StorageError(
                    f"{metadata.path(role)}: damaged, or signed by a key that was never trusted"
                )
        return metadata

    @property
    def root(self) -> Root:
        """Who may sign what."""
        return cast("Root", self._roles[Root.type].signed)

    @property
    def targets(self) -> Targets:
        """Whom the releases are left to."""
        return cast("Targets", self._roles[Targets.type].signed)

    @property
    def trainer(self) -> Targets:
        """The releases; changes count from the next :meth:`sign` on."""
        return cast("Targets", self._roles[TRAINER_ROLE].signed)

    @property
    def snapshot(self) -> Snapshot:
        """Which versions of targets and trainer belong together."""
        return cast("Snapshot", self._roles[Snapshot.type].signed)

    @property
    def timestamp(self) -> Timestamp:
        """Which snapshot is the newest."""
        return cast("Timestamp", self._roles[Timestamp.type].signed)

    def path(self, role: str) -> Path:
        """Return the file of the newest version of ``role``."""
        name = f"{role}.json" if role == Timestamp.type else f"{self._roles[role].signed.version}.{role}.json"
        return self._folder / name

    def files(self, role: str) -> list[Path]:
        """Return the files of all versions of ``role``, oldest first."""
        return [self._folder / f"{version}.{role}.json" for version in sorted(_versions(self._folder, role))]

    def superseded(self, role: str, before: datetime) -> list[Path]:
        """Return the files of ``role`` whose next version was written before ``before``."""
        pairs = pairwise(self.files(role))
        return [path for path, following in pairs if following.stat().st_mtime < before.timestamp()]

    def delegator_of(self, role: str) -> Root | Targets:
        """Return the metadata that say who may sign ``role``."""
        return self.targets if role == TRAINER_ROLE else self.root

    def quorum(self, role: str) -> tuple[list[str], int]:
        """Return the ids of the keys that devices trust for ``role``, newest last, and how many must sign."""
        delegated: Role = self.delegator_of(role).get_delegated_role(role)
        return list(delegated.keyids), delegated.threshold

    def root_quorum_before(self) -> tuple[list[str], int] | None:
        """Return the same of the root before the newest; None: there is none."""
        *_, before, _newest = [None, *self.files(Root.type)]
        if before is None:
            return None
        role = read_file(before).signed.get_delegated_role(Root.type)
        return list(role.keyids), role.threshold

    def expires(self, role: str) -> datetime:
        """Return when the signature of ``role`` runs out."""
        expires: datetime = self._roles[role].signed.expires
        return expires

    def version(self, role: str) -> int:
        """Return the version of ``role``."""
        version: int = self._roles[role].signed.version
        return version

    def size_bytes(self, role: str) -> int:
        """Return how long ``role`` is, as it is in memory, with one signature."""
        return len(self._roles[role].to_bytes(JSONSerializer(compact=True))) + _SIGNATURE_BYTES

    def is_signed(self, role: str) -> bool:
        """Whether the newest of the keys that devices trust has signed ``role`` as it is here."""
        return self._is_accepted(role) and self.quorum(role)[0][-1] in self._roles[role].signatures

    def is_due(self, role: str, now: datetime) -> bool:
        """Whether the signature of ``role`` is past half its lifetime."""
        return self.expires(role) - now < LIFETIME[role] / 2

    def is_stale(self, role: str) -> bool:
        """Whether snapshot or timestamp (``role``) do not speak of the newest files."""
        if role == Snapshot.type:
            return self.snapshot.meta != self._parts()
        return bool(self.timestamp.snapshot_meta != self._meta(Snapshot.type))

    def require_clock(self, role: str, now: datetime) -> None:
        """Refuse a time at which ``role`` would expire before it does now.

        Raises:
            DeviceError: The clock stands before the last signature.
        """
        if self.is_ahead(role, now):
            is_online = role not in {Root.type, Targets.type}
            remedy = ": atoll-trainer resign --clock-is-right" if is_online else ""
            raise DeviceError(
                f"the clock of this machine says {now:%Y-%m-%d %H:%M}, and the {role} metadata were signed "
                f"after that, until {self.expires(role):%Y-%m-%d %H:%M}: set it; if it is right, it was "
                f"wrong then{remedy}",
                Reason.BAD_TIME,
            )

    def is_ahead(self, role: str, now: datetime) -> bool:
        """Whether ``role`` was signed at a time that is still to come."""
        return now + LIFETIME[role] < self.expires(role)

    def sign(
        self, role: str, signers: Sequence[CryptoSigner], now: datetime, *, is_clock_right: bool = False
    ) -> None:
        """Write the next version of ``role``, signed by all of ``signers``.

        ``is_clock_right``: somebody has looked at the clock, and it may stand before the last signature.

        Raises:
            DeviceError: The clock stands before the last signature.
            StorageError: It cannot be written.
        """
        if not is_clock_right:
            self.require_clock(role, now)
        self._roles[role].signed.version += 1
        self._write(role, signers, now)

    def _write(self, role: str, signers: Sequence[CryptoSigner], now: datetime) -> None:
        if role == Snapshot.type:
            self.snapshot.meta = self._parts()
        elif role == Timestamp.type:
            self.timestamp.snapshot_meta = self._meta(Snapshot.type)
        metadata = self._roles[role]
        metadata.signed.expires = now + LIFETIME[role]
        metadata.signatures.clear()
        for signer in signers:
            metadata.sign(signer, append=True)
        write_whole(self.path(role), metadata.to_bytes(JSONSerializer(compact=True)))

    def _is_accepted(self, role: str) -> bool:
        return _accepts(self.delegator_of(role), role, self._roles[role])

    def _was_accepted(self, role: str) -> bool:
        """Whether keys of another time signed ``role``: new ones have just taken their place."""
        delegator = Targets.type if role == TRAINER_ROLE else Root.type
        earlier = (read_file(path).signed for path in self.files(delegator)[:-1])
        return role != Root.type and any(_accepts(signed, role, self._roles[role]) for signed in earlier)

    def _parts(self) -> dict[str, MetaFile]:
        return {f"{role}.json": self._meta(role) for role in (Targets.type, TRAINER_ROLE)}

    def _meta(self, role: str) -> MetaFile:
        version: int = self._roles[role].signed.version
        return MetaFile.from_data(version, self.path(role).read_bytes(), ["sha256"])


def no_repository(folder: Path) -> ConfigError:
    """Return what to raise when ``folder`` holds no repository."""
    return ConfigError(
        f"{folder}: no release repository, or not all of one: make it with atoll-trainer init, in a home "
        "that is not there yet"
    )


def read_file(path: Path) -> Metadata[Any]:
    """Return the metadata in ``path``; whose they are is not checked.

    Raises:
        ConfigError: It is not there.
        StorageError: It cannot be read.
    """
    try:
        return Metadata.from_bytes(path.read_bytes())
    except FileNotFoundError as error:
        raise no_repository(path.parent.parent) from error
    except OSError as error:
        raise storage_error(path, error) from error
    except RepositoryError as error:
        raise StorageError(f"{path}: damaged: {error}") from error


def _accepts(delegator: Root | Targets, role: str, metadata: Metadata[Any]) -> bool:
    try:
        delegator.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError):
        return False
    return True


def _versions(folder: Path, role: str) -> list[int]:
    pattern = re.compile(rf"([1-9][0-9]*)\.{role}\.json")
    return [int(found[1]) for path in folder.glob("*.json") if (found := pattern.fullmatch(path.name))]


def _newest(folder: Path, role: str) -> Path:
    if role == Timestamp.type:
        return folder / f"{role}.json"
    return folder / f"{max(_versions(folder, role), default=1)}.{role}.json"
