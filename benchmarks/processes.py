"""Processes that the benchmark starts and ends, and what /proc says of them. Ends no others."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Self

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class BenchmarkError(Exception):
    """A run that cannot be counted; the text says why."""


class Process:
    """A process, with its children, while a ``with`` block lasts.

    Args:
        command: The command line.
        log: Gets what it says on stderr, and on stdout unless ``is_piped``.
        is_piped: Whether :meth:`line` reads its stdout and :meth:`say` writes its stdin.
        environment: Added to this process's.
    """

    def __init__(
        self,
        command: list[str],
        log: Path,
        *,
        is_piped: bool = False,
        environment: dict[str, str] | None = None,
    ) -> None:
        self._command = command
        self._log = log
        self._is_piped = is_piped
        self._environment = {**os.environ, **(environment or {})}
        # What pip installs has its bytecode beside it: no program would compile itself at each start.
        self._environment.pop("PYTHONDONTWRITEBYTECODE", None)
        self._text = b""
        self.started_ns = 0

    def __enter__(self) -> Self:
        with self._log.open("ab") as log:
            self.started_ns = time.monotonic_ns()
            self._popen = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE if self._is_piped else subprocess.DEVNULL,
                stdout=subprocess.PIPE if self._is_piped else log,
                stderr=log,
                env=self._environment,
                start_new_session=True,
            )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._popen.poll() is None:
            self._popen.terminate()
        try:
            self._popen.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(self._popen.pid, signal.SIGKILL)  # the session that it leads, nobody else's
            self._popen.wait(5)
        for pipe in (self._popen.stdin, self._popen.stdout):
            if pipe is not None:
                pipe.close()

    def require_running(self) -> None:
        """Raise BenchmarkError if it has ended."""
        if self._popen.poll() is not None:
            raise BenchmarkError(f"{self._shown()} ended with {self._popen.returncode}: {self._tail()}")

    def say(self, text: str) -> None:
        """Write to its stdin."""
        pipe = self._pipe(self._popen.stdin)
        pipe.write(text.encode())
        pipe.flush()

    def line(self, timeout_s: float) -> str:
        """Return the next line of its stdout."""
        pipe = self._pipe(self._popen.stdout)
        deadline = time.monotonic() + timeout_s
        while b"\n" not in self._text:
            readable, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
            if not readable:
                raise BenchmarkError(f"{self._shown()} said nothing for {timeout_s:g} s: {self._tail()}")
            got = os.read(pipe.fileno(), 65_536)
            if not got:
                raise BenchmarkError(f"{self._shown()} ended: {self._tail()}")
            self._text += got
        line, self._text = self._text.split(b"\n", 1)
        return line.decode()

    def kill(self) -> None:
        """End it as a power cut would."""
        self._popen.kill()
        self._popen.wait(5)

    def tree(self) -> list[int]:
        """Return the ids of the process and its descendants."""
        self.require_running()
        parents = {
            int(entry.name): int(fields[1])
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit() and (fields := _stat(int(entry.name))) is not None
        }
        tree = [self._popen.pid]
        for pid in tree:
            tree += [child for child, parent in parents.items() if parent == pid]
        return tree

    def _shown(self) -> str:
        return Path(self._command[0]).name + " " + " ".join(self._command[1:3])

    def _tail(self) -> str:
        return self._log.read_text(errors="replace")[-600:] if self._log.exists() else ""

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        if pipe is None:
            raise TypeError("the process was started without pipes")
        return pipe


class Group:
    """Figures of processes that count together, with all their descendants."""

    def __init__(self, processes: Sequence[Process]) -> None:
        self._processes = processes

    def cpu_s(self) -> float:
        """Return their CPU time, ended children included; in steps of 10 ms."""
        return sum(
            sum(map(int, fields[11:15])) / TICKS_PER_S
            for pid in self._pids()
            if (fields := _stat(pid)) is not None
        )

    def fine_cpu_s(self) -> float:
        """Return the CPU time of the threads that live, to the nanosecond: for spans of little work."""
        total_ns = 0
        for pid in self._pids():
            for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                with suppress(OSError):  # the thread has just ended
                    total_ns += int(path.read_text().split()[0])
        return total_ns / 1e9 or self.cpu_s()

    def memory_mb(self) -> dict[str, float]:
        """Return resident memory and the proportional share of it (PSS), in MB (10**6)."""
        rss = pss = 0
        for pid in self._pids():
            try:
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue
            found = dict(line.split(":", 1) for line in text.splitlines()[1:])
            rss += int(found["Rss"].split()[0]) * 1024
            pss += int(found["Pss"].split()[0]) * 1024
        return {"rss_mb": round(rss / 1e6, 2), "pss_mb": round(pss / 1e6, 2)}

    def settle(self, quiet_s: float, timeout_s: float = 20.0) -> None:
        """Return when they have used less than a twentieth of a core for ``quiet_s``."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            before = self.cpu_s()
            time.sleep(quiet_s)
            if self.cpu_s() - before <= 0.05 * quiet_s + 0.01:
                return
        raise BenchmarkError(f"the system did not come to rest within {timeout_s:g} s")

    def _pids(self) -> list[int]:
        return [pid for process in self._processes for pid in process.tree()]


def machine_cpu_s() -> dict[str, float]:
    """Return the CPU time of all processes, and what the host took away (``stolen``)."""
    user, nice, system, _, _, irq, softirq, stolen = map(
        int, Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    )
    return {
        "busy": (user + nice + system + irq + softirq) / TICKS_PER_S,
        "stolen": stolen / TICKS_PER_S,
    }


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat behind the name; None if it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
