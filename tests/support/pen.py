"""Metadata signed by hand: what somebody can do who holds some of the keys, or none."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

from securesystemslib.signer import CryptoSigner
from support.releases import Trainer, utc_now
from tuf.api.metadata import Metadata, MetaFile, Root, Snapshot, Targets, Timestamp
from tuf.api.serialization.json import JSONSerializer

from atoll_contract.release import TRAINER_ROLE
from atoll_contract.topics import MetadataTopic
from atoll_trainer.keys import KeyName, KeyRing, create_key
from atoll_trainer.metadata import KEY_OF


class Pen:
    """Begins with the newest metadata of ``trainer``; ``topics`` is what was signed since."""

    def __init__(self, trainer: Trainer) -> None:
        self._folder = trainer.folder / "repository" / "metadata"
        self._keys = trainer.folder / "keys"
        self._contents = {role: self._newest(role) for role in _ROLES}
        self.roles: dict[str, Metadata[Any]] = {
            role: Metadata.from_bytes(content) for role, content in self._contents.items()
        }
        self.topics: dict[str, bytes] = {}

    def key(self, name: KeyName) -> CryptoSigner:
        """One of the trainer's own keys."""
        role = next(role for role, key in KEY_OF.items() if key is name)
        delegator = self.roles[Targets.type if role == TRAINER_ROLE else Root.type].signed
        return KeyRing((self._keys,)).signer(name, delegator.get_delegated_role(role).keyids)

    def sign(
        self,
        role: str,
        signer: CryptoSigner,
        *,
        version: int | None = None,
        expires_in: timedelta = timedelta(days=30),
        change: Callable[[Any], None] = lambda _signed: None,
    ) -> None:
        """Sign the next version of ``role``; snapshot and timestamp speak of what was signed before."""
        metadata = self.roles[role]
        metadata.signed.version = version or metadata.signed.version + 1
        metadata.signed.expires = utc_now().replace(microsecond=0) + expires_in
        if role == Snapshot.type:
            metadata.signed.meta = {f"{part}.json": self._meta(part) for part in (Targets.type, TRAINER_ROLE)}
        elif role == Timestamp.type:
            metadata.signed.snapshot_meta = self._meta(Snapshot.type)
        change(metadata.signed)
        metadata.sign(signer)
        content = self._contents[role] = metadata.to_bytes(JSONSerializer(compact=True))
        self.topics[self.topic(role)] = content
        if role == Root.type:
            self.topics[str(MetadataTopic("root.json"))] = content

    def topic(self, role: str) -> str:
        """Where the newest version of ``role`` is published."""
        name = f"{role}.json" if role == Timestamp.type else f"{self.roles[role].signed.version}.{role}.json"
        return str(MetadataTopic(name))

    def rotate_online_key(self) -> CryptoSigner:
        """Sign a root that trusts a new key for snapshot and timestamp; return that key."""
        old, new = self.key(KeyName.ONLINE), create_key(self._keys, KeyName.ONLINE)

        def swap(root: Root) -> None:
            for role in (Snapshot.type, Timestamp.type):
                root.revoke_key(old.public_key.keyid, role)
                root.add_key(new.public_key, role)

        self.sign(Root.type, self.key(KeyName.ROOT), change=swap)
        return new

    def _newest(self, role: str) -> bytes:
        if role == Timestamp.type:
            return (self._folder / "timestamp.json").read_bytes()
        found = {int(path.name.split(".")[0]): path for path in self._folder.glob(f"*.{role}.json")}
        return found[max(found)].read_bytes()

    def _meta(self, role: str) -> MetaFile:
        return MetaFile.from_data(self.roles[role].signed.version, self._contents[role], ["sha256"])


_ROLES = (Root.type, Targets.type, TRAINER_ROLE, Snapshot.type, Timestamp.type)
