"""A Mosquitto of its own for each run."""

from __future__ import annotations

import ipaddress
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from processes import BenchmarkError, Process

from atoll_sim.demo.ports import free_port


@dataclass(frozen=True)
class RunningBroker:
    """Attributes: port without TLS, port with TLS (or 0), the process."""

    port: int
    tls_port: int
    process: Process


def mosquitto_path() -> str:
    """Return the program; Debian keeps it outside of a user's PATH."""
    path = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    if path is None:
        raise BenchmarkError("mosquitto is not installed: apt install mosquitto")
    return path


@contextmanager
def mosquitto(
    folder: Path, *, inflight: int = 0, retained: Path | None = None, certificate: Path | None = None
) -> Iterator[RunningBroker]:
    """Run a Mosquitto whose queue has no bound.

    Args:
        folder: Where configuration, log and retained messages are; exists.
        inflight: ``max_inflight_messages``; 0 is no limit.
        retained: A ``mosquitto.db`` with the retained messages to start with.
        certificate: A file with key and certificate: a second listener speaks TLS.
    """
    port = free_port()
    tls_port = free_port() if certificate else 0
    lines = [
        f"listener {port} 127.0.0.1",
        "allow_anonymous true",
        "set_tcp_nodelay true",
        "max_queued_messages 0",
        f"max_inflight_messages {inflight}",
        "persistence true",
        f"persistence_location {folder}/",
        "autosave_interval 0",
        "log_type error",
        "log_type warning",
        "user root",
    ]
    if certificate:
        lines += [f"listener {tls_port} 127.0.0.1", f"certfile {certificate}", f"keyfile {certificate}"]
    (folder / "mosquitto.conf").write_text("\n".join(lines) + "\n")
    if retained:
        shutil.copy(retained, folder / "mosquitto.db")
    with Process([mosquitto_path(), "-c", str(folder / "mosquitto.conf")], folder / "broker.log") as process:
        _wait_until_listening(port, process)
        yield RunningBroker(port, tls_port, process)


def make_certificate(path: Path) -> None:
    """Write key and self-signed certificate of 127.0.0.1 to ``path``."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.IPv4Address("127.0.0.1"))])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    builder = builder.serial_number(x509.random_serial_number()).add_extension(address, critical=False)
    builder = builder.not_valid_before(now - timedelta(days=1)).not_valid_after(now + timedelta(days=2))
    certificate = builder.sign(key, hashes.SHA256())
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(secret + certificate.public_bytes(serialization.Encoding.PEM))


def _wait_until_listening(port: int, process: Process, timeout_s: float = 10.0) -> None:
    deadline = time.monotonic() + timeout_s
    while True:
        process.require_running()
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError as error:
            if time.monotonic() > deadline:
                raise BenchmarkError(f"no broker on port {port} within {timeout_s:g} s") from error
            time.sleep(0.01)
        else:
            return
