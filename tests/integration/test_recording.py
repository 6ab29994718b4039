"""The recording format, on a real disk."""

from __future__ import annotations

import resource
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import structlog

pytest.importorskip("pyarrow")

from atoll_contract.errors import MalformedMessageError, StorageError
from atoll_link import recording
from atoll_link.recording import Kind, Recording, Row

MIDNIGHT = 1_730_764_800_000.0  # 2024-11-05


def row(number: int, *, name: str = "press", kind: Kind = Kind.READING, at: float = MIDNIGHT) -> Row:
    return Row(
        arrival_ms=at + number,
        time_ms=None if number % 3 == 0 else at + number - 0.5,
        kind=kind,
        name=name,
        device="press-1",
        topic=f"atoll/v1/site/press-1/reading/{name}",
        payload=b'{"values": %d}\xff' % number,
        qos=number % 2,
        is_retained=number % 5 == 0,
        is_duplicate=number % 7 == 0,
    )


def parts(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*/*/*.parquet"))


def test_rows_come_back_as_they_went_in(tmp_path):
    rows = [row(number) for number in range(100)]

    with Recording(tmp_path) as writer:
        for one in rows:
            writer.append(one, now_s=0.0)

    assert list(recording.read(tmp_path, Kind.READING, "press")) == rows
    assert [path.name for path in parts(tmp_path)] == ["part-1730764800000-1730764800000.parquet"]
    assert list(tmp_path.glob("journal-*")) == []


def test_a_flushed_row_is_found_while_the_writer_goes_on(tmp_path):
    with Recording(tmp_path) as writer:
        writer.append(row(1), now_s=0.0)
        assert list(recording.read(tmp_path, Kind.READING, "press")) == []
        writer.flush(now_s=0.0)
        writer.append(row(2), now_s=0.0)

        assert list(recording.read(tmp_path, Kind.READING, "press")) == [row(1)]
        assert recording.names(tmp_path, Kind.READING) == ["press"]
        assert parts(tmp_path) == []


def test_parts_are_made_by_day_kind_and_stream(tmp_path):
    next_day = MIDNIGHT + 86_400_000
    rows = [row(0), row(1, name="oven"), row(2, kind=Kind.LABEL), row(3, at=next_day), row(4, at=next_day)]

    with Recording(tmp_path) as writer:
        for one in rows:
            writer.append(one, now_s=0.0)

    folders = [str(path.parent.relative_to(tmp_path)) for path in parts(tmp_path)]
    assert folders == [
        "label/press/2024-11-05",
        "reading/oven/2024-11-05",
        "reading/press/2024-11-05",
        "reading/press/2024-11-06",
    ]
    assert list(recording.read(tmp_path, Kind.READING, "press")) == [rows[0], rows[3], rows[4]]
    assert recording.names(tmp_path, Kind.READING) == ["oven", "press"]


@pytest.mark.parametrize("bound", [{"max_rows": 3}, {"max_bytes": 2000}, {"max_age_s": 3.0}])
def test_the_journal_is_folded_at_each_of_its_bounds(tmp_path, bound):
    with Recording(tmp_path, **bound) as writer:
        for number in range(12):
            writer.append(row(number), now_s=float(number))
            writer.flush(now_s=float(number))

        assert len(parts(tmp_path)) >= 2
        assert list(recording.read(tmp_path, Kind.READING, "press")) == [row(number) for number in range(12)]


def test_a_full_buffer_reaches_the_disk_without_a_flush(tmp_path):
    large = replace(row(1), payload=bytes(3 * 1024 * 1024))

    with Recording(tmp_path) as writer:
        for _ in range(3):
            writer.append(large, now_s=0.0)

        assert writer.written == 3
        assert writer.pending == 0


WRITER = """
import sys, time
from dataclasses import replace
from pathlib import Path
from atoll_link.recording import Kind, Recording, Row
with Recording(Path(sys.argv[1]), max_rows=50) as writer:
    for number in range(10**6):
        writer.append(Row(1e12 + number, None, Kind.READING, "press", "d", "t", b"%d" % number, 1), 0.0)
        writer.flush(0.0)
        print(number, flush=True)
"""


def test_every_flushed_row_outlasts_a_kill_once(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        lines = iter(process.stdout.readline, "")
        flushed = next(int(line) for line in lines if int(line) >= 170)
        process.send_signal(signal.SIGKILL)
        flushed = max([flushed, *(int(line) for line in lines if line.endswith("\n"))])
    finally:
        process.kill()
        process.wait(10)
        process.stdout.close()

    before = [int(one.payload) for one in recording.read(tmp_path, Kind.READING, "press")]
    with Recording(tmp_path) as writer:
        recovered = [int(one.payload) for one in recording.read(tmp_path, Kind.READING, "press")]
        assert list(tmp_path.glob("journal-*")) == []
        writer.append(row(0, at=2e12), now_s=0.0)

    assert before[: flushed + 1] == list(range(flushed + 1))
    assert recovered == before
    assert len(list(recording.read(tmp_path, Kind.READING, "press"))) == len(before) + 1


def test_a_journal_torn_at_any_byte_gives_the_rows_before_the_tear(tmp_path):
    writer = Recording(tmp_path / "whole")
    with writer:
        sizes = []
        for number in range(3):
            writer.append(row(number), now_s=0.0)
            writer.flush(now_s=0.0)
            (journal,) = (tmp_path / "whole").glob("journal-*")
            sizes.append(journal.stat().st_size)
        content, name = journal.read_bytes(), journal.name
    torn = tmp_path / "torn"
    torn.mkdir()

    for size in range(0, len(content) + 1, 13):
        (torn / name).write_bytes(content[:size])
        found = list(recording.read(torn, Kind.READING, "press"))
        assert found == [row(number) for number in range(sum(size >= whole for whole in sizes))]
    (torn / name).write_bytes(content + bytes(500))
    assert len(list(recording.read(torn, Kind.READING, "press"))) == 3


def test_folding_a_journal_again_after_a_crash_makes_no_second_copy(tmp_path):
    with Recording(tmp_path / "a") as writer:
        for number in range(10):
            writer.append(row(number), now_s=0.0)
        writer.flush(now_s=0.0)
        shutil.copytree(tmp_path / "a", tmp_path / "b")
    # As after a crash between the last part and the deletion of the journal.
    shutil.copytree(tmp_path / "a" / "reading", tmp_path / "b" / "reading")

    assert len(list(recording.read(tmp_path / "b", Kind.READING, "press"))) == 10
    with Recording(tmp_path / "b"):
        pass

    assert len(parts(tmp_path / "b")) == 1
    assert len(list(recording.read(tmp_path / "b", Kind.READING, "press"))) == 10


def test_a_second_writer_is_refused(tmp_path):
    with (
        Recording(tmp_path),
        pytest.raises(StorageError, match="another recorder writes here"),
        Recording(tmp_path),
    ):
        pass
    with Recording(tmp_path):
        pass


def test_a_damaged_part_is_named(tmp_path):
    with Recording(tmp_path) as writer:
        for number in range(1000):
            writer.append(row(number), now_s=0.0)
    (part,) = parts(tmp_path)
    content = bytearray(part.read_bytes())
    part.write_bytes(content[: len(content) // 2])

    with pytest.raises(StorageError, match=part.name):
        list(recording.read(tmp_path, Kind.READING, "press"))


def test_a_parquet_file_that_is_no_recording_is_named(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder = tmp_path / "reading" / "press" / "2024-11-05"
    folder.mkdir(parents=True)
    pq.write_table(pa.table({"a": [1]}), folder / "part-1-1.parquet")

    with pytest.raises(StorageError, match=r"part-1-1\.parquet"):
        list(recording.read(tmp_path, Kind.READING, "press"))


def test_foreign_files_are_passed_over(tmp_path):
    with Recording(tmp_path) as writer:
        writer.append(row(1), now_s=0.0)
    (part,) = parts(tmp_path)
    for name in ("README.txt", "part-x.parquet", ".part-1-1.parquet.tmp", "part-1-1.parquet.bak"):
        (part.parent / name).write_bytes(b"not a part")
    (tmp_path / "journal-notes.txt").write_text("mine")

    assert list(recording.read(tmp_path, Kind.READING, "press")) == [row(1)]
    with Recording(tmp_path):
        pass
    assert (tmp_path / "journal-notes.txt").exists()


def test_an_empty_or_missing_folder_has_no_rows(tmp_path):
    assert list(recording.read(tmp_path / "none", Kind.READING, "press")) == []
    assert recording.names(tmp_path / "none", Kind.READING) == []


def test_a_name_that_is_no_id_is_refused(tmp_path):
    with Recording(tmp_path) as writer, pytest.raises(MalformedMessageError):
        writer.append(replace(row(1), name="../etc"), now_s=0.0)


def test_what_the_broker_sent_again_is_left_out_and_equal_readings_are_not():
    first = replace(row(1), is_duplicate=False)
    again = replace(first, is_duplicate=True)
    equal = replace(first, arrival_ms=first.arrival_ms + 5)
    lost = replace(row(2), is_duplicate=True)  # DUP is set, and yet the first delivery never came here

    assert list(recording.without_redeliveries([first, equal, again, lost])) == [first, equal, lost]


def test_a_failed_write_is_reported_and_loses_no_flushed_row(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with Recording(tmp_path) as writer:
        writer.append(row(0), now_s=0.0)
        writer.flush(now_s=0.0)
        writer.append(replace(row(1), payload=bytes(100_000)), now_s=0.0)
        resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, limits[1]))
        try:
            with pytest.raises(StorageError, match=r"journal-.*File too large"):
                writer.flush(now_s=0.0)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

        assert [one.qos for one in recording.read(tmp_path, Kind.READING, "press")] == [0]
        writer.flush(now_s=0.0)

    assert [len(one.payload) > 1000 for one in recording.read(tmp_path, Kind.READING, "press")] == [
        False,
        True,
    ]


def flushed(folder: Path, count: int = 4) -> tuple[str, bytes, list[int]]:
    """Return name and content of a journal of ``count`` batches, and where each of them starts."""
    with Recording(folder) as writer:
        starts = []
        for number in range(count):
            starts.append(journal.stat().st_size if (journal := next(folder.glob("journal-*"), None)) else 0)
            writer.append(row(number), now_s=0.0)
            writer.flush(now_s=0.0)
        journal = next(folder.glob("journal-*"))
        return journal.name, journal.read_bytes(), starts


def test_a_flipped_byte_costs_the_batch_it_is_in_and_no_other(tmp_path):
    name, content, starts = flushed(tmp_path / "whole")
    ends = [*starts[1:], len(content)]
    for place in range(0, len(content), 83):
        folder = tmp_path / f"flipped-{place}"
        folder.mkdir()
        damaged = bytearray(content)
        damaged[place] ^= 0x41
        (folder / name).write_bytes(damaged)
        hit = next(batch for batch, end in enumerate(ends) if place < end)
        whole = [row(number) for number in range(4) if number != hit]

        assert list(recording.read(folder, Kind.READING, "press")) == whole
        with structlog.testing.capture_logs() as logs, Recording(folder) as writer:
            writer.append(row(9), now_s=0.0)

        assert list(recording.read(folder, Kind.READING, "press")) == [*whole, row(9)]
        (kept,) = folder.glob("*.damaged")
        assert kept.read_bytes() == bytes(damaged)
        (event,) = [log for log in logs if log["event"] == "journal.damaged"]
        assert event == {
            "event": "journal.damaged",
            "log_level": "warning",
            "file": str(folder / name),
            "kept": str(kept),
            "rows": 3,
            "detail": event["detail"],
        }


def test_what_no_one_can_have_written_is_kept_beside(tmp_path):
    name, content, _ = flushed(tmp_path / "whole")
    folder = tmp_path / "zeros"
    folder.mkdir()
    (folder / name).write_bytes(content + bytes(500))

    with Recording(folder):
        pass

    assert len(list(recording.read(folder, Kind.READING, "press"))) == 4
    assert len(list(folder.glob("journal-*.damaged"))) == 1


def test_a_torn_tail_is_no_damage(tmp_path):
    name, content, _ = flushed(tmp_path / "whole")
    folder = tmp_path / "torn"
    folder.mkdir()
    (folder / name).write_bytes(content[:-3])

    with Recording(folder):
        pass

    assert len(list(recording.read(folder, Kind.READING, "press"))) == 3
    assert list(folder.glob("journal-*")) == []


def test_a_journal_that_cannot_be_read_stays_and_is_named(tmp_path):
    # A folder in its place fails for root, too.
    (tmp_path / "journal-5.rows").mkdir()

    with pytest.raises(StorageError, match=r"journal-5\.rows: Is a directory"), Recording(tmp_path):
        pass
    with pytest.raises(StorageError, match=r"journal-5\.rows: Is a directory"):
        list(recording.read(tmp_path, Kind.READING, "press"))
    assert (tmp_path / "journal-5.rows").exists()


@pytest.mark.parametrize("place", ["", "reading", "reading/press"])
def test_a_folder_that_cannot_be_read_is_named(tmp_path, place):
    path = tmp_path / "recordings" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("no folder")

    with pytest.raises(StorageError, match=f"{path}(/press)?: Not a directory"):
        list(recording.read(tmp_path / "recordings", Kind.READING, "press"))
    if place != "reading/press":
        with pytest.raises(StorageError, match=f"{path}: Not a directory"):
            recording.names(tmp_path / "recordings", Kind.READING)
