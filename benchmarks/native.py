"""The programs in C: built when a source is newer than the program."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from processes import BenchmarkError

SOURCES = Path(__file__).parent / "native"


@dataclass(frozen=True)
class Programs:
    """Paths of the programs."""

    loadgen: Path
    stub_broker: Path
    echo_libmosquitto: Path


def build(folder: Path) -> Programs:
    """Compile what is out of date into ``folder``."""
    if shutil.which("gcc") is None:
        raise BenchmarkError("gcc is not installed: apt install gcc libc6-dev")
    if not has_libmosquitto():
        raise BenchmarkError("the headers of libmosquitto are missing: apt install libmosquitto-dev")
    folder.mkdir(parents=True, exist_ok=True)
    newest = max(path.stat().st_mtime for path in SOURCES.iterdir())
    paths = {}
    for name, library in (("loadgen", "-lm"), ("stub_broker", "-lm"), ("echo_libmosquitto", "-lmosquitto")):
        paths[name] = folder / name
        if paths[name].exists() and paths[name].stat().st_mtime > newest:
            continue
        command = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(paths[name])]
        ended = subprocess.run(
            [*command, str(SOURCES / f"{name}.c"), library],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if ended.returncode != 0:
            raise BenchmarkError(f"gcc: {ended.stderr[-2000:]}")
    return Programs(**paths)


def has_libmosquitto() -> bool:
    """Whether gcc finds mosquitto.h."""
    ended = subprocess.run(
        ["gcc", "-fsyntax-only", "-x", "c", "-"],
        input="#include <mosquitto.h>\n",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    return ended.returncode == 0
