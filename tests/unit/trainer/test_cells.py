"""Values and labels that are made of the cells of a row."""

from __future__ import annotations

from pathlib import Path

import pytest

from atoll_contract.errors import ConfigError, MalformedMessageError
from atoll_link.csv_columns import Columns, RowReader
from atoll_trainer.cells import Cells
from atoll_trainer.task import TaskFile

HEADER = ["Type", "Used", "All", "Temp", "Good", "Bad"]


def a_task(csv, labels=("good", "bad"), values=("x",)):
    kind = {"kind": "classification", "labels": list(labels)} if labels else {"kind": "regression"}
    task = {"model": "m", "stream": "s", "values": {name: {} for name in values}, **kind}
    return TaskFile.model_validate({"task": task, "csv": csv})


def read(task, cells, label=None, missing=()):
    columns = Columns(time=[], values={}, device="d", label=label, missing=frozenset(missing))
    made = Cells(task, columns, HEADER, Path("a.csv"))
    return RowReader(made.columns, made.header).read(2, made.of(cells))


def test_a_share_a_word_and_a_plain_column():
    csv = {
        "values": {
            "rate": {"column": "Used", "per": "All"},
            "grade": {"column": "Type", "words": ["L", "M", "H"]},
        }
    }
    task = a_task(csv, labels=(), values=("rate", "grade", "Temp"))

    row = read(task, ["H", "3", "4", "20", "1", "0"])

    assert row.values == {"rate": 0.75, "grade": 2, "Temp": 20}


@pytest.mark.parametrize(
    ("cells", "fault"),
    [(["H", "3", "0", "", "", ""], "All is 0"), (["Q", "3", "4", "", "", ""], "none of L, M, H: 'Q'")],
)
def test_what_cannot_be_made_is_refused_by_name(cells, fault):
    csv = {
        "values": {
            "rate": {"column": "Used", "per": "All"},
            "grade": {"column": "Type", "words": ["L", "M", "H"]},
        }
    }

    with pytest.raises(MalformedMessageError, match=fault):
        read(a_task(csv, labels=(), values=("rate", "grade")), cells)


def test_missing_cells_make_a_missing_value():
    csv = {"values": {"rate": {"column": "Used", "per": "All"}}}

    assert read(a_task(csv, labels=(), values=("rate", "Temp")), ["H", "", "4", "1", "", ""]).values == {
        "Temp": 1
    }


def test_what_is_made_of_cells_is_never_a_number_that_stands_for_missing():
    csv = {"values": {"grade": {"column": "Type", "words": ["L", "M", "H"]}}}
    task = a_task(csv, labels=("L", "H"), values=("grade", "Temp"))

    row = read(task, ["L", "", "", "2.0", "", ""], label="Type", missing=["0.0", "2"])

    assert (row.values, row.label) == ({"grade": 0}, 0)


def test_a_label_may_be_the_name_or_the_place_of_its_class():
    task = a_task({}, labels=("L", "H"), values=("Temp",))

    assert read(task, ["H", "", "", "1", "", ""], label="Type").label == 1
    assert read(task, ["0", "", "", "1", "", ""], label="Type").label == 0
    with pytest.raises(MalformedMessageError, match="label is none of L, H: 'M'"):
        read(task, ["M", "", "", "1", "", ""], label="Type")


def test_a_label_may_have_a_column_for_each_class():
    task = a_task({"label": ["Good", "Bad"]}, values=("Temp",))

    assert read(task, ["", "", "", "1", "0", "1"]).label == 1
    with pytest.raises(MalformedMessageError, match="2 of the 2 columns are 1"):
        read(task, ["", "", "", "1", "1", "1"])
    with pytest.raises(ConfigError, match=r"2 columns for 3 task\.labels"):
        read(a_task({"label": ["Good", "Bad"]}, labels=("a", "b", "c"), values=("Temp",)), ["1"] * 6)
