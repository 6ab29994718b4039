"""The part file of a bundle on its way."""

from __future__ import annotations

import hashlib
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from atoll_agent.adapters import part as part_module
from atoll_agent.adapters.part import Part
from atoll_agent.rollout.release import Release
from atoll_contract.errors import Reason, StorageError

CONTENT = random.Random(0).randbytes(10_500)
RELEASE = Release("press", 1, hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), chunk_size=1024)


def chunk(number: int) -> bytes:
    return CONTENT[number * 1024 : (number + 1) * 1024]


def write(bundle: Path, *numbers: int, boot: str = "today") -> None:
    with Part(bundle, RELEASE, boot) as part:
        for number in numbers:
            part.write(number, chunk(number))


def kept(bundle: Path, release: Release = RELEASE, boot: str = "today") -> set[int]:
    with Part(bundle, release, boot) as part:
        return part.kept


def journal(bundle: Path) -> Path:
    return bundle.with_suffix(".part.chunks")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    return tmp_path / "x.atoll"


def test_chunks_in_any_order_make_the_whole(bundle: Path) -> None:
    with Part(bundle, RELEASE) as part:
        assert part.missing() == list(range(11))
        for number in random.Random(1).sample(range(11), 11):
            assert not part.is_genuine()
            part.write(number, chunk(number))
        assert part.missing() == []
        assert part.kept_bytes == len(CONTENT)
        assert part.is_genuine()
        part.finish()

    assert bundle.read_bytes() == CONTENT
    assert list(bundle.parent.iterdir()) == [bundle]


def test_chunks_are_still_there_after_a_kill(bundle: Path) -> None:
    write(bundle, 3, 1)
    write(bundle, 10)

    with Part(bundle, RELEASE, "today") as part:
        assert part.kept == {1, 3, 10}
        assert part.kept_bytes == 2 * 1024 + 10_500 % 1024


def test_after_a_power_cut_only_what_was_brought_to_disk_counts(bundle: Path) -> None:
    write(bundle, 3, 1)
    write(bundle, 10)  # opening it brought 3 and 1 to disk

    assert kept(bundle, boot="tomorrow") == {1, 3}
    assert kept(bundle, boot="tomorrow") == {1, 3}


def test_where_nothing_tells_one_start_from_another_only_what_is_on_disk_counts(bundle: Path) -> None:
    write(bundle, 3, boot="")

    assert kept(bundle, boot="") == set()


def test_what_is_written_is_brought_to_disk_every_few_megabytes(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(part_module, "_SYNC_BYTES", 3 * 1024)

    write(bundle, 0, 1, 2, 3)

    assert kept(bundle, boot="tomorrow") == {0, 1, 2}


@pytest.mark.parametrize("tail", ["1", "x\n", "99\n", "-1\n", "\x00\x00\n", "²\n", "attempt x\n"])
def test_a_torn_journal_costs_only_what_it_lost(bundle: Path, tail: str) -> None:
    write(bundle, 3)
    with journal(bundle).open("a") as file:
        file.write(tail)

    assert kept(bundle) == {3}
    write(bundle, 5)  # nothing is added to a torn line
    assert kept(bundle) == {3, 5}


def test_a_part_of_another_release_is_begun_anew(bundle: Path) -> None:
    for other in (
        replace(RELEASE, sha256="0" * 64),
        replace(RELEASE, chunk_size=2048),
        replace(RELEASE, length=RELEASE.length + 1),
    ):
        write(bundle, 3)
        assert kept(bundle, other) == set()


def test_a_journal_without_its_part_counts_for_nothing(bundle: Path) -> None:
    write(bundle, 3)
    bundle.with_suffix(".part").unlink()
    assert kept(bundle) == set()

    write(bundle, 3)
    bundle.with_suffix(".part").write_bytes(b"short")
    assert kept(bundle) == set()


def test_the_number_of_the_attempt_outlasts_a_kill(bundle: Path) -> None:
    with Part(bundle, RELEASE) as part:
        part.write(0, bytes(1024))
        part.begin_again()
        assert part.missing() == list(range(11))
        part.write(1, chunk(1))

    with Part(bundle, RELEASE) as part:
        assert (part.attempt, part.kept) == (2, {1})


def test_a_bundle_that_would_fill_the_disk_is_not_begun(bundle: Path) -> None:
    free = shutil.disk_usage(bundle.parent).free

    with (
        pytest.raises(StorageError, match="bytes free") as caught,
        Part(bundle, replace(RELEASE, length=free)),
    ):
        pass

    assert caught.value.reason is Reason.NO_SPACE
    assert list(bundle.parent.iterdir()) == []


def test_the_space_is_taken_at_once_so_that_the_disk_is_not_full_half_way(bundle: Path) -> None:
    with Part(bundle, RELEASE):
        assert bundle.with_suffix(".part").stat().st_blocks * 512 >= RELEASE.length


def test_a_folder_that_is_not_there_is_a_fault_of_the_disk(tmp_path: Path) -> None:
    with pytest.raises(StorageError), Part(tmp_path / "nowhere" / "x.atoll", RELEASE):
        pass
