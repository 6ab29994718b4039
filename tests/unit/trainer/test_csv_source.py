"""Readings from CSV files."""

from __future__ import annotations

import gzip

import numpy as np
import pytest

from atoll_contract.errors import ConfigError, Reason, StorageError
from atoll_link.csv_columns import Columns
from atoll_trainer.dataset import UnsuitableDataError
from atoll_trainer.sources import from_csv
from atoll_trainer.task import TaskFile


def a_task(*values, kind="forecast"):
    target = values[0] if kind == "forecast" else "label"
    task = {"model": "m", "stream": "s", "kind": kind, "target": target}
    return TaskFile.model_validate({"task": {**task, "values": {name: {} for name in values}}})


def written(tmp_path, text, name="a.csv"):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    return path


TEXT = "\ufefftime,v,who\n2020-01-01 00:00:00,1.5,Kiln 1\n\n2020-01-01 00:00:01,2.5,Kiln 2\n"


def columns(**given):
    return Columns(**{"time": [], "values": {}, "device": "oven"} | given)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_columns_become_values_times_and_devices(tmp_path, name):
    chosen = columns(values={"x": "v"}, time=["time"], device_column="who")

    readings = from_csv(written(tmp_path, TEXT, name), chosen, a_task("x"))

    assert readings.rows.tolist() == [[1.5], [2.5]]
    assert readings.times_ms.tolist() == [1577836800000, 1577836801000]
    assert readings.devices == ["Kiln--201", "Kiln--202"]
    # Lines of the file, the header and an empty one counted.
    assert readings.numbers.tolist() == [2, 4]
    assert len(readings.sha256) == 64


def test_a_device_is_the_name_of_all_rows(tmp_path):
    chosen = columns(values={"x": "v"}, time=["time"])

    assert from_csv(written(tmp_path, TEXT), chosen, a_task("x")).devices == ["oven", "oven"]


def test_a_device_that_is_a_column_is_not_taken_for_the_name_of_all(tmp_path):
    with pytest.raises(
        ConfigError, match=r"--device who: .* has a column of that name; give --device-column"
    ):
        from_csv(written(tmp_path, TEXT), columns(values={"x": "v"}, device="who"), a_task("x"))


def test_a_mistyped_device_column_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"a\.csv: column 'whom' is not in the header: 'time', 'v', 'who'"):
        from_csv(written(tmp_path, TEXT), columns(device_column="whom"), a_task("v"))


def test_a_value_without_an_option_is_the_column_of_its_name(tmp_path):
    readings = from_csv(written(tmp_path, TEXT), columns(time=["time"]), a_task("v"))

    assert readings.rows.tolist() == [[1.5], [2.5]]


def test_rows_without_times_are_a_step_apart(tmp_path):
    readings = from_csv(written(tmp_path, "x\n1\n2\n3\n"), columns(step_ms=50), a_task("x"))

    assert readings.times_ms.tolist() == [0, 50, 100]


@pytest.mark.parametrize(
    ("text", "chosen"),
    [
        ("t,x\n1.5,2.5\n", {"time": ["t"], "time_format": "s"}),
        ("t;x\n1500;2,5\n", {"time": ["t"], "time_format": "ms", "decimal": ","}),
        ("d;h;x\n01/01/1970;00:00:01.5;2.5\n", {"time": ["d", "h"], "time_format": "%d/%m/%Y %H:%M:%S.%f"}),
    ],
)
def test_numbers_and_times_are_read_in_the_form_that_is_given(tmp_path, text, chosen):
    separator = ";" if ";" in text else ","

    readings = from_csv(written(tmp_path, text), columns(**chosen), a_task("x"), separator)

    assert readings.times_ms.tolist() == [1500]
    assert readings.rows.tolist() == [[2.5]]


def test_the_label_is_a_column(tmp_path):
    path = written(tmp_path, "x,y\n1,3\n2,\n3,nan\n4,none\n")
    chosen = columns(label="y", missing=frozenset({"none"}))

    readings = from_csv(path, chosen, a_task("x", kind="regression"))

    assert np.array_equal(readings.labels, [3, np.nan, np.nan, np.nan], equal_nan=True)


def test_a_number_that_stands_for_missing_does_so_however_it_is_written(tmp_path):
    path = written(tmp_path, "x,y\n1,-200\n2,-200.0\n-200.00,3\n3,-20\n")
    chosen = columns(label="y", missing=frozenset({"-200"}))

    readings = from_csv(path, chosen, a_task("x", kind="regression"))

    assert readings.rows.tolist() == [[1], [2], [3]]
    assert np.array_equal(readings.labels, [np.nan, np.nan, -20], equal_nan=True)


def test_rows_that_cannot_be_used_are_counted_and_the_first_is_told(tmp_path):
    path = written(
        tmp_path,
        "time,x\n2020-01-01,1\nyesterday,2\n2020-01-03,1_000\n2020-01-04,\n2020-01-05\n2020-01-06,inf\n",
    )

    refusals = from_csv(path, columns(time=["time"]), a_task("x")).refusals

    assert refusals.counts == {
        Reason.BAD_TIME: 1,
        Reason.MALFORMED_PAYLOAD: 1,
        Reason.MISSING_VALUE: 1,
        Reason.WRONG_SHAPE: 1,
        Reason.NOT_FINITE: 1,
    }
    assert refusals.first[Reason.BAD_TIME] == "row 3: time 'yesterday' is not ISO 8601"
    assert refusals.first[Reason.MALFORMED_PAYLOAD] == "row 4: x is not a number: '1_000'"


def test_a_row_that_lacks_one_of_several_values_is_no_reading(tmp_path):
    readings = from_csv(written(tmp_path, "x,y\n1,2\n3,\n"), columns(), a_task("x", "y"))

    assert readings.rows.tolist() == [[1, 2]]
    assert readings.refusals.first == {Reason.MISSING_VALUE: "row 3: value 'y' is missing"}


@pytest.mark.parametrize(
    ("kind", "chosen", "faults"),
    [
        (
            "regression",
            {"values": {"z": "b"}},
            ["--value z: the task has no such value; it has x", "--label: a regression needs the column of"],
        ),
        (
            "forecast",
            {"values": {"x": "a"}, "time": ["when"]},
            ["column 'a' is not in the header: 'time', 'v', 'who'", "column 'when' is not"],
        ),
    ],
)
def test_every_missing_column_is_told_at_once(tmp_path, kind, chosen, faults):
    with pytest.raises(ConfigError) as caught:
        from_csv(written(tmp_path, TEXT), columns(**chosen), a_task("x", kind=kind))

    for fault in faults:
        assert fault in caught.value.detail


def damaged_gzip():
    content = bytearray(gzip.compress(b"x\n" + b"".join(b"%d\n" % (n * n) for n in range(9999))))
    content[len(content) // 2 :] = b"\xff" * (len(content) - len(content) // 2)
    return bytes(content)


@pytest.mark.parametrize(
    ("name", "content", "error", "fault"),
    [
        ("a.csv", b"", ConfigError, "no header in the first line"),
        ("a.csv", b"x\n", UnsuitableDataError, "no reading can be used"),
        ("a.csv", b"x\nnan\nnan\n", UnsuitableDataError, "2 refused, row 2: all values are missing"),
        ("a.csv", b"x,x\n1,2\n", ConfigError, "column 'x' stands 2 times in the header"),
        ("a.csv", b"\xff\xfe\x00", ConfigError, "column 'x' is not in the header"),
        ("a.csv.gz", b"plain", StorageError, "cannot be read to its end: Not a gzipped file"),
        ("a.csv.gz", damaged_gzip(), StorageError, "cannot be read to its end: Error -3"),
        ("none.csv", None, ConfigError, "cannot be read: No such file"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(tmp_path, name, content, error, fault):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(error, match=f"{name}: .*{fault}"):
        from_csv(path, columns(), a_task("x"))
