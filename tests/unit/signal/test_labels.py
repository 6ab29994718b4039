"""Which reading a label speaks of."""

from __future__ import annotations

import numpy as np

from atoll_contract.messages import Label
from atoll_signal.labels import Arrived, LabelJoin


def joined(times, labels, *, devices=None, arrivals=None, tolerance_ms=100.0):
    """Return the label of each reading; labels are (device, arrival, Label)."""
    devices = devices or ["a"] * len(times)
    arrivals = arrivals or list(range(len(times)))
    join = LabelJoin(devices, np.array(times, float), np.array(arrivals, float), tolerance_ms)
    values, lost = join.join(Arrived(device, arrival, label) for device, arrival, label in labels)
    return [None if np.isnan(value) else value for value in values], lost


def point(time_ms, value):
    return Label(value=value, time_ms=time_ms)


def test_a_label_goes_to_the_reading_of_its_time():
    assert joined([1000, 2000, 3000], [("a", 9, point(2000.0, 5.0))]) == ([None, 5.0, None], 0)


def test_else_to_the_latest_reading_before_it_within_the_tolerance():
    assert joined([1000, 2000, 3000], [("a", 9, point(2100.0, 5.0))]) == ([None, 5.0, None], 0)
    assert joined([1000, 2000, 3000], [("a", 9, point(2101.0, 5.0))]) == ([None, None, None], 1)
    assert joined([1000, 2000, 3000], [("a", 9, point(999.0, 5.0))]) == ([None, None, None], 1)


def test_never_to_a_reading_of_another_device():
    found = joined(
        [1000, 1000], [("b", 9, point(1000.0, 5.0)), ("c", 9, point(1000.0, 6.0))], devices=["a", "b"]
    )

    assert found == ([None, 5.0], 1)


def test_a_span_speaks_of_every_reading_in_it_but_not_of_its_end():
    label = Label(value=1.0, start_ms=1500.0, end_ms=3000.0)

    assert joined([1000, 1500, 2500, 3000], [("a", 9, label)]) == ([None, 1.0, 1.0, None], 0)


def test_the_later_label_of_a_reading_holds():
    assert joined([1000], [("a", 5, point(1000.0, 1.0)), ("a", 6, point(1000.0, 2.0))]) == ([2.0], 0)


def test_where_time_stepped_back_each_label_goes_to_the_reading_it_followed():
    times = [1000, 2000, 1000, 2000]
    labels = [("a", 0.5, point(1000.0, 1.0)), ("a", 2.5, point(1000.0, 3.0)), ("a", 3.5, point(2000.0, 4.0))]

    assert joined(times, labels) == ([1.0, None, 3.0, 4.0], 0)


def test_a_label_that_came_before_its_reading_is_joined():
    assert joined([1000], [("a", -5, point(1000.0, 1.0))]) == ([1.0], 0)


def test_the_label_of_a_lost_reading_leaves_its_neighbours_exact_label_alone():
    labels = [("a", 9, point(1000.0 + time_ms, float(time_ms))) for time_ms in (0, 100, 200, 300)]

    assert joined([1000, 1100, 1300], labels) == ([0.0, 100.0, 300.0], 1)
    assert joined([1000, 1100, 1300], labels[::-1]) == ([0.0, 100.0, 300.0], 1)
