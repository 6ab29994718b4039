from __future__ import annotations

from pathlib import Path

import pytest

from atoll_link.room import room_bytes

MIB = 1024 * 1024


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A machine with 4 GiB available, and this process in the cgroup pod/agent."""
    files = {
        "proc/meminfo": "MemTotal: 8388608 kB\nMemAvailable:    4194304 kB\n",
        "proc/self/cgroup": "0::/pod/agent\n",
        "cgroup/memory.stat": "anon 1\n",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def limit(folder: Path, most: str, current: int, cache: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "memory.max").write_text(f"{most}\n")
    (folder / "memory.current").write_text(f"{current}\n")
    (folder / "memory.stat").write_text(f"anon 1\ninactive_file {cache}\nactive_file 7\n")


def room(machine: Path) -> int | None:
    return room_bytes(machine / "proc", machine / "cgroup")


def test_without_limits_it_is_what_the_kernel_has_left(machine):
    limit(machine / "cgroup" / "pod" / "agent", "max", 5 * MIB)

    assert room(machine) == 4096 * MIB


def test_a_limit_counts_without_what_is_taken_but_for_what_can_be_given_back(machine):
    limit(machine / "cgroup" / "pod" / "agent", str(768 * MIB), 200 * MIB, cache=50 * MIB)

    assert room(machine) == 618 * MIB


@pytest.mark.parametrize("above", ["pod", ""])
def test_the_limit_of_a_group_above_counts_too(machine, above):
    limit(machine / "cgroup" / "pod" / "agent", str(768 * MIB), 200 * MIB)
    limit(machine / "cgroup" / above, str(512 * MIB), 500 * MIB)

    assert room(machine) == 12 * MIB


def test_more_than_the_limit_is_no_room(machine):
    limit(machine / "cgroup" / "pod" / "agent", "100", 200)

    assert room(machine) == 0


def test_where_nobody_tells_nothing_is_known(tmp_path):
    assert room_bytes(tmp_path, tmp_path) is None
