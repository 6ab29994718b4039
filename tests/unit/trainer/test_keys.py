"""The signing keys in their files."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from atoll_contract.errors import ConfigError
from atoll_trainer.keys import KeyName, KeyRing, create_key, key_file, read_passphrases


def test_keys_are_for_their_owner_alone_and_come_back(tmp_path: Path) -> None:
    made = create_key(tmp_path, KeyName.ROOT).public_key

    [path] = tmp_path.iterdir()
    assert path.name == key_file(KeyName.ROOT, made.keyid)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert KeyRing((tmp_path,)).signer(KeyName.ROOT, [made.keyid]).public_key == made


def test_an_encrypted_key_is_opened_by_one_of_the_passphrases(tmp_path: Path) -> None:
    made = create_key(tmp_path, KeyName.ONLINE, b"correct horse").public_key

    assert b"ENCRYPTED" in next(tmp_path.iterdir()).read_bytes()
    ring = KeyRing((tmp_path,), (b"battery staple", b"correct horse"))
    assert ring.signer(KeyName.ONLINE, [made.keyid]).public_key == made
    with pytest.raises(ConfigError, match="not opened by the passphrase given"):
        KeyRing((tmp_path,), (b"battery staple",)).signer(KeyName.ONLINE, [made.keyid])
    with pytest.raises(ConfigError, match="encrypted: --passphrase-file"):
        KeyRing((tmp_path,)).signer(KeyName.ONLINE, [made.keyid])


def test_a_key_without_encryption_needs_no_passphrase(tmp_path: Path) -> None:
    made = create_key(tmp_path, KeyName.ONLINE).public_key

    assert KeyRing((tmp_path,), (b"another's",)).signer(KeyName.ONLINE, [made.keyid]).public_key == made


def test_keys_are_looked_for_in_every_folder(tmp_path: Path) -> None:
    folders = (tmp_path / "here", tmp_path / "not plugged in", tmp_path / "medium")
    for folder in (folders[0], folders[2]):
        folder.mkdir()
    keys = [create_key(folder, KeyName.ROOT).public_key for folder in (folders[0], folders[2])]
    keyids = [key.keyid for key in keys]

    found = KeyRing(folders).signers(KeyName.ROOT, keyids, 2)

    assert [signer.public_key for signer in found] == keys


def test_a_missing_key_is_named_with_the_places_that_were_looked_at(tmp_path: Path) -> None:
    here = create_key(tmp_path, KeyName.ROOT).public_key.keyid
    ring = KeyRing((tmp_path, tmp_path / "medium"))

    with pytest.raises(ConfigError) as one:
        ring.signer(KeyName.TARGETS, ["ab" * 32])
    with pytest.raises(ConfigError) as some:
        ring.signers(KeyName.ROOT, [here, "ab" * 32, "cd" * 32], 2)

    places = f"not found in {tmp_path}, {tmp_path / 'medium'}; say where it is: --keys DIR"
    assert str(one.value) == f"the targets key is needed: targets-abababab.pem {places}"
    assert str(some.value) == (f"the root key is needed: 1 of root-abababab.pem, root-cdcdcdcd.pem {places}")


def test_a_file_that_holds_another_key_than_its_name_says_is_refused(tmp_path: Path) -> None:
    create_key(tmp_path, KeyName.TRAINER)
    [path] = tmp_path.iterdir()
    path.rename(tmp_path / key_file(KeyName.TRAINER, "ab" * 32))

    with pytest.raises(ConfigError, match="another key than its name says"):
        KeyRing((tmp_path,)).signer(KeyName.TRAINER, ["ab" * 32])


@pytest.mark.parametrize(
    "content", [b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"]
)
def test_what_is_no_key_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / key_file(KeyName.TRAINER, "ab" * 32)
    path.write_bytes(content)

    with pytest.raises(ConfigError, match=re.escape(f"{path}: no private key")):
        KeyRing((tmp_path,)).signer(KeyName.TRAINER, ["ab" * 32])


def test_a_passphrase_is_the_first_line_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "passphrase"
    path.write_bytes(b"correct horse \r\nsecond line\n")

    assert read_passphrases([path]) == (b"correct horse ",)
    assert read_passphrases([]) == ()
    path.write_bytes(b"\n")
    for bad in (path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError):
            read_passphrases([bad])
