"""The signing keys in their files."""

from __future__ import annotations

import re
import stat
from pathlib import Path

import pytest

from atoll_contract.errors import ConfigError
from atoll_trainer.keys import KeyName, create_key, key_path, read_key, read_passphrase


def test_keys_are_for_their_owner_alone_and_come_back(tmp_path: Path) -> None:
    made = create_key(tmp_path, KeyName.ROOT)

    assert stat.S_IMODE(key_path(tmp_path, KeyName.ROOT).stat().st_mode) == 0o600
    assert read_key(tmp_path, KeyName.ROOT).public_key == made.public_key


def test_an_encrypted_key_needs_its_passphrase(tmp_path: Path) -> None:
    made = create_key(tmp_path, KeyName.ONLINE, b"correct horse")

    assert b"ENCRYPTED" in key_path(tmp_path, KeyName.ONLINE).read_bytes()
    assert read_key(tmp_path, KeyName.ONLINE, b"correct horse").public_key == made.public_key
    with pytest.raises(ConfigError, match="not with this passphrase"):
        read_key(tmp_path, KeyName.ONLINE, b"battery staple")
    with pytest.raises(ConfigError, match="passphrase-file"):
        read_key(tmp_path, KeyName.ONLINE)


def test_a_passphrase_too_many_is_told(tmp_path: Path) -> None:
    create_key(tmp_path, KeyName.ONLINE)

    with pytest.raises(ConfigError, match="not encrypted"):
        read_key(tmp_path, KeyName.ONLINE, b"correct horse")


@pytest.mark.parametrize(
    "content", [None, b"", b"no key", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"]
)
def test_what_is_no_key_is_told(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        key_path(tmp_path, KeyName.TRAINER).write_bytes(content)

    with pytest.raises(ConfigError, match=re.escape("trainer.pem")):
        read_key(tmp_path, KeyName.TRAINER)


def test_a_passphrase_is_the_first_line_of_its_file(tmp_path: Path) -> None:
    path = tmp_path / "passphrase"
    path.write_bytes(b"correct horse \r\nsecond line\n")

    assert read_passphrase(path) == b"correct horse "
    assert read_passphrase(None) is None
    path.write_bytes(b"\n")
    for bad in (path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError):
            read_passphrase(bad)
