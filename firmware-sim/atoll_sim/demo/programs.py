"""The demo's processes: each role as a user would start it, with its output in a file."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

from atoll_contract.errors import AtollError, Reason

_PROGRAMS: Final = {
    "atoll-agent": "atoll_agent.cli",
    "atoll-trainer": "atoll_trainer.cli",
    "atoll-sim": "atoll_sim.cli",
    "atoll-dashboard": "atoll_dashboard.cli",
}
_STOP_S: Final = 15.0
_PORT_S: Final = 30.0
_LOOK_S: Final = 1.0
"""How often it is looked whether those run that a step needs."""


class ProgramFailedError(AtollError):
    """A program of the demo ended with an error; its last lines are in the detail."""

    default_reason = Reason.CHILD_CRASHED


class Programs:
    """Starts programs in ``folder`` and ends all of them when the context is left."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._running: dict[str, subprocess.Popen[bytes]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        for name in reversed(list(self._running)):
            self.stop(name)

    def log(self, name: str) -> Path:
        """Return the file with what a program printed."""
        return self._folder / f"{name}.log"

    def start(self, name: str, command: Sequence[str]) -> None:
        """Start a program that goes on running."""
        with self.log(name).open("ab") as log:
            self._running[name] = self._spawn(name, command, log.fileno())

    def run(
        self, name: str, command: Sequence[str], timeout_s: float, *, shows: bool = False
    ) -> dict[str, Any]:
        """Run a program to its end and return the JSON object that it prints.

        ``shows``: it writes to the terminal, and prints no JSON.

        Raises:
            ProgramFailedError: It ended with an error or not in time, or another has ended meanwhile.
        """
        printed = self._to_end(name, command, timeout_s, None if shows else subprocess.PIPE)
        return {} if shows else dict(json.loads(printed))

    def run_quietly(self, name: str, command: Sequence[str], timeout_s: float) -> None:
        """Run a program to its end; what it prints goes to its log.

        Raises:
            ProgramFailedError: It ended with an error or not in time, or another has ended meanwhile.
        """
        with self.log(name).open("ab") as log:
            self._to_end(name, command, timeout_s, log.fileno())

    def _spawn(self, name: str, command: Sequence[str], stdout: int | None) -> subprocess.Popen[bytes]:
        with self.log(name).open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own programs
                command,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=log,
                cwd=self._folder,
                # A session of its own: it and its children are ended together, by us.
                start_new_session=True,
            )

    def _to_end(self, name: str, command: Sequence[str], timeout_s: float, stdout: int | None) -> bytes:
        deadline = time.monotonic() + timeout_s
        with self._spawn(name, command, stdout) as program:
            try:
                while True:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        printed, _ = program.communicate(timeout=_LOOK_S)
                        break
                    self.require_running()
                    if time.monotonic() > deadline:
                        raise ProgramFailedError(f"the step {name!r} took longer than {timeout_s:g} s")
            finally:
                _end_group(program)
        if program.returncode != 0:
            raise self._failure(name, program.returncode)
        return printed or b""

    def require_running(self) -> None:
        """Make sure that nothing has ended by itself.

        Raises:
            ProgramFailedError: Something has.
        """
        for name, program in self._running.items():
            if program.poll() is not None:
                raise self._failure(name, program.returncode)

    def stop(self, name: str) -> None:
        """End a program by SIGTERM, and by SIGKILL when it does not listen."""
        program = self._running.pop(name)
        if program.poll() is None:
            program.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                program.wait(_STOP_S)
        _end_group(program)

    def wait_for_port(self, port: int) -> None:
        """Return when something listens on ``port``.

        Raises:
            ProgramFailedError: Nothing does in time.
        """
        deadline = time.monotonic() + _PORT_S
        while time.monotonic() < deadline:
            self.require_running()
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1.0):
                return
            time.sleep(0.05)
        raise ProgramFailedError(f"nothing listens on port {port} after {_PORT_S:g} s")

    def _failure(self, name: str, status: int) -> ProgramFailedError:
        lines = self.log(name).read_text(errors="replace").splitlines()[-12:]
        how = f"signal {-status}" if status < 0 else f"status {status}"
        return ProgramFailedError("\n".join([f"{name!r} ended with {how}; its last lines:", *lines]))


def _end_group(program: subprocess.Popen[bytes]) -> None:
    """Kill what is left of a program and of the children that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(program.pid, signal.SIGKILL)
    program.wait()


def command(program: str, *arguments: str | Path) -> list[str]:
    """Return the command line of one of atoll's programs, in this environment's Python."""
    code = f"import sys; sys.argv[0] = {program!r}; from {_PROGRAMS[program]} import main; sys.exit(main())"
    return [sys.executable, "-c", code, *map(str, arguments)]


def module(name: str, *arguments: str) -> list[str]:
    """Return the command line of a module."""
    return [sys.executable, "-m", name, *arguments]


def quieten_tensorflow() -> None:
    """Keep the chatter of TensorFlow's libraries out of the demo's terminal."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
