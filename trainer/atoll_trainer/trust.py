"""Who may sign what: new keys in the place of old ones, such that every device follows.

A root is signed by the keys of the root before it and by its own. ``online`` and ``targets`` keys
are replaced over a bridge: first a root that trusts the old key and the new one, then everything
signed by the new one, then a root without the old one. Whatever a device has fetched in between, it
can verify.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from datetime import datetime

from securesystemslib.signer import Key
from tuf.api.metadata import Root, Targets

from atoll_contract.errors import ConfigError
from atoll_contract.release import MAX_ROOTS, TRAINER_ROLE
from atoll_trainer.keys import KeyName, KeyRing
from atoll_trainer.metadata import KEY_OF, SignedMetadata


def roles_of(name: KeyName) -> list[str]:
    """Return the roles that keys of this name sign."""
    return [role for role, key in KEY_OF.items() if key is name]


def trusted(metadata: SignedMetadata, name: KeyName) -> list[str]:
    """Return the ids of the keys of this name that devices trust, newest last."""
    return metadata.quorum(roles_of(name)[0])[0]


def require_keys(metadata: SignedMetadata, ring: KeyRing, names: Collection[KeyName]) -> None:
    """Open the keys of these names, so that nothing is signed when the rest cannot be.

    Raises:
        ConfigError: One is not in ``ring``, or cannot be opened.
    """
    for name in sorted(names, key=[*KeyName].index):
        if name is KeyName.ROOT:
            ring.signers(name, *metadata.quorum(Root.type))
        else:
            ring.signer(name, trusted(metadata, name))


def keys_to_replace(metadata: SignedMetadata, name: KeyName) -> set[KeyName]:
    """Return which keys it takes to replace one of this name, and to publish then."""
    above = KeyName.TARGETS if name is KeyName.TRAINER else KeyName.ROOT
    needed = {above, KeyName.TRAINER, KeyName.ONLINE}
    # The one that is replaced may be lost; its successor must be here.
    return needed | {name} if is_rotating(metadata, name) else needed - {name}


def change_root(
    metadata: SignedMetadata, ring: KeyRing, now: datetime, change: Callable[[Root], None]
) -> None:
    """Write the next root with ``change``, signed by the keys of the old root and of the new one.

    Raises:
        ConfigError: Too few of either are in ``ring``, or devices could not follow so many roots.
        StorageError: It cannot be written.
    """
    if metadata.version(Root.type) >= MAX_ROOTS:
        raise ConfigError(
            f"there have been {MAX_ROOTS} roots, and devices enrolled with the first follow no more: make "
            "a new home with atoll-trainer init and enrol all devices anew"
        )
    signers = ring.signers(KeyName.ROOT, *metadata.quorum(Root.type))
    change(metadata.root)
    signers += ring.signers(KeyName.ROOT, *metadata.quorum(Root.type))
    metadata.sign(Root.type, list({signer.public_key.keyid: signer for signer in signers}.values()), now)


def set_root_keys(
    metadata: SignedMetadata,
    ring: KeyRing,
    now: datetime,
    *,
    add: int,
    make_key: Callable[[], Key],
    remove: Sequence[str],
    threshold: int | None,
) -> None:
    """Write the next root with other root keys.

    Args:
        metadata: Of the repository.
        ring: Where root keys are, the new ones among them.
        now: The time.
        add: How many new keys.
        make_key: Makes one; called once the old keys are known to be here.
        remove: Ids of keys that lose their power.
        threshold: How many must sign a root; None: as before.

    Raises:
        ConfigError: The keys left are fewer than must sign, or too few to sign are in ``ring``.
        StorageError: It cannot be written.
    """
    keyids, before = metadata.quorum(Root.type)
    asked = before if threshold is None else threshold
    left = len(keyids) + add - len(remove)
    if not 1 <= asked <= left:
        raise ConfigError(f"{left} root keys of which {asked} must sign: that cannot be")

    def change(root: Root) -> None:
        for _ in range(add):
            root.add_key(make_key(), Root.type)
        for keyid in remove:
            root.revoke_key(keyid, Root.type)
        root.roles[Root.type].threshold = asked

    change_root(metadata, ring, now, change)


def is_rotating(metadata: SignedMetadata, name: KeyName) -> bool:
    """Whether a rotation of this key was interrupted: old and new are trusted, or the new has not signed."""
    roles = roles_of(name)
    return len(trusted(metadata, name)) > 1 or not all(map(metadata.is_signed, roles))


def admit(
    metadata: SignedMetadata, ring: KeyRing, now: datetime, name: KeyName, make_key: Callable[[], Key]
) -> None:
    """Let devices trust a new key beside the old one; it is made once the keys that sign this are here.

    A trainer key takes the place of the old one at once: targets and trainer role change together
    with the timestamp.

    Raises:
        ConfigError: The keys that must sign this are not in ``ring``.
        StorageError: It cannot be written.
    """
    if name is KeyName.TRAINER:
        signer = ring.signer(KeyName.TARGETS, trusted(metadata, KeyName.TARGETS))
        for keyid in trusted(metadata, name):
            metadata.targets.revoke_key(keyid, TRAINER_ROLE)
        metadata.targets.add_key(make_key(), TRAINER_ROLE)
        metadata.sign(Targets.type, [signer], now)
        return

    def change(root: Root) -> None:
        key = make_key()
        for role in roles_of(name):
            root.add_key(key, role)

    change_root(metadata, ring, now, change)


def sign_targets(metadata: SignedMetadata, ring: KeyRing, now: datetime) -> None:
    """Write the next targets metadata, signed by the newest targets key.

    Raises:
        ConfigError: It is not in ``ring``.
        StorageError: It cannot be written.
    """
    signer = ring.signer(KeyName.TARGETS, trusted(metadata, KeyName.TARGETS))
    metadata.sign(Targets.type, [signer], now)


def dismiss(metadata: SignedMetadata, ring: KeyRing, now: datetime, name: KeyName) -> bool:
    """Write the next root without the keys of this name but the newest.

    Returns:
        Whether there were others.

    Raises:
        ConfigError: Too few root keys are in ``ring``.
        StorageError: It cannot be written.
    """
    old = trusted(metadata, name)[:-1]

    def change(root: Root) -> None:
        for role in roles_of(name):
            for keyid in old:
                root.revoke_key(keyid, role)

    if old:
        change_root(metadata, ring, now, change)
    return bool(old)
