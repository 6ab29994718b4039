"""Real brokers for tests, as processes on a free loopback port."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from atoll_sim.demo.ports import free_port

mostly_mosquitto = pytest.mark.parametrize(
    "any_broker", ["mosquitto", pytest.param("amqtt", marks=pytest.mark.long)], indirect=True
)
"""Both kinds of broker, for tests whose second run takes long and adds little."""


def wait_until_listening(port: int, process: subprocess.Popen[bytes], timeout_s: float = 20.0) -> None:
    """Return once ``port`` accepts connections; fail when ``process`` has ended or time is up."""
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError as error:
            if process.poll() is not None:
                raise AssertionError(f"it ended with {process.returncode}") from error
            if time.monotonic() > deadline:
                raise AssertionError(f"nothing listens on port {port} within {timeout_s} s") from error
            # Pace of the poll; the fact waited for is the open port.
            select_pause()
        else:
            return


def select_pause(seconds: float = 0.02) -> None:
    """Give other processes a moment between two looks at a fact."""
    import select

    select.select([], [], [], seconds)


@dataclass
class RunningBroker:
    """A broker process; ``stop``, ``kill`` and ``start`` it as a test needs."""

    kind: str
    port: int
    command: list[str]
    folder: Path
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def url(self) -> str:
        """Address for --broker."""
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it listens."""
        log = (self.folder / f"{self.kind}.log").open("ab")
        self.process = subprocess.Popen(self.command, stdout=log, stderr=log, cwd=self.folder)
        log.close()
        wait_until_listening(self.port, self.process)

    def stop(self, sig: int = signal.SIGTERM) -> None:
        """End it with ``sig`` and wait for its end."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(sig)
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait(10)
        self.process = None

    def kill(self) -> None:
        """End it with SIGKILL."""
        self.stop(signal.SIGKILL)


def mosquitto_path() -> str | None:
    """Return the Mosquitto broker's program, if it is installed."""
    return shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


def require_mosquitto() -> str:
    """Return the Mosquitto broker's program, or skip the test."""
    path = mosquitto_path()
    if path is None:
        pytest.skip("mosquitto is not installed (apt install mosquitto)")
    return path


@contextmanager
def mosquitto(folder: Path, *lines: str, port: int | None = None) -> Iterator[RunningBroker]:
    """Run a Mosquitto with an unbounded queue and ``lines`` added to its configuration."""
    path = require_mosquitto()
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    config = folder / "mosquitto.conf"
    default_lines = [
        f"listener {port} 127.0.0.1",
        "allow_anonymous true",
        "max_queued_messages 0",
        "set_tcp_nodelay true",
        "user root",
    ]
    config.write_text("\n".join([*default_lines, *lines]) + "\n")
    broker = RunningBroker("mosquitto", port, [path, "-c", str(config)], folder)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()


@contextmanager
def amqtt(folder: Path, port: int | None = None) -> Iterator[RunningBroker]:
    """Run the amqtt broker that the demo embeds."""
    pytest.importorskip("amqtt")
    folder.mkdir(parents=True, exist_ok=True)
    port = port or free_port()
    command = [sys.executable, "-m", "atoll_sim.demo.embedded_broker", str(port)]
    broker = RunningBroker("amqtt", port, command, folder)
    broker.start()
    try:
        yield broker
    finally:
        broker.stop()
