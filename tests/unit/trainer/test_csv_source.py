"""Readings from CSV files."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from atoll_contract.errors import ConfigError, Reason
from atoll_ingest.time import TimeUnit
from atoll_trainer.dataset import UnsuitableDataError
from atoll_trainer.sources import CsvColumns, from_csv
from atoll_trainer.task import TaskFile


def a_task(*values, kind="forecast", step_ms=None):
    target = values[0] if kind == "forecast" else "label"
    task = {"model": "m", "stream": "s", "kind": kind, "target": target, "step_ms": step_ms}
    return TaskFile.model_validate({"task": {**task, "values": {name: {} for name in values}}})


def written(tmp_path, text, name="a.csv"):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


TEXT = "\ufefftime,v,who\n2020-01-01 00:00:00,1.5,Kiln 1\n\n2020-01-01 00:00:01,2.5,Kiln 2\n"


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_columns_become_values_times_and_devices(tmp_path, name):
    columns = CsvColumns({"x": "v"}, time="time", device="who")

    readings = from_csv(written(tmp_path, TEXT, name), columns, a_task("x"))

    assert readings.rows.tolist() == [[1.5], [2.5]]
    assert readings.times_ms.tolist() == [1577836800000, 1577836801000]
    assert readings.devices == ["Kiln--201", "Kiln--202"]
    # Lines of the file, the header and an empty one counted.
    assert readings.numbers.tolist() == [2, 4]
    assert len(readings.sha256) == 64


def test_a_device_that_is_no_column_is_the_name_of_all(tmp_path):
    columns = CsvColumns({"x": "v"}, time="time", device="oven")

    assert from_csv(written(tmp_path, TEXT), columns, a_task("x")).devices == ["oven", "oven"]


def test_a_value_without_an_option_is_the_column_of_its_name(tmp_path):
    readings = from_csv(written(tmp_path, TEXT), CsvColumns({}, time="time"), a_task("v"))

    assert readings.rows.tolist() == [[1.5], [2.5]]


def test_rows_without_times_are_a_step_apart(tmp_path):
    readings = from_csv(written(tmp_path, "x\n1\n2\n3\n"), CsvColumns({}), a_task("x", step_ms=50))

    assert readings.times_ms.tolist() == [0, 50, 100]


def test_times_may_be_numbers(tmp_path):
    columns = CsvColumns({}, time="t", time_unit=TimeUnit.SECONDS)

    assert from_csv(written(tmp_path, "t,x\n1.5,1\n"), columns, a_task("x")).times_ms.tolist() == [1500]


def test_the_label_is_a_column(tmp_path):
    path = written(tmp_path, "x,y\n1,3\n2,\n3,nan\n4,inf\n")

    readings = from_csv(path, CsvColumns({}, label="y"), a_task("x", kind="regression"))

    assert np.array_equal(readings.labels, [3, np.nan, np.nan, np.nan], equal_nan=True)


def test_rows_that_cannot_be_used_are_counted_and_the_first_is_told(tmp_path):
    path = written(tmp_path, "time,x\n2020-01-01,1\nyesterday,2\n2020-01-03,many\n2020-01-04,\n2020-01-05\n")

    refusals = from_csv(path, CsvColumns({}, time="time"), a_task("x")).refusals

    assert refusals.counts == {Reason.BAD_TIME: 1, Reason.MALFORMED_PAYLOAD: 1, Reason.MISSING_VALUE: 2}
    assert refusals.first[Reason.BAD_TIME] == "row 3: time 'yesterday' is not ISO 8601"
    assert refusals.first[Reason.MALFORMED_PAYLOAD] == "row 4: x: 'many' is not a number"


def test_every_missing_column_is_told_at_once(tmp_path):
    columns = CsvColumns({"x": "a", "z": "b"}, time="when")

    with pytest.raises(ConfigError) as caught:
        from_csv(written(tmp_path, TEXT), columns, a_task("x", kind="regression"))

    faults = "\n".join(caught.value.faults)
    for fault in (
        "--value z: the task has no such value; it has x",
        "--value x: no column 'a'; there are time, v, who",
        "--time: no column 'when'",
        "--label: a regression needs the column of its label",
    ):
        assert fault in faults


@pytest.mark.parametrize(
    ("name", "content", "error", "fault"),
    [
        ("a.csv", b"", UnsuitableDataError, "no row"),
        ("a.csv", b"x\n", UnsuitableDataError, "no reading can be used"),
        ("a.csv", b"x\nnan\nnan\n", UnsuitableDataError, "2 refused, row 2: value 'x' is not finite"),
        ("a.csv", b"\xff\xfe\x00", ConfigError, "not a CSV file in UTF-8"),
        ("a.csv.gz", b"plain", ConfigError, "cannot be read: Not a gzipped file"),
        ("none.csv", None, ConfigError, "cannot be read: No such file"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, name, content, error, fault):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(error, match=f"{name}: .*{fault}"):
        from_csv(path, CsvColumns({}), a_task("x"))
