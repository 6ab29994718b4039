"""Broker: how it is shown, and how it reads its secret."""

from __future__ import annotations

from pathlib import Path

import pytest

from atoll_link.broker import Broker


@pytest.mark.parametrize(
    ("broker", "shown"),
    [
        (Broker(), "mqtt://localhost:1883"),
        (Broker("b", 8883, tls=True), "mqtts://b:8883"),
        (Broker("::1"), "mqtt://[::1]:1883"),
    ],
)
def test_a_broker_is_shown_as_its_url(broker: Broker, shown: str) -> None:
    assert str(broker) == shown


def test_neither_form_of_a_broker_shows_the_password(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("s3cret")
    broker = Broker(username="me", password_file=file)

    assert broker.read_password() == "s3cret"
    assert "s3cret" not in repr(broker)
    assert "s3cret" not in str(broker)


@pytest.mark.parametrize(
    ("content", "password"),
    [(b"a\n", "a"), (b"a\r\n", "a"), (b" a b ", " a b "), (b"a\nb\n", "a\nb"), (b"", "")],
)
def test_only_the_line_end_after_the_password_is_cut(tmp_path: Path, content: bytes, password: str) -> None:
    file = tmp_path / "password"
    file.write_bytes(content)

    assert Broker(password_file=file).read_password() == password


def test_a_password_that_is_not_utf8_is_refused_without_showing_any_of_it(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_bytes(b"s3cret\xff")

    with pytest.raises(ValueError, match="is not UTF-8") as caught:
        Broker(password_file=file).read_password()

    assert str(file) in str(caught.value)
    assert "0xff" not in str(caught.value)
    assert caught.value.__suppress_context__


@pytest.mark.parametrize("keepalive_s", [0, -1])
def test_a_keepalive_that_is_off_is_refused(keepalive_s: int) -> None:
    with pytest.raises(ValueError, match="keepalive_s"):
        Broker(keepalive_s=keepalive_s)
