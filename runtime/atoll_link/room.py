"""How much memory is left for a process, by the kernel and by the limits of its cgroups (v2)."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

_CGROUP = re.compile(r"^0::/(.*)$", re.MULTILINE)
_AVAILABLE = re.compile(r"^MemAvailable:\s+(\d+) kB$", re.MULTILINE)
_CACHE = re.compile(r"^inactive_file (\d+)$", re.MULTILINE)


def room_bytes(proc: Path = Path("/proc"), cgroups: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Return how many bytes this process could take without others being killed; None: nobody tells."""
    rooms = []
    with suppress(OSError, ValueError):
        rooms += [int(kib) * 1024 for kib in _AVAILABLE.findall((proc / "meminfo").read_text())]
    with suppress(OSError, ValueError):
        for path in _CGROUP.findall((proc / "self" / "cgroup").read_text()):
            folder = cgroups / path
            # A limit above counts too; seen from within a container the path ends at its own.
            folders = [folder, *(above for above in folder.parents if above.is_relative_to(cgroups))]
            rooms += [room for one in folders if (room := _room_in(one)) is not None]
    return min(rooms, default=None)


def _room_in(folder: Path) -> int | None:
    """Return what is left in one cgroup; None: it has no limit."""
    with suppress(OSError, ValueError):
        most = (folder / "memory.max").read_text().strip()
        if most != "max":
            cache = sum(map(int, _CACHE.findall((folder / "memory.stat").read_text())))
            return max(0, int(most) - int((folder / "memory.current").read_text()) + cache)
    return None
