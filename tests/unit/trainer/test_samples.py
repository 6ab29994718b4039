"""Sample readings for golden vectors."""

from __future__ import annotations

import numpy as np
import pytest

from atoll_contract.errors import ConfigError
from atoll_trainer.samples import read_samples, spread


def test_consecutive_rows_of_a_csv_file_make_windows(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text("b,note,a\n1,x,10\n2,y,20\n3,z,30\n")

    windows = read_samples(path, ["a", "b"], length=2, columns=2)

    assert windows.tolist() == [[[10, 1], [20, 2]], [[20, 2], [30, 3]]]
    assert windows.dtype == np.float32


def test_columns_with_other_names_count_in_their_order(tmp_path):
    path = tmp_path / "s.csv"
    path.write_text("a0,a1\n1,2\n")

    assert read_samples(path, ["image"], length=1, columns=2).tolist() == [[[1, 2]]]


@pytest.mark.parametrize("shape", [(5, 4, 6), (5, 24), (5, 4, 2, 3)])
def test_an_array_may_have_any_shape_with_as_many_numbers(tmp_path, shape):
    path = tmp_path / "s.npy"
    np.save(path, np.arange(120, dtype=np.uint8).reshape(shape))

    windows = read_samples(path, ["x"], length=4, columns=6)

    assert windows.shape == (5, 4, 6)
    assert windows.reshape(-1).tolist() == list(range(120))


def test_one_window_needs_no_first_axis(tmp_path):
    path = tmp_path / "s.npy"
    np.save(path, np.zeros((4, 6)))

    assert read_samples(path, ["x"], length=4, columns=6).shape == (1, 4, 6)


@pytest.mark.parametrize(
    ("name", "content", "fault"),
    [
        ("s.csv", "a\n1\n", "1 columns .a.; the features a, b need 2"),
        ("s.csv", "a,b\n1,2\n", "1 rows; a window needs 2"),
        ("s.csv", "a,b\n1,2\n3,x\n", "row 3: b is not a number: 'x'"),
        ("s.csv", "a,b\n1,2\n3\n", "row 3: not 2 numbers"),
        ("s.csv", "a,b\n1,2\n3,nan\n", "row 3: b is not finite"),
        ("s.csv", "a,b\n1,2\n1_000,3\n", "row 3: a is not a number"),
        ("s.csv", "a,b,a\n1,2,3\n1,2,3\n", "column 'a' stands 2 times"),
        ("s.csv", "", "no header in the first line"),
        ("s.npy", "text", "not an array of numbers"),
        ("none.csv", None, "cannot be read"),
        ("none.npy", None, "not an array of numbers"),
    ],
)
def test_a_file_that_does_not_fit_is_named(tmp_path, name, content, fault):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)

    with pytest.raises(ConfigError, match=f"{name}: .*{fault}"):
        read_samples(path, ["a", "b"], length=2, columns=2)


def test_an_array_of_another_size_is_refused_with_the_shape_it_needs(tmp_path):
    np.save(tmp_path / "s.npy", np.zeros((3, 5)))

    with pytest.raises(ConfigError, match=r"shape \(3, 5\); windows need \(n, 2, 3\)"):
        read_samples(tmp_path / "s.npy", ["x"], length=2, columns=3)


def test_pickled_objects_are_not_loaded(tmp_path):
    np.save(tmp_path / "s.npy", np.array([{}], dtype=object), allow_pickle=True)

    with pytest.raises(ConfigError, match="not an array of numbers"):
        read_samples(tmp_path / "s.npy", ["x"], length=1, columns=1)


def test_golden_windows_are_few_and_spread_from_first_to_last():
    windows = np.arange(1000, dtype=np.float32).reshape(1000, 1, 1)

    chosen = spread(windows)

    assert len(chosen) == 32
    assert (chosen[0, 0, 0], chosen[-1, 0, 0]) == (0, 999)
    assert len(spread(np.zeros((10, 1, 128 * 128 * 3), np.float32))) == 5
    assert len(spread(np.zeros((3, 1, 1), np.float32))) == 3


def test_a_shape_beyond_the_file_is_refused_unread(tmp_path):
    path = tmp_path / "s.npy"
    np.save(path, np.zeros((1, 1)))
    content = path.read_bytes()
    assert b"(1, 1), }           " in content
    path.write_bytes(content.replace(b"(1, 1), }           ", b"(99999999999999, 1)}"))

    with pytest.raises(ConfigError, match=r"s\.npy: not an array of numbers"):
        read_samples(path, ["x"], length=1, columns=1)


@pytest.mark.parametrize("place", range(10, 118, 3))
def test_a_broken_header_is_refused(tmp_path, place):
    path = tmp_path / "s.npy"
    np.save(path, np.zeros((1, 1)))
    content = bytearray(path.read_bytes())
    content[place] = ord("(")
    path.write_bytes(content)

    try:
        read_samples(path, ["x"], length=1, columns=1)
    except ConfigError as error:
        assert "s.npy: not an array of numbers" in error.detail  # noqa: PT017 - both ways are right


@pytest.mark.parametrize(
    "samples",
    [
        np.array([[1 + 2j]]),
        np.array([["2020-01-01"]], "datetime64[s]"),
        np.array([[1]], "timedelta64[s]"),
        np.array([["1.5"]]),
    ],
)
def test_what_are_no_numbers_are_not_made_some(tmp_path, samples):
    np.save(tmp_path / "s.npy", samples)

    with pytest.raises(ConfigError, match=r"s\.npy: not an array of numbers"):
        read_samples(tmp_path / "s.npy", ["x"], length=1, columns=1)


def test_numbers_beyond_float32_are_refused(tmp_path):
    np.save(tmp_path / "s.npy", np.array([[1e300]]))

    with pytest.raises(ConfigError, match="samples must be finite"):
        read_samples(tmp_path / "s.npy", ["x"], length=1, columns=1)
