"""Agent and recorder as services, told apart from dead ones; and the files that make them services."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.agents import AgentProcess, TrainerHome, command

from atoll_link.exits import Exit
from atoll_link.systemd import Notifier
from atoll_sim.demo.ports import free_port

ROOT = Path(__file__).parents[2]
SERVICES = sorted((ROOT / "systemd").glob("*.service"))


@contextmanager
def manager(folder, address="notify"):
    """A socket where a service tells its states, as systemd has one."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        path = str(folder / address)
        sock.bind(path)
        sock.settimeout(30)
        yield Manager(sock, path)


class Manager:
    def __init__(self, sock, path):
        self._sock = sock
        self.environment = {"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "2000000"}

    def wait(self, state):
        """Wait until the service tells ``state``."""
        while state not in self._sock.recv(4096).decode().split("\n"):
            pass


def test_the_agent_tells_that_it_is_ready_that_it_goes_on_and_that_it_stops(tmp_path):
    home = TrainerHome(tmp_path / "trainer", free_port())
    agent = AgentProcess(tmp_path / "agent", free_port(), home.home / "root.json")
    alive = tmp_path / "alive"
    with manager(tmp_path) as told:
        agent.start(ATOLL_AGENT__ALIVE_FILE=str(alive), **told.environment)
        try:
            told.wait("READY=1")
            # There is no broker: that is no reason to be taken for dead.
            for _ in range(4):
                told.wait("WATCHDOG=1")
            agent.process.terminate()
            told.wait("STOPPING=1")
            assert agent.process.wait(20) == 0
        finally:
            agent.close()
    assert alive.exists()


def test_the_recorder_tells_the_same(tmp_path):
    pytest.importorskip("pyarrow")
    settings = tmp_path / "trainer.toml"
    settings.write_text(
        f'[trainer]\nsite = "site"\nalive_file = "alive"\n'
        f'[broker]\nhost = "127.0.0.1"\nport = {free_port()}\n'
        '[[stream]]\nname = "press"\nvalues.x = {}\n'
    )
    with manager(tmp_path) as told:
        process = subprocess.Popen(
            command("atoll-trainer", "record", "--settings", str(settings), "--home", str(tmp_path / "home")),
            env={**os.environ, **told.environment},
        )
        try:
            told.wait("READY=1")
            told.wait("WATCHDOG=1")
            told.wait("WATCHDOG=1")
            process.terminate()
            told.wait("STOPPING=1")
            process.wait(20)
        finally:
            process.kill()
            process.wait()
    assert (tmp_path / "alive").exists()


def test_beats_are_sent_no_more_often_than_the_watchdog_needs(tmp_path):
    with manager(tmp_path) as told:
        service = Notifier({**told.environment, "WATCHDOG_USEC": "3600000000"})
        for _ in range(3):
            service.beat()
        service.tell(STATUS="over")

        told.wait("WATCHDOG=1")
        assert told._sock.recv(4096) == b"STATUS=over"


@pytest.mark.parametrize(
    "environment",
    [
        {"WATCHDOG_USEC": "2000000"},
        {"NOTIFY_SOCKET": "/x"},
        {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"},
        {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "soon"},
        {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "0"},
    ],
)
def test_no_watchdog_waits_for_us(environment):
    assert Notifier(environment).watchdog_s is None


def test_a_watchdog_waits_for_us():
    environment = {"NOTIFY_SOCKET": "/x", "WATCHDOG_USEC": "2500000", "WATCHDOG_PID": str(os.getpid())}

    assert Notifier(environment).watchdog_s == pytest.approx(2.5)


@pytest.fixture
def analyze():
    path = shutil.which("systemd-analyze")
    if path is None:
        pytest.skip("systemd-analyze is not installed (apt install systemd)")

    def run(*arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [path, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
        )

    return run


def test_systemd_has_nothing_to_say_about_units(analyze, tmp_path):
    # `verify` ends with 0 also for keys that it does not know: what it says counts.
    units = [*SERVICES, *sorted((ROOT / "systemd").glob("*.timer"))]
    ended = analyze("verify", "--man=no", *units)
    broken = tmp_path / "broken.service"
    broken.write_text(SERVICES[0].read_text().replace("WatchdogSec=", "WatchdogSecs="))

    assert (ended.returncode, ended.stderr) == (0, "")
    assert "WatchdogSecs" in analyze("verify", "--man=no", broken).stderr


@pytest.mark.parametrize("service", SERVICES, ids=lambda path: path.name)
def test_a_service_is_exposed_at_2_0_or_less(analyze, service):
    ended = analyze("security", "--offline=true", "--threshold=20", service)

    assert ended.returncode == 0, ended.stdout
    assert "exposure level" in ended.stdout


@pytest.mark.parametrize("name", ["atoll-agent", "atoll-trainer-record", "atoll-trainer-run"])
def test_a_service_starts_again_but_never_hot_and_not_with_wrong_settings(name):
    unit = dict(
        line.split("=", 1)
        for line in (ROOT / "systemd" / f"{name}.service").read_text().splitlines()
        if "=" in line and line[0] != "#"
    )

    assert unit["Type"] == "notify"
    assert unit["Restart"] == "on-failure"
    assert int(unit["RestartSec"]) >= 5
    assert unit["StartLimitIntervalSec"] == "0"  # tried again for ever
    assert unit["RestartPreventExitStatus"] == str(Exit.SETTINGS.value)
    assert int(unit["WatchdogSec"]) >= 60


def test_the_agent_may_ask_whether_the_clock_is_set(analyze):
    """The filter of system calls lets adjtimex(2) through, which the group of services lacks."""
    text = (ROOT / "systemd" / "atoll-agent.service").read_text()

    assert "adjtimex" not in analyze("syscall-filter", "@system-service").stdout
    assert "\nSystemCallFilter=adjtimex\n" in text
    assert "\nProtectClock=" not in text


def test_a_training_that_runs_out_of_memory_does_not_end_the_loop():
    assert "\nOOMPolicy=continue\n" in (ROOT / "systemd" / "atoll-trainer-run.service").read_text()
