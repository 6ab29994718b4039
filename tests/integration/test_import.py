"""``atoll-trainer import``, and recordings in a bucket."""

from __future__ import annotations

import json
import os
import uuid

import pytest

pytest.importorskip("pyarrow")
pytest.importorskip("fsspec")

from atoll_contract.errors import ConfigError, StorageError
from atoll_link import recording
from atoll_link.place import Bucket, Folder, place
from atoll_link.recording import Kind, Recording, Row
from atoll_link.recording_bounds import Bounds
from atoll_trainer.cli import main
from atoll_trainer.settings import RecordingsTable
from atoll_trainer.sources import from_recording
from atoll_trainer.task import TaskFile

CSV = """when;who;heat;wear
2020-01-01 00:00:00;Kiln 1;1,5;0,1
2020-01-02 00:00:01;Kiln 2;2,5;
2020-01-03 00:00:00;Kiln 1;;
"""
TASK = TaskFile.model_validate(
    {"task": {"model": "wear", "stream": "kiln", "kind": "regression", "values": {"heat": {}}}}
)
DAY_MS = 86_400_000.0

FORECAST = TaskFile.model_validate(
    {"task": {**TASK.task.model_dump(), "kind": "forecast", "target": "heat", "unit": None}}
)


def imported(capsys, path, *options):
    words = ["import", str(path), "--stream", "kiln", "--json", *map(str, options)]
    code = main(words)
    out = capsys.readouterr()
    return json.loads(out.out) if code == 0 else out.err


def a_bucket():
    return place(f"memory://{uuid.uuid4().hex}/press")


def row(day, number, name="press"):
    at_ms = (18_000 + day) * DAY_MS + number
    return Row(at_ms, at_ms, Kind.READING, name, "d", f"t/{number}", os.urandom(1000), 1)


def recorded(folder, rows, **settings):
    """Record each of ``rows`` in a journal of its own."""
    with Recording(folder, max_rows=1, **settings) as writer:
        for number, one in enumerate(rows):
            writer.append(one, now_s=float(number))
            writer.flush(now_s=float(number))
        return writer


def days(where):
    return [day for day in where.folders("reading/press") if where.files(f"reading/press/{day}")]


def test_rows_become_readings_and_labels_that_train_finds(tmp_path, capsys):
    path = tmp_path / "kilns.csv"
    path.write_text(CSV)
    options = ("--group", "who", "--label", "wear", "--model", "wear", "--home", tmp_path / "home")

    facts = imported(capsys, path, *options)["files"][0]

    assert (facts["readings"], facts["labels"], facts["devices"]) == (2, 1, 2)
    assert facts["refused"] == {"missing_value": 1}
    readings, lost = from_recording(tmp_path / "home" / "recordings", TASK)
    assert readings.rows.tolist() == [[1.5], [2.5]]
    assert readings.devices == ["Kiln--201", "Kiln--202"]
    assert readings.labels.tolist()[0] == pytest.approx(0.1)
    assert lost == 0


def test_a_file_that_is_imported_again_replaces_what_it_brought(tmp_path, capsys):
    path = tmp_path / "kilns.csv"
    path.write_text(CSV)
    home = ("--home", tmp_path / "home")
    first = imported(capsys, path, *home, "--group", "who")["files"][0]

    again = imported(capsys, path, *home, "--time", "none", "--device", "oven")["files"][0]

    assert (first["parts"], again["parts"], again["replaced"]) == (2, 1, 2)
    rows = list(recording.read(tmp_path / "home" / "recordings", Kind.READING, "kiln"))
    assert [one.device for one in rows] == ["oven", "oven"]


def test_a_file_without_numbers_says_what_to_do(tmp_path, capsys):
    path = tmp_path / "a.csv"
    path.write_text("a,b\nx,y\n")

    assert "no column of numbers; name the values with --value" in imported(capsys, path, "--home", tmp_path)


def test_a_bucket_works_like_a_folder(tmp_path, capsys):
    bucket = a_bucket()
    path = tmp_path / "kilns.csv"
    path.write_text(CSV)

    recorded(tmp_path / "home", [row(0, 1), row(1, 2)], bucket=bucket)
    imported(capsys, path, "--group", "who", "--recordings", bucket)

    assert recording.names(bucket, Kind.READING) == ["kiln", "press"]
    assert [one.topic for one in recording.read(bucket, Kind.READING, "press")] == ["t/1", "t/2"]
    assert len(from_recording(bucket, FORECAST)[0]) == 2
    assert [entry.name for entry in (tmp_path / "home").iterdir()] == [".lock"]


def test_of_a_bucket_what_waits_in_a_journal_is_read_where_its_folder_is_known(tmp_path):
    bucket = a_bucket()
    recorded(tmp_path, [row(0, 1)], bucket=bucket)
    kept = RecordingsTable(url=bucket.url).where(tmp_path)

    with Recording(tmp_path, bucket=bucket) as writer:
        writer.append(row(0, 2), now_s=0.0)
        writer.flush(now_s=0.0)

        assert [one.topic for one in recording.read(bucket, Kind.READING, "press")] == ["t/1"]
        assert [one.topic for one in recording.read(kept, Kind.READING, "press")] == ["t/1", "t/2"]
    assert [one.topic for one in recording.read(kept, Kind.READING, "press")] == ["t/1", "t/2"]
    assert RecordingsTable().where(tmp_path) == Folder(tmp_path)


class LostBucket(Bucket):
    """A bucket that cannot be reached."""

    def put(self, name, write):
        raise StorageError(f"{self}/{name}: no route to host")


def test_while_a_bucket_is_lost_rows_wait_in_journals_and_go_there_later(tmp_path):
    bucket = a_bucket()
    recorded(tmp_path, [row(0, 1), row(0, 2)], bucket=LostBucket(bucket.url))
    assert len(list(tmp_path.glob("journal-*.rows"))) == 2

    recorded(tmp_path, [row(0, 3)], bucket=bucket)

    assert [one.topic for one in recording.read(bucket, Kind.READING, "press")] == ["t/1", "t/2", "t/3"]
    with pytest.raises(StorageError, match="no route to host"):
        recorded(tmp_path, [row(0, 4)], bucket=LostBucket(bucket.url), bounds=Bounds(max_waiting_bytes=100))


@pytest.mark.parametrize("is_bucket", [False, True])
def test_the_oldest_parts_go_when_a_bound_is_reached_and_imports_stay(tmp_path, is_bucket):
    where = a_bucket() if is_bucket else Folder(tmp_path)
    recording.import_rows(where, "0" * 64, [row(-9, 0)])
    bounds = Bounds(max_bytes=20_000)

    writer = recorded(
        tmp_path, [row(day, day) for day in range(6)], bucket=where if is_bucket else None, bounds=bounds
    )

    assert 0 < writer.trimmed < 5
    kept = days(where)
    assert kept[0] == "2019-04-05"
    assert kept[1:] == [f"2019-04-{14 + day:02d}" for day in range(writer.trimmed, 6)]


def test_parts_go_for_their_age_and_for_the_sake_of_a_full_disk(tmp_path):
    recorded(tmp_path / "a", [row(0, 1), row(1, 2)], bounds=Bounds(max_age_ms=DAY_MS))
    recorded(tmp_path / "b", [row(0, 1), row(1, 2)], bounds=Bounds(min_free_bytes=1 << 60))

    assert days(Folder(tmp_path / "a")) == days(Folder(tmp_path / "b")) == []


def test_a_store_that_nothing_here_can_open_is_told():
    with pytest.raises(ConfigError, match="no kind of store that fsspec knows"):
        place("nowhere://x")


def test_a_store_is_named_without_passwords():
    chained = Bucket("zip://a.zip::sftp://user:hidden@host:22/plant/a@b")

    assert str(chained) == "zip://a.zip::sftp://user:***@host:22/plant/a@b"
    assert "hidden" not in repr(chained)
    assert str(Bucket("abfss://plant@account.dfs.core.windows.net/x")).startswith("abfss://plant@account.")


def test_a_bucket_is_named_without_its_options_which_may_hold_a_key():
    bucket = place("s3://depot/plant?region=eu-central-1&secret_key=hidden&access_key=atoll&anonymous=false")

    assert str(bucket) == "s3://depot/plant"
    with pytest.raises(ConfigError, match=r"^s3://depot: cannot be opened with these options: .*'regoin'"):
        place("s3://depot?regoin=eu-central-1")
