"""Which windows are learnt from, which choose, and which nobody looks at before the end."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

import numpy as np
from numpy.typing import NDArray

from atoll_contract.errors import ConfigError
from atoll_trainer.task_tables import Order, SplitTable

Places = NDArray[np.int64]
_ROUNDING: Final = 1e-6
"""A share of 0.7 + 0.1 is a little less than 0.8."""


def parts(
    table: SplitTable,
    times_ms: NDArray[np.float64],
    *,
    classes: NDArray[np.float64] | None = None,
    devices: Places | None = None,
    is_test: NDArray[np.bool_] | None = None,
    until_ms: NDArray[np.float64] | None = None,
) -> tuple[Places, Places, Places]:
    """Return the places of training, validation and test part, each in order.

    Where the parts follow each other in time, no target of one lies in the time of the next.

    Args:
        table: How they are parted.
        times_ms: Of n windows, in order of time.
        classes: Of each, where equal shares of each class are dealt by lot.
        devices: Number of the device of each.
        is_test: Which are of a file of their own, kept for the test.
        until_ms: When the target of each is known.

    Raises:
        ConfigError: ``test_from`` is no moment.
    """
    everything = np.arange(len(times_ms))
    has_own_file = is_test is not None
    if is_test is None and table.test_from is not None:
        is_test = times_ms >= _moment_ms(table.test_from)
    if table.grouped and devices is not None:
        return _by_device(table, devices, is_test)
    order = everything
    if table.order is Order.SHUFFLED:
        order = _dealt(table, everything if classes is None else classes)
    if is_test is None and table.fold is not None:
        is_test = np.zeros(len(order), np.bool_)
        # Class by class, so that each part has its share of every one to within one window.
        by_class = order if classes is None else order[np.argsort(classes[order], kind="stable")]
        is_test[by_class[table.fold :: table.folds]] = True
    if is_test is None:
        first, second = _bounds(table, len(order))
        found = order[:first], order[first:second], order[second:]
    else:
        rest = order[~is_test[order]]
        _, validation = _bounds_of_rest(table, len(rest))
        found = rest[: len(rest) - validation], rest[len(rest) - validation :], order[is_test[order]]
    train, chosen_by, test = (np.sort(part) for part in found)
    if until_ms is None or table.order is Order.SHUFFLED:
        return train, chosen_by, test
    if not has_own_file and len(test):
        rest = np.concatenate([train, chosen_by])
        apart = rest[until_ms[rest] <= times_ms[test].min()]
        if len(apart) < len(rest):
            first, _ = _bounds_of_rest(table, len(apart))
            train, chosen_by = apart[:first], apart[first:]
    if len(chosen_by):
        train = train[until_ms[train] <= times_ms[chosen_by].min()]
    return train, chosen_by, test


def _bounds(table: SplitTable, count: int) -> tuple[int, int]:
    first, second = (
        int(count * share + _ROUNDING) for share in (table.train, table.train + table.validation)
    )
    return first, second


def _bounds_of_rest(table: SplitTable, count: int) -> tuple[int, int]:
    """Return how many of ``count`` train and how many choose, where the test part stands apart."""
    share = table.validation / (table.train + table.validation)
    validation = int(count * share + _ROUNDING)
    return count - validation, validation


def _dealt(table: SplitTable, classes: NDArray[np.generic]) -> Places:
    """Return all places by lot, so that every stretch holds the classes in nearly equal shares."""
    random = np.random.default_rng(table.seed)
    shuffled = random.permutation(len(classes))
    if classes.dtype.kind != "f":
        return shuffled
    own = classes[shuffled]
    # Each window is placed by its rank within its class: classes are interleaved evenly.
    rank = np.zeros(len(own))
    for one in np.unique(own):
        places = np.flatnonzero(own == one)
        rank[places] = (np.arange(len(places)) + random.random()) / len(places)
    return shuffled[np.argsort(rank, kind="stable")]


def _by_device(
    table: SplitTable, devices: Places, is_test: NDArray[np.bool_] | None
) -> tuple[Places, Places, Places]:
    is_kept = np.zeros(len(devices), np.bool_) if is_test is None else is_test
    names = np.unique(devices[~is_kept])
    if is_test is None:
        first, second = _bounds(table, len(names))
    else:
        first, _ = _bounds_of_rest(table, len(names))
        second = len(names)
    chosen = names[:first], names[first:second], names[second:]
    train, validation, test = (np.flatnonzero(np.isin(devices, part) & ~is_kept) for part in chosen)
    return train, validation, np.flatnonzero(is_kept) if is_test is not None else test


def _moment_ms(text: str) -> float:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise ConfigError(f"split.test_from: {text!r} is no moment like 2016-12-06T08:00") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1e3
