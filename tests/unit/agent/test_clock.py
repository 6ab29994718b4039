from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from atoll_agent.adapters import clock
from atoll_agent.adapters.clock import BUILD_TIME, PassedTime, SystemClock


@pytest.fixture
def system(tmp_path, monkeypatch):
    """What a machine says of its clock: ``synchronized`` is the file, ``kernel`` the state of adjtimex."""
    said = {"kernel": False}
    monkeypatch.setattr(clock, "_TIMESYNCD", tmp_path / "synchronized")
    monkeypatch.setattr(clock, "_is_kernel_synchronised", lambda: said["kernel"])
    return said


def test_a_clock_counts_as_set_when_timesyncd_or_the_kernel_says_so(system, tmp_path):
    assert SystemClock().is_time_unsynced

    system["kernel"] = True
    assert not SystemClock().is_time_unsynced

    system["kernel"] = False
    (tmp_path / "synchronized").touch()
    assert not SystemClock().is_time_unsynced


def test_the_settings_may_know_better(system):
    assert not SystemClock("trusted").is_time_unsynced
    system["kernel"] = True
    assert SystemClock("untrusted").is_time_unsynced


def test_a_look_tells_whether_something_has_changed(system):
    seen = SystemClock()
    assert not seen.look()

    system["kernel"] = True
    assert seen.is_time_unsynced  # nobody has looked
    assert seen.look()
    assert not seen.is_time_unsynced
    assert not seen.look()


def test_the_kernel_answers():
    assert clock._is_kernel_synchronised() in {True, False}


def test_the_time_that_has_passed_only_grows(tmp_path):
    passed = PassedTime(tmp_path / "time")
    later = BUILD_TIME + timedelta(days=5)
    assert passed.read() == BUILD_TIME

    passed.learn(later)
    passed.learn(datetime(1970, 1, 1, tzinfo=UTC))

    assert PassedTime(tmp_path / "time").read() == later
