"""The release repository on the publisher's disk: ``metadata/`` and ``bundles/{sha256}.atoll``.

Each file is written whole, after those that it speaks of: bundle, trainer role, snapshot, timestamp.
So whatever a crash leaves behind can be loaded, and the next commit completes it.
"""

from __future__ import annotations

import fcntl
import hashlib
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import IO, Final

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Root, Snapshot, TargetFile, Targets, Timestamp

from atoll_contract.errors import ConfigError, StorageError
from atoll_contract.release import TRAINER_ROLE, ReleaseTerms
from atoll_contract.topics import ChunkTopic, MetadataTopic
from atoll_link.files import make_folder, storage_error, write_whole
from atoll_trainer.keys import KeyName
from atoll_trainer.metadata import KEY_OF, SignedMetadata, no_repository, read_file

KEPT_RELEASES: Final = 3
"""Releases of a model that stay available, so that a device can go back."""

_ISSUED: Final = "issued"
"""Signed field of the trainer role: the highest number ever given to a release, by model."""

_LOCK_POLL_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Signers:
    """The keys that publishing needs."""

    trainer: CryptoSigner
    online: CryptoSigner


@dataclass(frozen=True, slots=True)
class Piece:
    """What one topic is to retain: a stretch of a file."""

    topic: str
    path: Path
    offset: int
    size_bytes: int

    def read(self) -> bytes:
        """Return the bytes.

        Raises:
            StorageError: They cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                file.seek(self.offset)
                return file.read(self.size_bytes)
        except OSError as error:
            raise storage_error(self.path, error) from error


@dataclass(frozen=True, slots=True)
class Step:
    """Pieces that must all be out before the next step begins.

    Attributes:
        name: Target whose bundle it is, or the role.
        pieces: In order.
        sha256: Of all pieces together; None for metadata.
    """

    name: str
    pieces: tuple[Piece, ...]
    sha256: str | None = None

    @property
    def is_bundle(self) -> bool:
        """Whether it is a bundle and no metadata."""
        return self.sha256 is not None

    @property
    def path(self) -> Path:
        """The file that the first piece is of; a bundle is one file."""
        return self.pieces[0].path


@dataclass(frozen=True, slots=True)
class Obsolete:
    """A file that nobody needs any more, and the topics that hold it."""

    path: Path
    topics: tuple[str, ...]

    def delete(self) -> None:
        """Delete the file, once its topics are empty.

        Raises:
            StorageError: It cannot be deleted.
        """
        try:
            self.path.unlink(missing_ok=True)
        except OSError as error:
            raise storage_error(self.path, error) from error


class Repository:
    """The repository as it is on disk, with the changes that the next commit will sign."""

    def __init__(self, folder: Path, metadata: SignedMetadata) -> None:
        self._bundles = folder / "bundles"
        self._metadata = metadata
        self._is_changed = False

    @classmethod
    def create(cls, folder: Path, keys: Mapping[KeyName, CryptoSigner], now: datetime) -> Repository:
        """Make a repository without releases in ``folder``, signed by ``keys``.

        Raises:
            StorageError: It cannot be written.
        """
        make_folder(folder / "bundles")
        return cls(folder, SignedMetadata.create(folder / "metadata", keys, now))

    @classmethod
    def load(cls, folder: Path) -> Repository:
        """Return the repository in ``folder``, its signatures checked.

        Raises:
            ConfigError: There is none, or its making was interrupted.
            StorageError: A file cannot be read or is damaged.
        """
        return cls(folder, SignedMetadata.read(folder / "metadata"))

    @classmethod
    @contextmanager
    def locked(cls, folder: Path, *, timeout_s: float = 60.0) -> Iterator[Repository]:
        """Load the repository in ``folder`` and keep other publishers out meanwhile.

        Raises:
            ConfigError: As :meth:`load`.
            StorageError: As :meth:`load`, or another publisher was at work all the time.
        """
        with _open_lock(folder / ".lock") as file:
            deadline = time.monotonic() + timeout_s
            while not _has_locked(file.fileno()):
                if time.monotonic() > deadline:
                    raise StorageError(f"{folder}: another publisher has it locked")
                time.sleep(_LOCK_POLL_S)
            yield cls.load(folder)

    @property
    def root(self) -> bytes:
        """The newest root: the file that agents are given to trust."""
        return self._metadata.path(Root.type).read_bytes()

    def releases(self, model: str) -> list[ReleaseTerms]:
        """Return the terms of the releases of ``model`` that are available, by number."""
        terms = (ReleaseTerms.decode(target.custom) for target in self._metadata.trainer.targets.values())
        return sorted((held for held in terms if held.model == model), key=lambda held: held.release)

    def next_release(self, model: str) -> int:
        """Return the number above all that releases of ``model`` have ever had."""
        issued: dict[str, int] = self._metadata.trainer.unrecognized_fields.get(_ISSUED, {})
        return issued.get(model, 0) + 1

    def offline_expiries(self) -> dict[str, datetime]:
        """Return when the signatures run out that only the offline keys can renew, by role."""
        return {Root.type: self._metadata.root.expires, Targets.type: self._metadata.targets.expires}

    def add(self, terms: ReleaseTerms, bundle: bytes) -> bool:
        """Add a release, or change the terms of one that is there; the next commit signs it.

        Only the last releases of the model stay available.

        Returns:
            Whether anything changed.

        Raises:
            ConfigError: The number belongs to other bytes, or newer ones are out.
            StorageError: The bundle cannot be written.
        """
        sha256 = hashlib.sha256(bundle).hexdigest()
        targets = self._metadata.trainer.targets
        held = targets.get(terms.target)
        free = self.next_release(terms.model)
        if held is not None and held.hashes["sha256"] != sha256:
            raise ConfigError(
                f"release {terms.release} of {terms.model} was given to other bytes; the next free is {free}"
            )
        if held is None and terms.release < free:
            raise ConfigError(
                f"release {terms.release} of {terms.model} is not available any more, or was skipped, and no "
                f"number comes back: bundle it anew; the next free is {free}"
            )
        if held is not None:  # devices may be half-way through its chunks
            chunk_size = ReleaseTerms.decode(held.custom).chunk_size
            terms = terms.model_copy(update={"chunk_size": chunk_size})
        path = self._bundle_path(sha256)
        if not path.exists() or path.read_bytes() != bundle:
            write_whole(path, bundle)
        target = TargetFile(len(bundle), {"sha256": sha256}, terms.target, {"custom": terms.encode()})
        if target == held:
            return False
        targets[terms.target] = target
        for old in self.releases(terms.model)[:-KEPT_RELEASES]:
            del targets[old.target]
        issued = self._metadata.trainer.unrecognized_fields.setdefault(_ISSUED, {})
        issued[terms.model] = max(issued.get(terms.model, 0), terms.release)
        self._is_changed = True
        return True

    def commit(self, signers: Signers, now: datetime) -> bool:
        """Sign and write what changed, what a crash left undone, and what is past half its lifetime.

        Returns:
            Whether anything was signed.

        Raises:
            ConfigError: A key is not the one that devices trust, or an offline signature has expired.
            StorageError: A file cannot be written.
        """
        for role, expires in self.offline_expiries().items():
            if expires <= now:
                raise ConfigError(
                    f"the {role} metadata expired on {expires:%Y-%m-%d}: only its key can renew it"
                )
        keys = {KeyName.TRAINER: signers.trainer, KeyName.ONLINE: signers.online}
        online_roles = (TRAINER_ROLE, Snapshot.type, Timestamp.type)
        for role in online_roles:
            if keys[KEY_OF[role]].public_key.keyid not in self._metadata.keys_of(role):
                raise ConfigError(
                    f"the {KEY_OF[role]} key is not the one that devices trust for {role} metadata"
                )
        has_signed = False
        for role in online_roles:
            is_changed = self._is_changed if role == TRAINER_ROLE else self._metadata.is_stale(role)
            if is_changed or self._metadata.is_due(role, now):
                self._metadata.sign(role, keys[KEY_OF[role]], now)
                has_signed = True
        self._is_changed = False
        return has_signed

    def steps(self) -> list[Step]:
        """Return all that devices need, in the order in which it must be published."""
        # All of them: a device may know the first only. The hint is unauthenticated: it only says up
        # to which number it is worth asking for roots.
        roots = [_metadata_piece(path) for path in self._metadata.files(Root.type)]
        hint = _metadata_piece(self._metadata.path(Root.type), "root.json")
        roles = (TRAINER_ROLE, Targets.type, Snapshot.type, Timestamp.type)
        return [
            *map(self._bundle_step, self._metadata.trainer.targets.values()),
            Step(Root.type, (*roots, hint)),
            *(Step(role, (_metadata_piece(self._metadata.path(role)),)) for role in roles),
        ]

    def obsolete(self, before: datetime) -> list[Obsolete]:
        """Return what nothing current has spoken of since ``before``; roots stay for ever."""
        bundles = {path.stem: path for path in self._bundles.glob("*.atoll")}
        dropped: dict[str, tuple[str, ...]] = {}
        old_roles = self._metadata.superseded(TRAINER_ROLE, before)
        for path in self._metadata.files(TRAINER_ROLE):
            for target in read_file(path).signed.targets.values():
                if path in old_roles:
                    step = self._bundle_step(target)
                    dropped.setdefault(target.hashes["sha256"], tuple(piece.topic for piece in step.pieces))
                else:
                    bundles.pop(target.hashes["sha256"], None)
        # Bundles first: their topics are known from the old roles.
        return [
            *(Obsolete(path, dropped[sha256]) for sha256, path in bundles.items() if sha256 in dropped),
            *(
                Obsolete(path, (str(MetadataTopic(path.name)),))
                for role in (TRAINER_ROLE, Targets.type, Snapshot.type)
                for path in self._metadata.superseded(role, before)
            ),
        ]

    def _bundle_step(self, target: TargetFile) -> Step:
        sha256, size = target.hashes["sha256"], ReleaseTerms.decode(target.custom).chunk_size
        path = self._bundle_path(sha256)
        pieces = tuple(
            Piece(str(ChunkTopic(sha256, number)), path, offset, min(size, target.length - offset))
            for number, offset in enumerate(range(0, target.length, size))
        )
        return Step(target.path, pieces, sha256)

    def _bundle_path(self, sha256: str) -> Path:
        return self._bundles / f"{sha256}.atoll"


def _metadata_piece(path: Path, name: str | None = None) -> Piece:
    return Piece(str(MetadataTopic(name or path.name)), path, 0, path.stat().st_size)


def _open_lock(path: Path) -> IO[str]:
    try:
        return path.open("w")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise no_repository(path.parent) from error
    except OSError as error:
        raise storage_error(path, error) from error


def _has_locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
