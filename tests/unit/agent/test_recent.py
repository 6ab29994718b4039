from __future__ import annotations

from atoll_agent.lane import recent as module
from atoll_agent.lane.recent import Recent
from atoll_contract.messages import Label


def noted(*times: float, device: str = "d") -> Recent:
    recent = Recent()
    for time_ms in times:
        recent.of(device, time_ms)
    return recent


def found(recent: Recent, tolerance_ms: float = 0.0, device: str = "d", **label) -> list[float]:
    return [one.time_ms for one in recent.labelled(device, Label(value=1, **label), tolerance_ms)]


def test_a_label_belongs_to_the_window_of_its_moment():
    assert found(noted(1, 2, 3), time_ms=2.0) == [2]


def test_a_later_label_belongs_to_the_latest_window_before_it_within_the_tolerance():
    assert found(noted(1, 2, 9), tolerance_ms=3, time_ms=4.0) == [2]
    assert found(noted(1, 2, 9), tolerance_ms=1, time_ms=4.0) == []


def test_a_label_of_a_span_belongs_to_all_windows_that_ended_in_it():
    assert found(noted(1, 2, 3, 4), start_ms=2.0, end_ms=4.0) == [2, 3]


def test_a_window_has_one_label():
    recent = noted(1)

    assert (found(recent, time_ms=1.0), found(recent, time_ms=1.0)) == ([1], [])


def test_labels_of_other_devices_belong_to_nothing():
    assert found(noted(1), device="other", time_ms=1.0) == []


def test_it_remembers_a_bounded_number_the_longest_silent_device_goes_first(monkeypatch):
    monkeypatch.setattr(module, "MAX_PER_DEVICE", 2)
    monkeypatch.setattr(module, "MAX_IN_ALL", 4)
    recent = Recent()

    for device, time_ms in (("a", 1), ("a", 2), ("a", 3), ("b", 1), ("b", 2), ("c", 1)):
        recent.of(device, time_ms)

    assert recent.forgotten == 2
    assert found(recent, device="a", start_ms=0.0, end_ms=9.0) == [3]
    assert found(recent, device="c", time_ms=1.0) == [1]
