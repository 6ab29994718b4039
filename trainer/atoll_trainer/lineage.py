"""Whether what a broker holds belongs to the past of this repository.

Devices never go back: they refuse versions below those that they know, and roots that theirs did not
sign. A repository from an old backup, or a second one, must not be published over the real one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, Final

from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata, Root, Timestamp

from atoll_contract.errors import ConfigError
from atoll_contract.topics import MetadataTopic
from atoll_trainer.metadata import SignedMetadata

_FIRST_ROOT: Final = str(MetadataTopic("1.root.json"))
_NEWEST_ROOT: Final = str(MetadataTopic("root.json"))
_TIMESTAMP: Final = str(MetadataTopic("timestamp.json"))


def require_own_past(
    folder: Path,
    fetch: Callable[[Sequence[str]], dict[str, bytes]],
    *,
    may_replace: bool = False,
    stolen: Collection[str] = (),
) -> bool:
    """Refuse to publish the metadata in ``folder`` to a broker that holds anything but their past.

    Topics that are absent or damaged, or that no key of ours signed, are no reason to refuse:
    publishing mends them.

    Args:
        folder: The metadata of the repository, as it is before it is signed anew.
        fetch: Returns what the broker retains under the topics that it is given.
        may_replace: Whether another repository may be published over.
        stolen: Ids of keys whose signatures say nothing: a thief may have signed with them.

    Returns:
        Whether the broker holds the newest timestamp of this repository, the last topic of a publication.

    Raises:
        ConfigError: The broker holds another repository, or a later state of this one.
        StorageError: A file cannot be read or is damaged.
    """
    ours = SignedMetadata.read(folder)
    held = fetch([_FIRST_ROOT, _NEWEST_ROOT, _TIMESTAMP])
    first = _root_in(held.get(_FIRST_ROOT, b""))
    if first is not None and held[_FIRST_ROOT] != ours.files(Root.type)[0].read_bytes():
        if may_replace:
            return False
        raise ConfigError(
            f"{folder.parent}: the broker holds the releases of another repository, with another root, whose "
            "devices would refuse these: publish from the home that those were published from (--home), or, "
            "to replace them and enrol all devices anew, give --replace-repository"
        )
    for topic, role, version in (
        (_NEWEST_ROOT, Root.type, ours.root.version),
        (_TIMESTAMP, Timestamp.type, ours.timestamp.version),
    ):
        content = held.get(topic, b"")
        held_version = _version_signed_by(_without(ours.root, stolen), role, content)
        if held_version > version or (held_version == version and content != ours.path(role).read_bytes()):
            raise ConfigError(
                f"{folder.parent}: the broker holds version {held_version} of the {role} metadata, which "
                f"this repository has not signed (its own is {version}): it comes from an old backup, and "
                "devices would refuse it; restore a newer one, or make a new home with atoll-trainer init, "
                "publish from it with --replace-repository and enrol all devices anew"
            )
    return held.get(_TIMESTAMP) == ours.path(Timestamp.type).read_bytes()


def _without(root: Root, keyids: Collection[str]) -> Root:
    trusted = Root.from_dict(root.to_dict())
    for role in trusted.roles:
        for keyid in set(keyids) & set(trusted.roles[role].keyids):
            trusted.revoke_key(keyid, role)
    return trusted


def _root_in(content: bytes) -> Root | None:
    """Return the root that ``content`` is and that signed itself, if it is one."""
    try:
        metadata = Metadata[Root].from_bytes(content)
        if metadata.signed.type != Root.type:
            return None
        metadata.verify_delegate(Root.type, metadata)
    except (RepositoryError, ValueError):
        return None
    return metadata.signed


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
