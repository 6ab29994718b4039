"""Boots a whole Debian with the package of the agent in it, and does to it what happens: `make test-systemd`.

A debootstrapped system under systemd-nspawn: the package is installed, enrolled and started beside Mosquitto,
takes a release, is looked at by its doctor, is killed, hangs, is given other settings, wrong ones too, is
upgraded, removed and installed again, boots again, and is purged. Needs root, and apt install debootstrap
systemd-container mosquitto.
"""

from __future__ import annotations

import argparse
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from support.agents import SITE, TrainerHome
from support.brokers import select_pause
from support.bundles import make_bundle
from support.feeder import Feeder
from support.spy import Spy

from atoll_sim.demo.ports import free_port

ROOT: Final = Path(__file__).parents[2]
SUITES: Final = {"bookworm": 12, "trixie": 13}
PACKAGES: Final = "systemd,systemd-sysv,dbus,python3,udev,mosquitto,init-system-helpers"
READING: Final = f"atoll/v1/{SITE}/press-1/reading/press"
PATIENCE_S: Final = 120.0
RELEASE_S: Final = 400.0
"""The agent asks, and tries a release, for up to two minutes each, and again where a machine is too busy."""
EXPOSURE: Final = 2.0
SERVICE: Final = "atoll-agent.service"
WATCHDOG: Final = "[Service]\nWatchdogSec=6\nRestartSec=1\n"


class Machine:
    """A Debian that has booted, with the network of this machine."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._pid = self._init = 0
        self.booted_s = 0.0

    def __enter__(self) -> Self:
        self.booted_s = time.monotonic()
        self._pid, terminal = pty.fork()
        if self._pid == 0:
            os.environ["SYSTEMD_NSPAWN_UNIFIED_HIERARCHY"] = "1"
            words = ["systemd-nspawn", "-q", "-D", str(self._root), "--boot", "--register=no", "--keep-unit"]
            words += ["--console=interactive", "--capability=all", "--system-call-filter=bpf"]
            os.execvp(words[0], words)
        threading.Thread(target=_drain, args=(terminal,), daemon=True).start()
        try:
            wait_for(self._is_up, "the system to be up")
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None:  # why, as far as the service knows
                print(self._log(), file=sys.stderr, flush=True)
        finally:
            self._end()

    def _end(self) -> None:
        with suppress(ProcessLookupError):
            os.kill(self._pid, signal.SIGTERM)  # an orderly shutdown
        for _ in range(300):
            if os.waitpid(self._pid, os.WNOHANG)[0]:
                return
            select_pause(0.1)
        os.kill(self._pid, signal.SIGKILL)
        os.waitpid(self._pid, 0)

    def run(self, *words: str, is_needed: bool = True) -> str:
        """Run a command within; return what it printed."""
        ended = subprocess.run(
            ["nsenter", "-t", str(self._init), "-a", *words],
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
        )
        if is_needed and ended.returncode:
            raise RuntimeError(f"{words}: {ended.returncode}\n{ended.stdout}{ended.stderr}")
        return ended.stdout.strip()

    def _log(self) -> str:
        words = ("journalctl", "-u", SERVICE, "-n", "60", "--no-pager", "-o", "short-precise")
        return self.run(*words, is_needed=False)

    def show(self, name: str) -> str:
        """Return a property of the service."""
        return self.run("systemctl", "show", "--value", "-p", name, SERVICE)

    def said(self, text: str) -> bool:
        """Whether this stands in the journal of the service, or of systemd about it."""
        return text in self.run("journalctl", "-u", SERVICE, "--no-pager", "-o", "cat")

    def _is_up(self) -> bool:
        children = Path(f"/proc/{self._pid}/task/{self._pid}/children")
        found = children.read_text().split() if children.exists() else []
        if not found:
            return False
        self._init = int(found[0])
        return self.run("systemctl", "is-system-running", is_needed=False) in {"running", "degraded"}


class Trial:
    """Does one thing after the other, each with what must come of it."""

    def __init__(self, folder: Path, root: Path, package: Path) -> None:
        self.folder, self.root, self.package = folder, root, package
        self.port = free_port()
        self.trainer = TrainerHome(folder / "trainer", self.port)
        self.times_s: dict[str, float] = {}
        put(
            root / "etc/mosquitto/conf.d/atoll.conf",
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n",
        )

    def install(self, machine: Machine) -> None:
        machine.run("dpkg", "-i", self.put_package(self.package))
        assert machine.show("ActiveState") == "inactive", "it must not start before it is enrolled"
        put(self.root / "etc/atoll/agent.toml", self.settings(), 0o640)
        machine.run("chgrp", "atoll", "/etc/atoll/agent.toml")
        put(self.root / "etc/credstore/broker-password", "correct-horse\n", 0o600)
        shutil.copy(self.trainer.home / "root.json", self.root / "srv/root.json")
        told = machine.run("atoll-agent", "check", "--settings", "/etc/atoll/agent.toml", is_needed=False)
        assert "not enrolled" in told, told
        machine.run("atoll-agent", "enrol", "--root", "/srv/root.json")
        machine.run("systemctl", "start", SERVICE)
        assert machine.show("User") == "atoll"
        assert machine.show("UnitFileState") == "enabled", "it must start with the system, too"

    def settings(self, interval_s: float = 0.5) -> str:
        return (
            f'[agent]\nid = "pi"\nsite = "{SITE}"\nstatus_interval_s = {interval_s}\nclock = "trusted"\n'
            f'[broker]\nhost = "127.0.0.1"\nport = {self.port}\nkeepalive_s = 5\n'
            f'password_file = "/run/credentials/{SERVICE}/broker-password"\n'
            '[[stream]]\nname = "press"\nvalues = { x = {} }\n[[model]]\nname = "wear"\nstream = "press"\n'
        )

    def release(self, spy: Spy, number: int) -> None:
        self.trainer.publish(make_bundle(release=number, file=("linear_float", "triple_float")[number % 2]))
        spy.wait(
            lambda: any(f'"release":{number},'.encode() in one.payload for one in spy.on("/prediction/")),
            f"a prediction of release {number}",
            RELEASE_S,
        )

    def ask_doctor(self, machine: Machine) -> None:
        words = ("runuser", "-u", "atoll", "--", "atoll-agent", "doctor")
        machine.run(*words, "--settings", "/etc/atoll/agent.toml")

    def kill(self, machine: Machine, spy: Spy) -> None:
        before = int(machine.show("NRestarts"))
        machine.run("systemctl", "kill", "-s", "KILL", SERVICE)
        wait_for(lambda: int(machine.show("NRestarts")) > before, "a restart after the kill")
        self.answers(spy)

    def hang(self, machine: Machine, spy: Spy) -> None:
        """With a shorter patience than the unit has: nobody wants to wait for two minutes."""
        put(self.root / f"etc/systemd/system/{SERVICE}.d/patience.conf", WATCHDOG)
        machine.run("systemctl", "daemon-reload")
        machine.run("systemctl", "restart", SERVICE)
        self.answers(spy)
        machine.run("systemctl", "kill", "-s", "STOP", "--kill-whom=main", SERVICE)
        wait_for(lambda: machine.said("Watchdog timeout"), "the watchdog to notice")
        self.answers(spy)

    def reload(self, machine: Machine) -> None:
        pid = machine.show("MainPID")
        put(self.root / "etc/atoll/agent.toml", self.settings(interval_s=0.4), 0o640)
        machine.run("systemctl", "reload", SERVICE)
        wait_for(lambda: machine.said("settings.reloaded"), "the settings to be taken")
        put(self.root / "etc/atoll/agent.toml", "[agent]\nid = 1\n", 0o640)
        machine.run("systemctl", "reload", SERVICE, is_needed=False)
        wait_for(lambda: machine.said("settings.refused"), "wrong settings to be refused")
        assert machine.show("MainPID") == pid, "a reload must not restart it"

    def wrong_settings(self, machine: Machine, spy: Spy) -> None:
        """Those of the reload still stand there: a start with them ends for good."""
        before = machine.show("NRestarts")
        machine.run("systemctl", "restart", SERVICE, is_needed=False)
        wait_for(lambda: machine.show("ActiveState") == "failed", "the service to have failed")
        assert machine.show("ExecMainStatus") == "78"
        assert machine.show("NRestarts") == before or machine.show("NRestarts") == "0"
        put(self.root / "etc/atoll/agent.toml", self.settings(), 0o640)
        machine.run("systemctl", "start", SERVICE)
        self.answers(spy)

    def upgrade(self, machine: Machine, spy: Spy) -> None:
        token = (self.root / "var/lib/atoll/token").read_bytes()
        settings = (self.root / "etc/atoll/agent.toml").read_bytes()
        pid = machine.show("MainPID")
        machine.run("dpkg", "-i", self.put_package(self.folder / "higher.deb"))
        assert (self.root / "var/lib/atoll/token").read_bytes() == token
        assert (self.root / "etc/atoll/agent.toml").read_bytes() == settings
        assert machine.show("MainPID") not in {pid, "0"}, "an upgrade must restart it"
        self.answers(spy)

    def remove(self, machine: Machine, spy: Spy) -> None:
        """Removed and installed again, as it was: token and settings are still there."""
        machine.run("dpkg", "--remove", "atoll-agent")
        assert machine.show("ActiveState") == "inactive", "a removal must end it"
        machine.run("dpkg", "-i", self.put_package(self.folder / "higher.deb"))
        self.answers(spy)

    def purge(self, machine: Machine) -> None:
        machine.run("dpkg", "--purge", "atoll-agent")
        left = [
            path
            for path in (
                "etc/atoll",
                "var/lib/atoll",
                "usr/lib/atoll",
                "etc/default/atoll-agent",
                "usr/bin/atoll-agent",
            )
            if (self.root / path).exists()
        ]
        assert not left, f"left behind: {left}"
        assert machine.show("LoadState") in {"not-found", "masked"}, machine.show("LoadState")
        assert machine.show("ActiveState") == "inactive", machine.show("ActiveState")

    def answers(self, spy: Spy) -> None:
        """Wait for an answer to a reading that is sent from now on."""
        now_ms = time.time() * 1e3
        spy.wait(
            lambda: any(one.arrival_ms > now_ms + 500 for one in spy.on("/prediction/")),
            "a prediction",
            PATIENCE_S,
        )

    def put_package(self, package: Path) -> str:
        shutil.copy(package, self.root / "srv" / package.name)
        return f"/srv/{package.name}"

    def make_higher_version(self) -> None:
        tree = self.folder / "tree"
        subprocess.run(["dpkg-deb", "-R", self.package, tree], check=True, timeout=PATIENCE_S)
        control = tree / "DEBIAN/control"
        control.write_text(control.read_text().replace("+deb", "+1deb", 1))
        package = self.folder / "higher.deb"
        words = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", str(tree), str(package)]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, timeout=PATIENCE_S)


def try_out(suite: str, roots: Path, package: Path, releases: int) -> None:
    """Do all of it on one Debian, and print what was found."""
    with tempfile.TemporaryDirectory(prefix=f"atoll-{suite}-", dir="/var/tmp") as name:
        root = Path(name) / "root"
        subprocess.run(["cp", "-a", debootstrapped(roots, suite), root], check=True, timeout=600)
        trial = Trial(Path(name), root, package)
        said = f"atoll/v1/{SITE}/pi/#"
        with Machine(root) as machine, Spy(trial.port, said) as spy, Feeder(trial.port, READING) as feeder:
            with timed(trial, "install, enrol, start"):
                trial.install(machine)
            feeder.go_on()
            for number in range(1, releases + 1):
                with timed(trial, f"release {number}"):
                    trial.release(spy, number)
            with timed(trial, "the doctor finds no fault"):
                trial.ask_doctor(machine)
            with timed(trial, "killed, answers again"):
                trial.kill(machine, spy)
            with timed(trial, "hangs, ended by the watchdog, answers again"):
                trial.hang(machine, spy)
            with timed(trial, "reloads, refuses wrong settings"):
                trial.reload(machine)
            with timed(trial, "fails for good on wrong settings (78), starts on right ones"):
                trial.wrong_settings(machine, spy)
            trial.make_higher_version()
            with timed(trial, "upgraded"):
                trial.upgrade(machine, spy)
            with timed(trial, "removed and installed again"):
                trial.remove(machine, spy)
            errors = machine.run(
                "sh", "-c", f"systemd-analyze verify --man=no {SERVICE} 2>&1", is_needed=False
            )
            assert not errors, errors
            exposure = machine.run("systemd-analyze", "security", SERVICE, is_needed=False).splitlines()[-1]
            found = re.search(r"Overall exposure level for .*: ([\d.]+)", exposure)
            assert found is not None, exposure
            assert float(found[1]) <= EXPOSURE, exposure
        with Machine(root) as machine:
            with Spy(trial.port, said, client_id="spy-2") as spy, Feeder(trial.port, READING) as feeder:
                feeder.go_on()
                first = spy.wait(lambda: spy.on("/prediction/"), "a prediction after a boot", PATIENCE_S)[0]
                trial.times_s["boot to the first prediction"] = (
                    time.monotonic() - machine.booted_s - (time.time() * 1e3 - first.arrival_ms) / 1e3
                )
            trial.purge(machine)
    print(f"Debian {SUITES[suite]} ({suite})")
    for what, seconds in trial.times_s.items():
        print(f"  {what:64} {seconds:6.1f} s")
    print(f"  {'package':64} {package.stat().st_size / 1e6:6.1f} MB")
    print(f"  {exposure.strip(' →')}")
    print("  systemd-analyze verify: nothing to say")
    print("  purged: nothing left", flush=True)


def debootstrapped(roots: Path, suite: str) -> Path:
    """Return a minimal Debian; made once."""
    root = roots / suite
    if not (root / "usr/sbin/mosquitto").exists():
        roots.mkdir(parents=True, exist_ok=True)
        words = ["debootstrap", "--variant=minbase", f"--include={PACKAGES}", suite, str(root)]
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL, timeout=1800)
    return root


@contextmanager
def timed(trial: Trial, what: str) -> Iterator[None]:
    started_s = time.monotonic()
    yield
    trial.times_s[what] = time.monotonic() - started_s
    print(f"{what}: {trial.times_s[what]:.1f} s", file=sys.stderr, flush=True)


def wait_for(fact: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not fact():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {PATIENCE_S:g} s: {what}")
        select_pause(0.1)


def put(path: Path, text: str, mode: int = 0o644) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(mode)


def _drain(terminal: int) -> None:
    with suppress(OSError):
        while os.read(terminal, 65_536):
            pass


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--suite", choices=sorted(SUITES), action="append", help="by default each")
    parser.add_argument("--roots", type=Path, default=ROOT / "build/roots", help="where the Debians are kept")
    parser.add_argument("--packages", type=Path, default=ROOT / "dist", help="what `make deb` has made")
    parser.add_argument("--releases", type=int, default=2, help="how many it takes, one after the other")
    given = parser.parse_args()
    for suite in given.suite or SUITES:
        found = sorted(given.packages.glob(f"atoll-agent_*+deb{SUITES[suite]}_amd64.deb"))
        if not found:
            python = {12: "3.11", 13: "3.13"}[SUITES[suite]]
            print(f"no package for {suite}: make deb PYTHON=python{python}", file=sys.stderr)
            return 1
        try_out(suite, given.roots, found[-1], given.releases)
    return 0


if __name__ == "__main__":
    sys.exit(main())
