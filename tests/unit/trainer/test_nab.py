"""The score of the Numenta Anomaly Benchmark."""

from __future__ import annotations

import numpy as np
import pytest

from atoll_trainer.nab import nab_score, onsets

TIMES = np.arange(1000.0)
WINDOWS = [(300.0, 399.0), (700.0, 799.0)]


def detected(*places):
    is_detected = np.zeros(1000, np.bool_)
    is_detected[list(places)] = True
    return nab_score(TIMES, is_detected, WINDOWS)


def test_silence_misses_every_window():
    assert (detected().score, detected().found, detected().windows) == (-2.0, 0, 2)


def test_detections_at_the_left_edges_are_worth_one_each():
    assert detected(300, 700).score == pytest.approx(2.0)


def test_the_earliest_detection_of_a_window_counts_and_a_later_one_is_worth_less():
    assert detected(300, 350, 390, 700).score == pytest.approx(2.0)
    assert detected(350, 700).score == pytest.approx(1 + (2 / (1 + np.exp(-2.5)) - 1) / 0.98661, abs=1e-3)
    assert 1.0 < detected(399, 700).score < 1.05


def test_false_alarms_count_little_right_after_a_window_and_fully_far_from_all():
    #  0       150(probation)   300---399  401    650     700---799   999
    assert detected(200, 300, 700).score == pytest.approx(2 - 0.11)
    assert detected(300, 401, 700).score == pytest.approx(
        2 - 0.11 * (1 - 2 / (1 + np.exp(5 * 2 / 99))), abs=1e-6
    )
    assert detected(300, 700, 999).score == pytest.approx(2 - 0.11, abs=1e-4)
    assert detected(300, 700, 999).false_alarms == 1


def test_the_probationary_period_counts_nothing():
    assert detected(0, 149, 300, 700).score == pytest.approx(2.0)


def test_an_alarm_is_raised_once_for_what_lasts():
    is_over = np.zeros(1000, np.bool_)
    is_over[[10, 11, 12, 40, 41, 200]] = True

    assert np.flatnonzero(onsets(TIMES, is_over, hold_ms=50)).tolist() == [10, 200]
