"""Which topic is to hold which stretch of which file of a repository, and in what order."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from tuf.api.metadata import Root, Snapshot, TargetFile, Targets, Timestamp

from atoll_contract.release import TRAINER_ROLE, ReleaseTerms
from atoll_contract.topics import ChunkTopic, MetadataTopic
from atoll_link.files import storage_error
from atoll_trainer.metadata import SignedMetadata, read_file


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


def steps(metadata: SignedMetadata, bundles: Path) -> list[Step]:
    """Return all that devices need, in the order in which it must be published."""
    # All of them: a device may know the first only. The hint is unauthenticated: it only says up
    # to which number it is worth asking for roots.
    roots = [_metadata_piece(path) for path in metadata.files(Root.type)]
    hint = _metadata_piece(metadata.path(Root.type), "root.json")
    roles = (TRAINER_ROLE, Targets.type, Snapshot.type, Timestamp.type)
    return [
        *(_bundle_step(target, bundles) for target in metadata.trainer.targets.values()),
        Step(Root.type, (*roots, hint)),
        *(Step(role, (_metadata_piece(metadata.path(role)),)) for role in roles),
    ]


def obsolete(metadata: SignedMetadata, folder: Path, before: datetime) -> list[Obsolete]:
    """Return what nothing current has spoken of since ``before``; roots stay for ever.

    Args:
        metadata: The newest.
        folder: Of the bundles.
        before: Until then a device may have begun to fetch.
    """
    bundles = {path.stem: path for path in folder.glob("*.atoll")}
    dropped: dict[str, tuple[str, ...]] = {}
    old_roles = metadata.superseded(TRAINER_ROLE, before)
    for path in metadata.files(TRAINER_ROLE):
        for target in read_file(path).signed.targets.values():
            if path in old_roles:
                step = _bundle_step(target, folder)
                dropped.setdefault(target.hashes["sha256"], tuple(piece.topic for piece in step.pieces))
            else:
                bundles.pop(target.hashes["sha256"], None)
    # Bundles first: their topics are known from the old roles.
    return [
        *(Obsolete(path, dropped[sha256]) for sha256, path in bundles.items() if sha256 in dropped),
        *(
            Obsolete(path, (str(MetadataTopic(path.name)),))
            for role in (TRAINER_ROLE, Targets.type, Snapshot.type)
            for path in metadata.superseded(role, before)
        ),
    ]


def bundle_path(folder: Path, sha256: str) -> Path:
    """Return the file of a bundle in ``folder``."""
    return folder / f"{sha256}.atoll"


def _bundle_step(target: TargetFile, folder: Path) -> Step:
    sha256, size = target.hashes["sha256"], ReleaseTerms.decode(target.custom).chunk_size
    path = bundle_path(folder, sha256)
    pieces = tuple(
        Piece(str(ChunkTopic(sha256, number)), path, offset, min(size, target.length - offset))
        for number, offset in enumerate(range(0, target.length, size))
    )
    return Step(target.path, pieces, sha256)


def _metadata_piece(path: Path, name: str | None = None) -> Piece:
    return Piece(str(MetadataTopic(name or path.name)), path, 0, path.stat().st_size)
