"""Readings and labels from a recording."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import pytest

pytest.importorskip("pyarrow")

from support.dialects import stream

from atoll_contract.errors import StorageError
from atoll_contract.messages import Label, Reading, encode_reading
from atoll_link.place import Folder
from atoll_link.recorder import Site, rows_of
from atoll_link.recording import Kind, Recording, Row
from atoll_link.session import Delivery
from atoll_trainer.sources import from_recording
from atoll_trainer.task import TaskFile

TASK = TaskFile.model_validate(
    {"task": {"model": "wear", "stream": "press", "kind": "regression", "values": {"x": {}}}}
)
AT_MS = 1e12


def reading(x, time_ms):
    payload = encode_reading(Reading({"x": x}, time_ms=AT_MS + time_ms))
    return Row(AT_MS + time_ms + 1, AT_MS + time_ms, Kind.READING, "press", "press-1", "t", payload, 1)


def label(value, time_ms, arrival_ms):
    payload = Label(value=value, time_ms=AT_MS + time_ms, source="gauge").encode()
    return Row(AT_MS + arrival_ms, AT_MS + time_ms, Kind.LABEL, "wear", "press-1", "l", payload, 1)


def read(folder, rows):
    with Recording(folder) as writer:
        for row in rows:
            writer.append(row, now_s=0.0)
    return from_recording(folder, TASK)


def test_a_reading_that_the_broker_sent_again_is_learnt_from_once(tmp_path):
    first = reading(1.0, 0)

    readings, _ = read(tmp_path, [first, reading(2.0, 1000), replace(first, is_duplicate=True)])

    assert readings.rows.tolist() == [[1.0], [2.0]]


def test_only_what_was_measured_since_a_time_is_learnt_from_whatever_part_it_is_in(tmp_path):
    for day in range(4):
        at = day * 86_400_000
        read(tmp_path, [reading(day, at), reading(day + 0.5, at + 1000), label(day, at, at + 10)])

    readings, lost = from_recording(tmp_path, TASK, since_ms=AT_MS + 2 * 86_400_000 + 500)

    assert readings.rows.tolist() == [[2.5], [3.0], [3.5]]
    assert readings.labels.tolist()[1] == 3.0
    assert lost == 0


def test_a_label_that_the_broker_sent_again_does_not_undo_its_correction(tmp_path):
    wrong = label(7.0, 0, 10)
    again = replace(wrong, arrival_ms=AT_MS + 30, is_duplicate=True)

    readings, lost = read(tmp_path, [reading(1.0, 0), wrong, label(5.0, 0, 20), again])

    assert readings.labels.tolist() == [5.0]
    assert lost == 0


@dataclass
class Trimmed:
    """A folder whose part number ``at`` goes when one of ``kind`` is opened, after so many others."""

    folder: Path
    kind: Kind
    at: int = 0
    after: int = 0

    def __getattr__(self, name):
        return getattr(Folder(self.folder), name)

    def open(self, name):
        opened = Folder(self.folder).open(name)
        if name.startswith(self.kind):
            if self.after == 0:
                sorted(self.folder.glob("reading/press/*/*"))[self.at].unlink()
            self.after -= 1
        return opened


def five_parts(folder):
    """Fifty readings, the label of each its value, in five parts."""
    with Recording(folder, max_rows=20) as writer:
        for at in range(50):
            writer.append(reading(float(at), at * 1000), now_s=0.0)
            writer.append(label(float(at), at * 1000, at * 1000 + 10), now_s=0.0)
            writer.flush(0.0)
    assert len(list(folder.glob("reading/press/*/*"))) == 5


def test_labels_stay_with_their_readings_while_the_oldest_go(tmp_path):
    five_parts(tmp_path)

    readings, lost = from_recording(Trimmed(tmp_path, Kind.LABEL), TASK)

    assert readings.rows[:, 0].tolist() == [float(at) for at in range(10, 50)]
    assert readings.labels.tolist() == readings.rows[:, 0].tolist()
    assert lost == 10


def test_a_part_that_goes_while_it_is_read_is_no_damage(tmp_path):
    five_parts(tmp_path)

    with pytest.raises(StorageError, match="was deleted while it was read: run it again"):
        from_recording(Trimmed(tmp_path, Kind.READING, at=-1, after=5), TASK)


def test_of_too_many_messages_the_newest_are_read_and_it_is_told(tmp_path):
    five_parts(tmp_path)

    readings, lost = from_recording(tmp_path, TASK, most_rows=25)
    everything, _ = from_recording(tmp_path, TASK, most_rows=50)

    assert readings.rows[:, 0].tolist() == [float(at) for at in range(30, 50)]
    assert readings.labels.tolist() == readings.rows[:, 0].tolist()
    assert readings.cut_ms == AT_MS + 30_001
    assert lost == 0
    assert len(everything) == 50
    assert everything.cut_ms is None


def test_a_recording_of_another_dialect_is_read_as_the_agent_reads_it(tmp_path):
    """Values of two topics are one reading; what comes too late for it is one of its own."""
    scalars = stream(
        'name = "press"\ndialect = "scalar"\ntopics = ["{device}/{value}"]\n'
        "values.x = {}\nvalues.y = {}\njoin_s = 5"
    )
    messages = [
        (0, "pump/x", b"1"),
        (1000, "pump/y", b"10"),
        (2000, "pump/x", b"2"),
        (60_000, "pump/x", b"3"),
        (61_000, "pump/y", b"unavailable"),
    ]
    site = Site("site", (scalars,))
    readers = {"press": scalars.reader(10)}
    rows = []
    for at_ms, topic, payload in messages:
        delivery = Delivery(topic, payload, 1, 1, False, False, 1, AT_MS + at_ms, 0)
        rows += rows_of(delivery, site, readers)[0]
    with Recording(tmp_path) as writer:
        for row in rows:
            writer.append(row, now_s=0.0)

    readings, _ = from_recording(tmp_path, TASK, scalars)

    assert len(rows) == len(messages)  # all are needed to read the recording again
    assert readings.rows.tolist() == [[1.0], [2.0], [3.0]]
    assert (readings.times_ms - AT_MS).tolist() == [1000.0, 2000.0, 61_000.0]
