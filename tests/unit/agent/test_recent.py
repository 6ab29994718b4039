from __future__ import annotations

from atoll_agent.lane import recent as module
from atoll_agent.lane.recent import Asked, Recent
from atoll_contract.messages import Label, Reading


def remembered(*times: float, device: str = "d") -> Recent:
    recent = Recent()
    for time_ms in times:
        recent.add(device, time_ms, Asked(Reading({}, time_ms)))
    return recent


def found(recent: Recent, tolerance_ms: float = 0.0, device: str = "d", **label) -> list[float | None]:
    labelled = recent.labelled(device, Label(value=1, **label), tolerance_ms)
    assert all(asked.label == 1 for asked in labelled)
    return [asked.reading.time_ms for asked in labelled]


def test_a_label_belongs_to_the_window_of_its_moment():
    assert found(remembered(1, 2, 3), time_ms=2.0) == [2]


def test_a_later_label_belongs_to_the_latest_window_before_it_within_the_tolerance():
    assert found(remembered(1, 2, 9), tolerance_ms=3, time_ms=4.0) == [2]
    assert found(remembered(1, 2, 9), tolerance_ms=1, time_ms=4.0) == []


def test_a_label_of_a_span_belongs_to_all_windows_that_ended_in_it():
    assert found(remembered(1, 2, 3, 4), start_ms=2.0, end_ms=4.0) == [2, 3]


def test_a_window_has_one_label_and_a_second_one_does_not_go_to_an_older_window():
    recent = remembered(1, 2)

    assert found(recent, tolerance_ms=5, time_ms=2.0) == [2]
    assert found(recent, tolerance_ms=5, time_ms=2.0) == []


def test_labels_of_other_devices_belong_to_nothing():
    assert found(remembered(1), device="other", time_ms=1.0) == []


def test_it_remembers_a_bounded_number_and_the_longest_silent_device_goes_first(monkeypatch):
    monkeypatch.setattr(module, "MAX_PER_DEVICE", 2)
    monkeypatch.setattr(module, "MAX_IN_ALL", 4)
    recent = Recent()

    for device, time_ms in (("a", 1), ("a", 2), ("a", 3), ("b", 1), ("b", 2), ("c", 1)):
        recent.add(device, time_ms, Asked(Reading({}, time_ms)))

    assert found(recent, device="a", start_ms=0.0, end_ms=9.0) == [3]
    assert found(recent, device="c", time_ms=1.0) == [1]
