"""What simulated devices publish, and of which readings they tell the truth."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from atoll_contract.errors import MalformedMessageError
from atoll_contract.messages import Label, decode_readings
from atoll_contract.topics import LabelTopic, ReadingTopic, parse
from atoll_sim.live import Counts, Live
from atoll_sim.schedule import Schedule
from atoll_sim.world import WorldFile

DEVICE: dict[str, Any] = {
    "prefix": "d",
    "stream": "x",
    "rate_hz": 1.0,
    "signal": {"x": {"shape": "walk", "low": 0, "high": 1, "step": 0.1}},
    "truth": {"model": "m", "slope": {"x": 1.0}, "label_delay_s": 2.0},
}


class Notebook:
    """An uplink that keeps what is published and never waits."""

    def __init__(self) -> None:
        self.readings: list[float | None] = []
        self.labels: list[float | None] = []

    def publish(self, topic: object, payload: bytes, _qos: int, _writer: str = "") -> bool:
        match parse(str(topic)):
            case ReadingTopic():
                with suppress(MalformedMessageError):
                    self.readings += [reading.time_ms for reading in decode_readings(payload)]
            case LabelTopic():
                self.labels.append(Label.decode(payload).time_ms)
        return True

    def rest_until(self, _due: float) -> bool:
        return True

    def hold(self, _writer: str, *, is_offline: bool) -> None:
        pass

    def settle(self) -> None:
        pass


def played(readings: int, **device: object) -> tuple[Notebook, Counts]:
    world = WorldFile.model_validate({"world": {"site": "s"}, "device": [{**DEVICE, **device}]})
    uplink, counts = Notebook(), Counts()
    live = Live("s", "b", uplink, 1.0, counts)  # type: ignore[arg-type]
    live.play(Schedule(world.build(1), readings))
    return uplink, counts


def test_only_readings_that_were_sent_have_labels() -> None:
    told, counts = played(
        300, firmware={"boot_s": 50.0, "batch": 6, "battery_readings": 100, "replace_s": 100.0, "buffer": 5}
    )

    assert 0 < counts.readings < 250
    assert told.labels == told.readings


def test_copies_of_a_reading_have_one_label_and_a_malformed_one_none() -> None:
    twice, _ = played(20, fault=[{"kind": "duplicate", "share": 1.0}])
    flood, _ = played(20, fault=[{"kind": "flood", "times": 5}])
    spoilt, _ = played(20, fault=[{"kind": "malformed", "share": 1.0}], truth=None)

    assert (len(twice.readings), len(twice.labels)) == (40, 20)
    assert (len(flood.readings), len(flood.labels)) == (100, 20)
    assert not spoilt.labels
