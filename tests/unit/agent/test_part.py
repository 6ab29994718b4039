"""The part file of a bundle on its way."""

from __future__ import annotations

import hashlib
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from atoll_agent.adapters.part import Part
from atoll_agent.rollout.release import Release
from atoll_contract.errors import Reason, StorageError

CONTENT = random.Random(0).randbytes(10_500)
RELEASE = Release("press", 1, hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), chunk_size=1024)


def chunk(number: int) -> bytes:
    return CONTENT[number * 1024 : (number + 1) * 1024]


def write(path: Path, *numbers: int) -> None:
    with Part(path, RELEASE) as part:
        for number in numbers:
            part.write(number, chunk(number))


def kept(path: Path, release: Release = RELEASE) -> set[int]:
    with Part(path, release) as part:
        return part.kept


def test_chunks_in_any_order_make_the_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.part"
    with Part(path, RELEASE) as part:
        assert part.missing() == list(range(11))
        for number in random.Random(1).sample(range(11), 11):
            assert not part.is_genuine()
            part.write(number, chunk(number))
        assert part.missing() == []
        assert part.kept_bytes == len(CONTENT)
        assert part.is_genuine()
        part.finish()

    assert path.read_bytes() == CONTENT
    assert [file.name for file in tmp_path.iterdir()] == ["x.part"]


def test_chunks_are_still_there_after_a_break(tmp_path: Path) -> None:
    path = tmp_path / "x.part"
    write(path, 3, 1)
    write(path, 10)

    with Part(path, RELEASE) as part:
        assert part.kept == {1, 3, 10}
        assert part.kept_bytes == 2 * 1024 + 10_500 % 1024


@pytest.mark.parametrize("tail", ["1", "x\n", "99\n", "-1\n", "\x00\x00\n", "²\n"])
def test_a_torn_record_costs_only_what_it_lost(tmp_path: Path, tail: str) -> None:
    path = tmp_path / "x.part"
    write(path, 3)
    record = tmp_path / "x.part.chunks"
    record.write_text(record.read_text() + tail)

    assert kept(path) == {3}


def test_a_part_of_another_release_is_begun_anew(tmp_path: Path) -> None:
    path = tmp_path / "x.part"
    for other in (
        replace(RELEASE, sha256="0" * 64),
        replace(RELEASE, chunk_size=2048),
        replace(RELEASE, length=RELEASE.length + 1),
    ):
        write(path, 3)
        assert kept(path, other) == set()


def test_a_record_without_its_part_counts_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "x.part"
    write(path, 3)
    path.unlink()
    assert kept(path) == set()

    write(path, 3)
    path.write_bytes(b"short")
    assert kept(path) == set()


def test_a_bundle_that_would_fill_the_disk_is_not_begun(tmp_path: Path) -> None:
    free = shutil.disk_usage(tmp_path).free

    with Part(tmp_path / "x.part", replace(RELEASE, length=free)) as part:
        with pytest.raises(StorageError) as caught:
            part.require_space()
        part.discard()
    assert caught.value.reason is Reason.NO_SPACE
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_a_fault_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(StorageError), Part(tmp_path / "nowhere" / "x.part", RELEASE):
        pass
