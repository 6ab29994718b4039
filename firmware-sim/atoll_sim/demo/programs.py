"""The demo's processes: each role as a user would start it, with its output in a file."""

from __future__ import annotations

import contextlib
import json
import os
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
}
_STOP_S: Final = 15.0
_PORT_S: Final = 30.0


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
            self._running[name] = subprocess.Popen(  # noqa: S603 - our own programs
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self._folder
            )

    def run(
        self, name: str, command: Sequence[str], timeout_s: float, *, shows: bool = False
    ) -> dict[str, Any]:
        """Run a program to its end and return the JSON object that it prints.

        ``shows``: it writes to the terminal, and prints no JSON.

        Raises:
            ProgramFailedError: It ended with an error, or not in time.
        """
        with self.log(name).open("ab") as log:
            try:
                ended = subprocess.run(  # noqa: S603 - our own programs
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=None if shows else subprocess.PIPE,
                    stderr=None if shows else log,
                    cwd=self._folder,
                    timeout=timeout_s,
                    check=False,
                )
            except subprocess.TimeoutExpired as error:
                raise ProgramFailedError(f"{' '.join(command)} took longer than {timeout_s:g} s") from error
        if ended.returncode != 0:
            tail = "" if shows else self._tail(name)
            raise ProgramFailedError(f"{' '.join(command)} ended with {ended.returncode}: {tail}")
        printed = {} if shows else json.loads(ended.stdout)
        return dict(printed)

    def run_quietly(self, name: str, command: Sequence[str], timeout_s: float) -> None:
        """Run a program to its end; what it prints goes to its log.

        Raises:
            ProgramFailedError: It ended with an error, or not in time.
        """
        self.start(name, command)
        program = self._running.pop(name)
        try:
            status = program.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            program.kill()
            raise ProgramFailedError(f"{name} took longer than {timeout_s:g} s") from error
        if status != 0:
            raise ProgramFailedError(f"{name} ended with {status}: {self._tail(name)}")

    def require_running(self) -> None:
        """Make sure that nothing has ended by itself.

        Raises:
            ProgramFailedError: Something has.
        """
        for name, program in self._running.items():
            if program.poll() is not None:
                raise ProgramFailedError(f"{name} ended with {program.returncode}: {self._tail(name)}")

    def stop(self, name: str) -> None:
        """End a program by SIGTERM, and by SIGKILL when it does not listen."""
        program = self._running.pop(name)
        if program.poll() is None:
            program.terminate()
            try:
                program.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                program.kill()
                program.wait()

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

    def _tail(self, name: str) -> str:
        return "\n".join(self.log(name).read_text(errors="replace").splitlines()[-12:])


def command(program: str, *arguments: str | Path) -> list[str]:
    """Return the command line of one of atoll's programs, in this environment's Python."""
    code = f"import sys; sys.argv[0] = {program!r}; from {_PROGRAMS[program]} import main; sys.exit(main())"
    return [sys.executable, "-c", code, *map(str, arguments)]


def module(name: str, *arguments: str) -> list[str]:
    """Return the command line of a module."""
    return [sys.executable, "-m", name, *arguments]


def free_port() -> int:
    """Return a TCP port on the loopback address that nobody listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def quieten_tensorflow() -> None:
    """Keep the chatter of TensorFlow's libraries out of the demo's terminal."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
