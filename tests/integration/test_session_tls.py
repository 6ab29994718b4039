"""Session over TLS, against Mosquitto with certificates of a test authority."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support import brokers
from support.brokers import RunningBroker
from support.certificates import Authority
from support.sessions import connected, has, of_kind, payloads, step_until

from atoll_contract.errors import ConfigError
from atoll_link.session import Broker, Delivery, Disconnected, Published, Session, wait_connected

pytestmark = pytest.mark.mosquitto


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def tls_lines(authority: Authority, *, mutual: bool) -> list[str]:
    cert_file, key_file = authority.issue("broker")
    for file in (authority.file, cert_file, key_file):
        file.chmod(0o644)
    lines = [f"cafile {authority.file}", f"certfile {cert_file}", f"keyfile {key_file}"]
    return [*lines, "require_certificate true", "use_identity_as_username true"] if mutual else lines


@pytest.fixture
def tls_broker(authority: Authority, tmp_path: Path) -> Iterator[RunningBroker]:
    with brokers.mosquitto(tmp_path / "broker", *tls_lines(authority, mutual=False)) as running:
        yield running


@pytest.fixture
def mutual_broker(authority: Authority, tmp_path: Path) -> Iterator[RunningBroker]:
    with brokers.mosquitto(tmp_path / "broker", *tls_lines(authority, mutual=True)) as running:
        yield running


def first_failure(broker: Broker) -> str:
    session = Session(broker, "reader")
    [failure, *_] = of_kind(Disconnected, step_until(session, has(Disconnected)))
    session.close()
    return failure.detail


def test_messages_large_and_many_go_both_ways_encrypted(
    tls_broker: RunningBroker, authority: Authority
) -> None:
    broker = Broker("127.0.0.1", tls_broker.port, tls=True, ca_file=authority.file)
    expected = [os.urandom(1_000_000), *(b"%d" % number for number in range(5000)), os.urandom(300_000)]
    with connected(broker, "both", "t", max_inflight=200) as session:
        for payload in expected:
            assert session.publish("t", payload, qos=1) is not None
        all_told, all_here = has(Published, 5002), has(Delivery, 5002)
        events = step_until(session, lambda seen: all_told(seen) and all_here(seen), 60.0, step_s=5.0)

    assert payloads(events) == expected


def test_a_message_wakes_an_encrypted_step_at_once(tls_broker: RunningBroker, authority: Authority) -> None:
    broker = Broker("127.0.0.1", tls_broker.port, tls=True, ca_file=authority.file)
    with connected(broker, "reader", "t") as reader, connected(broker, "writer") as writer:
        for size in (1, 16_000, 17_000, 70_000):
            writer.publish("t", b"x" * size)
            step_until(writer, has(Published))
            started = time.monotonic()
            step_until(reader, has(Delivery), step_s=30.0)
            assert time.monotonic() - started < 15


def test_what_is_decrypted_beyond_one_batch_needs_no_more_bytes_to_be_read(
    tls_broker: RunningBroker, authority: Authority
) -> None:
    """A step reads a part; the rest must not wait for a socket that stays silent."""
    broker = Broker("127.0.0.1", tls_broker.port, tls=True, ca_file=authority.file)
    with (
        connected(broker, "reader", "t", qos=0) as reader,
        connected(broker, "writer", max_inflight=1000) as writer,
    ):
        for number in range(2000):
            writer.publish("t", b"%d" % number + b"x" * 1000, qos=1)
        step_until(writer, has(Published, 2000), 30.0)
        started = time.monotonic()
        seen = step_until(reader, has(Delivery, 2000), 30.0, step_s=30.0)

        assert time.monotonic() - started < 25
    assert [payload.rstrip(b"x") for payload in payloads(seen)] == [b"%d" % number for number in range(2000)]


def test_a_stranger_s_certificate_is_refused(tls_broker: RunningBroker, tmp_path: Path) -> None:
    stranger = Authority(tmp_path / "stranger", name="stranger")

    detail = first_failure(Broker("127.0.0.1", tls_broker.port, tls=True, ca_file=stranger.file))

    assert "certificate verify failed" in detail


def test_a_certificate_for_another_address_is_refused(
    tls_broker: RunningBroker, authority: Authority
) -> None:
    detail = first_failure(Broker("127.0.0.2", tls_broker.port, tls=True, ca_file=authority.file))
    assert "refused" in detail  # the broker listens on 127.0.0.1 only

    detail = first_failure(Broker("localhost", tls_broker.port, tls=True, ca_file=authority.file))
    assert "mismatch" in detail


def test_an_encrypted_session_to_a_plain_broker_fails_and_tells(
    mosquitto_broker: RunningBroker, authority: Authority
) -> None:
    broker = Broker("127.0.0.1", mosquitto_broker.port, tls=True, ca_file=authority.file)

    session = Session(broker, "reader", connect_timeout_s=1.0)
    [failure, *_] = of_kind(Disconnected, step_until(session, has(Disconnected)))
    session.close()

    assert not failure.was_connected


def test_a_listener_that_never_shakes_hands_is_given_up(authority: Authority) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        broker = Broker("127.0.0.1", listener.getsockname()[1], tls=True, ca_file=authority.file)
        session = Session(broker, "reader", connect_timeout_s=0.3)

        [failure] = of_kind(Disconnected, step_until(session, has(Disconnected)))
        session.close()

    assert "timed out" in failure.detail


def test_both_sides_show_certificates(mutual_broker: RunningBroker, authority: Authority) -> None:
    cert_file, key_file = authority.issue("pump-7")
    broker = Broker(
        "127.0.0.1",
        mutual_broker.port,
        tls=True,
        ca_file=authority.file,
        cert_file=cert_file,
        key_file=key_file,
    )

    with connected(broker, "pump-7", "t") as session:
        session.publish("t", b"x")
        assert payloads(step_until(session, has(Delivery))) == [b"x"]


def test_without_a_certificate_of_one_s_own_a_mutual_broker_refuses(
    mutual_broker: RunningBroker, authority: Authority
) -> None:
    broker = Broker("127.0.0.1", mutual_broker.port, tls=True, ca_file=authority.file)
    session = Session(broker, "reader")
    [failure, *_] = of_kind(Disconnected, step_until(session, has(Disconnected)))
    session.close()

    assert not failure.was_connected
    assert "certificate required" in failure.detail.lower()


def test_renewed_certificate_files_count_from_the_next_connect_on(
    mutual_broker: RunningBroker, authority: Authority, tmp_path: Path
) -> None:
    stranger = Authority(tmp_path / "stranger", name="stranger")
    cert_file, key_file = stranger.issue("own")
    broker = Broker(
        "127.0.0.1",
        mutual_broker.port,
        tls=True,
        ca_file=authority.file,
        cert_file=cert_file,
        key_file=key_file,
    )
    session = Session(broker, "reader")
    step_until(session, has(Disconnected))
    for ours, theirs in zip(authority.issue("pump-7"), (cert_file, key_file), strict=True):
        shutil.copyfile(ours, theirs)

    wait_connected(session, 20.0)
    session.close()


def test_a_certificate_file_that_vanishes_is_told_and_tried_again(
    tls_broker: RunningBroker, authority: Authority, tmp_path: Path
) -> None:
    ca_file = tmp_path / "ca.pem"
    shutil.copyfile(authority.file, ca_file)
    session = Session(Broker("127.0.0.1", tls_broker.port, tls=True, ca_file=ca_file), "reader")
    ca_file.unlink()

    [failure, *_] = of_kind(Disconnected, step_until(session, has(Disconnected)))
    assert str(ca_file) in failure.detail
    shutil.copyfile(authority.file, ca_file)
    wait_connected(session, 20.0)
    session.close()


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_wrong_tls_files_are_a_fault_of_the_settings(tmp_path: Path, content: str | None) -> None:
    ca_file = tmp_path / "ca.pem"
    if content is not None:
        ca_file.write_text(content)

    with pytest.raises(ConfigError, match=r"broker: cannot read the TLS files .*ca\.pem"):
        Session(Broker("127.0.0.1", 8883, tls=True, ca_file=ca_file), "reader")
