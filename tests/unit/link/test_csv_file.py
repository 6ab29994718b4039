from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from atoll_contract.errors import ConfigError, StorageError
from atoll_link.csv_file import CsvFile, Line


def test_lines_keep_their_number_through_empty_and_quoted_ones(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(b'\xef\xbb\xbfa,b\r\n1, 2\r\n\r\n"x\ny",3\r\n\xff,4\r\n')

    file = CsvFile(path)

    assert file.header() == ["a", "b"]
    assert list(file.lines()) == [
        Line(2, ["1", "2"]),
        Line(5, ["x\ny", "3"]),
        Line(6, ["\ufffd", "4"]),
    ]
    assert [line.number for line in file.lines(first=3, limit=1)] == [5]


def test_a_line_that_is_no_csv_is_passed_over_and_told(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"a\n{'x' * 200_000}\n2\n")

    assert list(CsvFile(path).lines()) == [Line(2, None), Line(3, ["2"])]


def test_a_file_that_is_absent_or_empty_is_the_operators(tmp_path: Path) -> None:
    (tmp_path / "empty.csv").touch()

    for name in ("absent.csv", "empty.csv"):
        with pytest.raises(ConfigError, match=name):
            CsvFile(tmp_path / name).header()


@pytest.mark.parametrize("keep", [0.5, 0.999])
def test_a_gzip_file_that_is_cut_off_is_told(tmp_path: Path, keep: float) -> None:
    whole = gzip.compress("\n".join(["a", *map(str, range(100_000))]).encode())
    path = tmp_path / "a.csv.gz"
    path.write_bytes(whole[: int(len(whole) * keep)])

    with pytest.raises(StorageError, match=r"a\.csv\.gz"):
        list(CsvFile(path).lines())


def test_a_file_that_only_ends_in_gz_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_text("a\n1\n")

    with pytest.raises(StorageError, match=r"a\.csv\.gz"):
        CsvFile(path).header()
