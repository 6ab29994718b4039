"""The programs in C: built when a source is newer than the program."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

from processes import BenchmarkError

SOURCES = Path(__file__).parent / "native"
ALWAYS = ("loadgen", "stub_broker")
LIBRARIES = {"loadgen": "-lm", "stub_broker": "-lm", "echo_libmosquitto": "-lmosquitto"}

Programs = Mapping[str, Path]
"""Paths of the programs, by name."""


def build(folder: Path, names: Iterable[str]) -> Programs:
    """Compile what is out of date of ``names`` into ``folder``."""
    if shutil.which("gcc") is None:
        raise BenchmarkError("gcc is not installed: apt install gcc libc6-dev")
    folder.mkdir(parents=True, exist_ok=True)
    newest = max(path.stat().st_mtime for path in SOURCES.iterdir())
    paths = {name: folder / name for name in names}
    for name, path in paths.items():
        if path.exists() and path.stat().st_mtime > newest:
            continue
        if LIBRARIES[name] == "-lmosquitto" and not has_libmosquitto():
            raise BenchmarkError("the headers of libmosquitto are missing: apt install libmosquitto-dev")
        command = ["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(path)]
        ended = subprocess.run(
            [*command, str(SOURCES / f"{name}.c"), LIBRARIES[name]],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        if ended.returncode != 0:
            raise BenchmarkError(f"gcc: {ended.stderr[-2000:]}")
    return paths


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
