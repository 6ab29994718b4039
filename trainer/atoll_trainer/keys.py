"""The signing keys: Ed25519, one PEM file each, encrypted when there is a passphrase.

``root`` and ``targets`` say whom devices trust; they are needed to begin, and belong offline from
then on. ``online`` and ``trainer`` sign what is published. A file is named after its key's id, so
that a new key never takes the place of one that devices may still trust.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
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
    """The kinds of keys of a repository."""

    ROOT = "root"
    TARGETS = "targets"
    ONLINE = "online"
    TRAINER = "trainer"


OFFLINE = (KeyName.ROOT, KeyName.TARGETS)
"""Keys that publishing does not need."""


def key_file(name: KeyName, keyid: str) -> str:
    """Return the name of a key's file.

    >>> key_file(KeyName.ROOT, "c0ffee1234567890")
    'root-c0ffee12.pem'
    """
    return f"{name}-{keyid[:8]}.pem"


def create_key(folder: Path, name: KeyName, passphrase: bytes | None = None) -> CryptoSigner:
    """Make a key, write it to ``folder`` and return its signer.

    Raises:
        StorageError: It cannot be written.
    """
    key = Ed25519PrivateKey.generate()
    signer = CryptoSigner(key)
    encryption = NoEncryption() if passphrase is None else BestAvailableEncryption(passphrase)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    write_whole(folder / key_file(name, signer.public_key.keyid), pem, _PRIVATE)
    return signer


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Where keys are looked for, and what opens them.

    Attributes:
        folders: In this order; a medium that is not plugged in holds none.
        passphrases: Each is tried on each key that is encrypted.
    """

    folders: tuple[Path, ...]
    passphrases: tuple[bytes, ...] = ()

    def with_passphrases(self, more: Iterable[bytes]) -> KeyRing:
        """Return this ring with more passphrases behind its own."""
        return KeyRing(self.folders, (*self.passphrases, *more))

    def find(self, name: KeyName, keyid: str) -> Path | None:
        """Return the file of a key, None when it is in none of the folders."""
        paths = (folder / key_file(name, keyid) for folder in self.folders)
        return next((path for path in paths if path.is_file()), None)

    def signer(self, name: KeyName, keyids: Sequence[str]) -> CryptoSigner:
        """Return the signer of the newest of the keys ``keyids``, which is the last.

        Raises:
            ConfigError: As :meth:`signers`.
        """
        return self.signers(name, keyids[-1:], 1)[0]

    def signers(self, name: KeyName, keyids: Sequence[str], threshold: int) -> list[CryptoSigner]:
        """Return the signers of all of the keys ``keyids`` that are here.

        Raises:
            ConfigError: Fewer than ``threshold`` are here, or one cannot be opened.
        """
        found = {keyid: path for keyid in keyids if (path := self.find(name, keyid)) is not None}
        if len(found) < threshold:
            missing = ", ".join(key_file(name, keyid) for keyid in keyids if keyid not in found)
            count = f"{threshold - len(found)} of " if len(keyids) > threshold else ""
            raise ConfigError(
                f"the {name} key is needed: {count}{missing} not found in "
                f"{', '.join(map(str, self.folders))}; say where it is: --keys DIR"
            )
        return [self._open(path, keyid) for keyid, path in found.items()]

    def passphrase_of(self, path: Path) -> bytes | None:
        """Return what opens the key in ``path``; None when it is not encrypted.

        Raises:
            ConfigError: Nothing does, or it is no key.
        """
        return self._decrypted(path)[1]

    def _open(self, path: Path, keyid: str) -> CryptoSigner:
        signer = CryptoSigner(self._decrypted(path)[0])
        if signer.public_key.keyid != keyid:
            raise ConfigError(f"{path}: holds another key than its name says")
        return signer

    def _decrypted(self, path: Path) -> tuple[Ed25519PrivateKey, bytes | None]:
        passphrase: bytes | None = None
        try:
            pem = path.read_bytes()
            key = load_pem_private_key(pem, None)
        except OSError as error:
            raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
        except TypeError:  # it is encrypted
            key, passphrase = self._unlocked(path, pem)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise ConfigError(f"{path}: no private key") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise ConfigError(f"{path}: not an Ed25519 key")
        return key, passphrase

    def _unlocked(self, path: Path, pem: bytes) -> tuple[PrivateKeyTypes, bytes]:
        for passphrase in self.passphrases:
            try:
                return load_pem_private_key(pem, passphrase), passphrase
            except (ValueError, UnsupportedAlgorithm):  # another passphrase, or damaged
                continue
        hint = "not opened by the passphrase given" if self.passphrases else "encrypted"
        raise ConfigError(f"{path}: {hint}: --passphrase-file FILE")


def read_passphrases(paths: Iterable[Path]) -> tuple[bytes, ...]:
    """Return the first line of each of ``paths``.

    Raises:
        ConfigError: One cannot be read or is empty.
    """
    return tuple(map(_read_passphrase, paths))


def _read_passphrase(path: Path) -> bytes:
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise ConfigError(f"{path}: the passphrase cannot be read: {error.strerror}") from error
    if not lines or not lines[0]:
        raise ConfigError(f"{path}: the passphrase is empty")
    return lines[0]
