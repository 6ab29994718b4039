"""The signing keys: Ed25519, one PEM file each, encrypted when there is a passphrase.

``root`` and ``targets`` say whom devices trust; they are needed to begin, and belong offline from
then on. ``online`` and ``trainer`` sign what is published.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from securesystemslib.signer import CryptoSigner

from atoll_contract.errors import ConfigError
from atoll_link.files import write_whole

_PRIVATE = 0o600


class KeyName(StrEnum):
    """The keys of a repository."""

    ROOT = "root"
    TARGETS = "targets"
    ONLINE = "online"
    TRAINER = "trainer"


OFFLINE = (KeyName.ROOT, KeyName.TARGETS)
"""Keys that publishing does not need."""


def key_path(folder: Path, name: KeyName) -> Path:
    """Return where the key stands."""
    return folder / f"{name}.pem"


def create_key(folder: Path, name: KeyName, passphrase: bytes | None = None) -> CryptoSigner:
    """Make a key, write it to ``folder`` and return its signer.

    Raises:
        StorageError: It cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    encryption = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    write_whole(key_path(folder, name), pem, _PRIVATE)
    return CryptoSigner(key)


def read_key(folder: Path, name: KeyName, passphrase: bytes | None = None) -> CryptoSigner:
    """Return the signer of the key in ``folder``.

    Raises:
        ConfigError: It is missing, no Ed25519 key, or the passphrase does not fit.
    """
    path = key_path(folder, name)
    try:
        pem = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: the {name} key cannot be read: {error.strerror}") from error
    try:
        key = load_pem_private_key(pem, passphrase)
    except TypeError as error:  # a passphrase is there and not needed, or the other way round
        hint = (
            "needs --passphrase-file" if passphrase is None else "is not encrypted: no passphrase is needed"
        )
        raise ConfigError(f"{path}: the {name} key {hint}") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        what = "no private key" if passphrase is None else "no private key, or not with this passphrase"
        raise ConfigError(f"{path}: {what}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigError(f"{path}: not an Ed25519 key")
    return CryptoSigner(key)


def read_passphrase(path: Path | None) -> bytes | None:
    """Return the first line of ``path``, or None without one.

    Raises:
        ConfigError: It cannot be read or is empty.
    """
    if path is None:
        return None
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"{path}: the passphrase cannot be read: {error.strerror}") from error
    if not lines or not lines[0]:
        raise ConfigError(f"{path}: the passphrase is empty")
    return lines[0]
