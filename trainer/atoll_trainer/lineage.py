"""Whether what a broker holds belongs to the past of this repository.

Devices never go back: they refuse versions below those that they know, and roots that theirs did not
sign. A repository from an old backup, or a second one, must not be published over the real one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Timestamp

from atoll_contract.errors import ConfigError
from atoll_contract.topics import MetadataTopic
from atoll_link.files import write_whole
from atoll_trainer.metadata import SignedMetadata

_FIRST_ROOT: Final = str(MetadataTopic("1.root.json"))
_NEWEST_ROOT: Final = str(MetadataTopic("root.json"))
_TIMESTAMP: Final = str(MetadataTopic("timestamp.json"))

_MOST_SIGNED_SINCE: Final = 10_000
"""A timer signs fewer timestamps in years; a thief who runs versions up signs more."""


def require_own_past(
    folder: Path,
    fetch: Callable[[Sequence[str]], dict[str, bytes]],
    *,
    may_replace: bool = False,
    stolen: Collection[str] = (),
) -> bool:
    """Refuse to publish the metadata in ``folder`` to a broker that holds anything but their past.

    Topics that are absent or damaged, or that no key of ours signed, are no reason to refuse:
    publishing mends them. Nor is a newer timestamp of ours that speaks of the same snapshot, as a
    timer has signed it after this repository was backed up: it is written to ``folder``.

    Args:
        folder: The metadata of the repository, as it is before it is signed anew.
        fetch: Returns what the broker retains under the topics that it is given.
        may_replace: Whether another repository may be published over.
        stolen: Ids of keys whose signatures say nothing: a thief may have signed with them.

    Returns:
        Whether the broker holds the newest timestamp of this repository, the last topic of a publication.

    Raises:
        ConfigError: The broker holds another repository, or a later state of this one.
        StorageError: A file cannot be read or written, or is damaged.
    """
    ours = SignedMetadata.read(folder)
    held = fetch([_FIRST_ROOT, _NEWEST_ROOT, _TIMESTAMP])
    if _is_foreign(ours, held):
        if may_replace:
            return False
        raise ConfigError(
            f"{folder.parent}: the broker holds the releases of another repository, with another root, whose "
            "devices would refuse these: publish from the home that those were published from (--home), or, "
            "to replace them and enrol all devices anew, give --replace-repository. If there is no other "
            "home, somebody has tampered with the release topics: publish the newest release once more with "
            "--replace-repository, which puts them right, and see who may write there"
        )
    trusted = _without(ours.root, stolen)
    if _is_ahead(ours, Root.type, trusted, held.get(_NEWEST_ROOT, b"")):
        raise ConfigError(
            f"{folder.parent}: the broker holds a root that this repository has not signed (its own is "
            f"version {ours.root.version}): it comes from a backup older than that, and devices would refuse "
            "it; restore a newer one, or make a new home with atoll-trainer init, publish from it with "
            "--replace-repository and enrol all devices anew"
        )
    timestamp = held.get(_TIMESTAMP, b"")
    if _is_ahead(ours, Timestamp.type, trusted, timestamp):
        _adopt(ours, timestamp)
        return True
    return timestamp == ours.path(Timestamp.type).read_bytes()


def _is_foreign(ours: SignedMetadata, held: Mapping[str, bytes]) -> bool:
    """Whether the first root is another one, and nothing beside it is ours: anybody can make a root."""
    first = held.get(_FIRST_ROOT, b"")
    if not _is_root(first) or first == ours.files(Root.type)[0].read_bytes():
        return False
    signed = ((_NEWEST_ROOT, Root.type), (_TIMESTAMP, Timestamp.type))
    return not any(_version_signed_by(ours.root, role, held.get(topic, b"")) for topic, role in signed)


def _is_ahead(ours: SignedMetadata, role: str, trusted: Root, content: bytes) -> bool:
    """Whether ``content`` is signed by ``trusted`` and no past of ours."""
    held, own = _version_signed_by(trusted, role, content), ours.version(role)
    return held > own or (held == own and content != ours.path(role).read_bytes())


def _adopt(ours: SignedMetadata, content: bytes) -> None:
    """Write the timestamp that the broker holds over ours, if it says the same."""
    timestamp = Metadata[Timestamp].from_bytes(content).signed
    own = ours.timestamp
    has_same_snapshot = timestamp.snapshot_meta == own.snapshot_meta
    if not has_same_snapshot or timestamp.version - own.version > _MOST_SIGNED_SINCE:
        path = ours.path(Timestamp.type)
        raise ConfigError(
            f"{path}: the broker holds version {timestamp.version} of it, which this repository did not sign "
            f"(its own is {own.version}): it comes from an old backup, or the online key was stolen; "
            "devices would refuse it. Restore a newer backup, or, where there is none or the key was stolen, "
            "replace the online key: atoll-trainer keys rotate online --stolen --keys DIR. Devices follow, "
            "and see the releases of this repository and no others"
        )
    write_whole(ours.path(Timestamp.type), content)


def _without(root: Root, keyids: Collection[str]) -> Root:
    trusted = Root.from_dict(root.to_dict())
    for role in trusted.roles:
        for keyid in set(keyids) & set(trusted.roles[role].keyids):
            trusted.revoke_key(keyid, role)
    return trusted


def _is_root(content: bytes) -> bool:
    """Whether ``content`` is a root that has signed itself."""
    try:
        metadata = Metadata[Root].from_bytes(content)
        if metadata.signed.type != Root.type:
            return False
        metadata.verify_delegate(Root.type, metadata)
    except (RepositoryError, ValueError):
        return False
    return True


def _version_signed_by(root: Root, role: str, content: bytes) -> int:
    """Return the version in ``content``; 0 unless it is metadata of ``role`` that ``root`` trusts."""
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(content)
        if metadata.signed.type != role:
            return 0
        root.verify_delegate(role, metadata.signed_bytes, metadata.signatures)
    except (RepositoryError, ValueError):
        return 0
    return int(metadata.signed.version)
