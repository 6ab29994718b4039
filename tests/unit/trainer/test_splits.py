"""Which windows are learnt from, and which are kept."""

from __future__ import annotations

import numpy as np
import pytest

from atoll_contract.errors import ConfigError
from atoll_trainer.splits import parts
from atoll_trainer.task_tables import SplitTable

TIMES = np.arange(100) * 3_600_000.0


def test_parts_follow_each_other_in_time():
    train, validation, test = parts(SplitTable(train=0.7, validation=0.1), TIMES)

    assert (train[0], train[-1], validation[0], validation[-1], test[0], test[-1]) == (0, 69, 70, 79, 80, 99)


def test_a_shuffled_split_deals_each_class_in_equal_shares_and_is_the_same_each_time():
    classes = np.array([1.0] * 10 + [0.0] * 90)
    table = SplitTable(order="shuffled", train=0.5, validation=0.2, seed=3)

    found = parts(table, TIMES, classes=classes)

    assert sorted(np.concatenate(found).tolist()) == list(range(100))
    assert [len(part) for part in found] == [50, 20, 30]
    assert [int(classes[part].sum()) for part in found] == [5, 2, 3]
    again = parts(table, TIMES, classes=classes)
    assert all(np.array_equal(one, other) for one, other in zip(found, again, strict=True))


def test_folds_cover_every_window_once():
    classes = np.array([1.0] * 10 + [0.0] * 90)
    tests = [
        parts(SplitTable(order="shuffled", fold=fold, train=0.8, validation=0.2), TIMES, classes=classes)[2]
        for fold in range(5)
    ]

    assert sorted(np.concatenate(tests).tolist()) == list(range(100))
    assert [int(classes[test].sum()) for test in tests] == [2] * 5


def test_a_moment_parts_the_test_and_the_rest_is_parted_by_the_shares():
    table = SplitTable(train=0.75, validation=0.25, test_from="1970-01-03T08:00")

    train, validation, test = parts(table, TIMES)

    assert (len(train), len(validation), len(test)) == (42, 14, 44)
    assert test[0] == 56


def test_a_moment_that_is_none_is_named():
    with pytest.raises(ConfigError, match=r"split\.test_from: '2016-13-06' is no moment"):
        parts(SplitTable(test_from="2016-13-06"), TIMES)


def test_devices_stand_whole_in_one_part():
    devices = np.arange(100) % 10

    found = parts(SplitTable(train=0.5, validation=0.2, grouped=True), TIMES, devices=devices)

    assert [sorted(set(devices[part].tolist())) for part in found] == [[0, 1, 2, 3, 4], [5, 6], [7, 8, 9]]
