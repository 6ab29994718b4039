"""Faults of the machine under the agent: its disk, limits, clock and state."""

from __future__ import annotations

import random
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from scene import Scene
from scene_acts import let_pass, publish
from support.brokers import select_pause
from world import READING

SLOW_FSYNC: Final = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <unistd.h>
#define SLOW(name) \\
    int name(int fd) { \\
        int (*real)(int) = (int (*)(int))dlsym(RTLD_NEXT, #name); \\
        usleep(200000); \\
        return real(fd); \\
    }
SLOW(fsync)
SLOW(fdatasync)
"""


def disk_full(scene: Scene, rng: random.Random) -> None:
    """Full while the agent begins, loses the broker, and ends."""
    filling = scene.state / "filling"
    with filling.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"\0" * 4096)
        except OSError:
            pass
    try:
        if rng.random() < 0.5:
            scene.restart_agent()
        scene.agent_line.refuses = True
        scene.agent_line.cut()
        let_pass(scene, 3)
        scene.agent_line.heal()
        let_pass(scene, 1)
        scene.tend()
    finally:
        filling.unlink()


def disk_read_only(scene: Scene, _rng: random.Random) -> None:
    scene.agent.kill()
    _remount(scene.state, "ro")
    try:
        scene.start_agent()
        scene.agent_line.cut()
        let_pass(scene, 4)
        scene.tend()
    finally:
        _remount(scene.state, "rw")


def _remount(folder: Path, mode: str) -> None:
    for _ in range(100):
        ended = subprocess.run(
            ["mount", "-o", f"remount,{mode}", folder], check=False, capture_output=True, timeout=20
        )
        if ended.returncode == 0:
            return
        select_pause(0.1)  # a file that was open for writing a moment ago
    raise OSError(f"{folder} cannot be remounted: {ended.stderr.decode()}")


def disk_slow(scene: Scene, _rng: random.Random) -> None:
    scene.restart_agent(LD_PRELOAD=str(_slow_fsync(scene.folder)))
    let_pass(scene, 2)
    scene.agent_line.refuses = True
    scene.agent_line.cut()
    let_pass(scene, 3)
    scene.agent_line.heal()
    let_pass(scene, 2)
    scene.restart_agent()


def _slow_fsync(folder: Path) -> Path:
    library = folder / "slow_fsync.so"
    if not library.exists():
        source = library.with_suffix(".c")
        source.write_text(SLOW_FSYNC)
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", library, source, "-ldl"], check=True, timeout=60)
    return library


def no_descriptors(scene: Scene, _rng: random.Random) -> None:
    open_now = len(list(Path(f"/proc/{scene.pid}/fd").iterdir()))
    with _limited(scene, resource.RLIMIT_NOFILE, max(8, open_now - 2)):
        scene.agent_line.cut()
        let_pass(scene, 3)


def no_memory(scene: Scene, rng: random.Random) -> None:
    lines = Path(f"/proc/{scene.pid}/status").read_text().splitlines()
    size_kb = next(int(line.split()[1]) for line in lines if line.startswith("VmSize:"))
    with _limited(scene, resource.RLIMIT_AS, (size_kb + 2048) * 1024):
        publish(scene, READING, [rng.randbytes(1_000_000) for _ in range(10)])
        let_pass(scene, 2)


@contextmanager
def _limited(scene: Scene, what: int, soft: int) -> Iterator[None]:
    pid = scene.pid
    before = resource.prlimit(pid, what)
    resource.prlimit(pid, what, (soft, before[1]))
    try:
        yield
    finally:
        if scene.agent.process is not None and scene.agent.process.poll() is None:
            resource.prlimit(pid, what, before)


def clock_1970(scene: Scene, _rng: random.Random) -> None:
    _set_clock(scene, "@1970-01-01 00:01:00")


def clock_forward(scene: Scene, _rng: random.Random) -> None:
    _set_clock(scene, "+20d")


def clock_back(scene: Scene, _rng: random.Random) -> None:
    _set_clock(scene, "-20d")


def _set_clock(scene: Scene, to: str) -> None:
    """Begin with the right time, which jumps and comes back while the agent runs; then without."""
    [library] = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
    file = scene.folder / "faketime"
    file.write_text("+0d\n")
    scene.restart_agent(
        LD_PRELOAD=str(library),
        FAKETIME_TIMESTAMP_FILE=str(file),
        FAKETIME_NO_CACHE="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1",
        DONT_FAKE_MONOTONIC="1",
    )
    let_pass(scene, 4)
    file.write_text(f"{to}\n")
    let_pass(scene, 3)
    scene.agent_line.cut()
    let_pass(scene, 2)
    file.write_text("+0d\n")
    let_pass(scene, 1)
    scene.restart_agent()


def state_corrupted(scene: Scene, rng: random.Random) -> None:
    scene.agent.kill()
    files = [
        path
        for path in sorted(scene.state.rglob("*"))
        # Token and root are who it is: without them it is not enrolled, and says so.
        if path.is_file() and path.name not in {"token", "root.json"}
    ]
    path = rng.choice(files)
    content = path.read_bytes()
    path.write_bytes(
        rng.choice(
            (
                b"",
                content[: len(content) // 2],
                bytes(len(content)),
                rng.randbytes(max(1, len(content))),
            )
        )
    )
    scene.start_agent()
