"""World files: read whole, or refused with all faults."""

from __future__ import annotations

import tomllib

import pytest
from pydantic import ValidationError

from atoll_sim.device import Sample
from atoll_sim.faults import Step
from atoll_sim.world import WorldFile

WORLD = """
[world]
site = "plant-a"
seed = 7
trusted_writers = ["demo"]

[[device]]
prefix = "press"
count = 3
stream = "press"
rate_hz = 10

[device.signal.x]
shape = "uniform"
low = -1
high = 1

[device.truth]
model = "wear"
slope = { x = 2.0 }

[[device.fault]]
kind = "step"
value = "x"
start_s = 1
size = 2
only = [2]

[[device]]
prefix = "room"
stream = "climate"
rate_hz = 1
qos = 0

[device.signal.temperature]
shape = "constant"
mean = 21
"""


def world(text: str = WORLD) -> WorldFile:
    return WorldFile.model_validate(tomllib.loads(text))


def series(file: WorldFile, count: int = 20, seed: int | None = None) -> dict[str, list[Sample]]:
    return {device.plan.device: [device.take() for _ in range(count)] for device in file.build(seed)}


def test_a_world_holds_the_devices_of_its_tables() -> None:
    plans = [device.plan for device in world().build()]

    assert [(plan.device, plan.stream, plan.rate_hz, plan.qos) for plan in plans] == [
        ("press-1", "press", 10.0, 1),
        ("press-2", "press", 10.0, 1),
        ("press-3", "press", 10.0, 1),
        ("room-1", "climate", 1.0, 0),
    ]
    assert [plan.faults for plan in plans] == [
        (),
        (Step(value="x", start_s=1.0, size=2.0, only=(2,)),),
        (),
        (),
    ]


def test_the_same_world_and_seed_give_the_same_series_and_devices_differ() -> None:
    first, second = series(world()), series(world())

    assert first == second
    assert first["press-1"] != first["press-3"]
    assert series(world(), seed=7) == first
    assert series(world(), seed=8)["press-1"] != first["press-1"]


def test_one_more_device_at_the_end_leaves_the_others_as_they_were() -> None:
    signal = '[device.signal.z]\nshape = "constant"\nmean = 1\n'
    more = WORLD + '[[device]]\nprefix = "z"\nstream = "z"\nrate_hz = 1\n' + signal

    assert {name: one for name, one in series(world(more)).items() if name != "z-1"} == series(world())


@pytest.mark.parametrize(
    ("old", "new", "where", "what"),
    [
        ('site = "plant-a"', 'site = "releases"', ("world", "site"), "reserved"),
        ("seed = 7", "seed = -7", ("world", "seed"), "greater than or equal to 0"),
        ("seed = 7", "sead = 7", ("world", "sead"), "Extra inputs"),
        ('["demo"]', '["demo/#"]', ("world", "trusted_writers", 0), "pattern"),
        ("count = 3", "count = 0", ("device", 0, "count"), "greater than or equal to 1"),
        ("rate_hz = 10", "rate_hz = inf", ("device", 0, "rate_hz"), "finite"),
        ("qos = 0", "qos = 2", ("device", 1, "qos"), "0 or 1"),
        ('"uniform"', '"square"', ("device", 0, "signal", "x"), "'square'"),
        ("low = -1", "low = 1", ("device", 0, "signal", "x", "uniform"), "below high"),
        ("low = -1", "low = -1\nmean = 1", ("device", 0, "signal", "x", "uniform", "mean"), "Unexpected"),
        ("size = 2", "rate = 2", ("device", 0, "fault", 0, "step", "size"), "required"),
        ("x = 2.0", "z = 2.0", ("device", 0), "truth.slope names 'z'"),
        ('value = "x"', 'value = "z"', ("device", 0), "fault[0].value is 'z'"),
        ("only = [2]", "only = [4]", ("device", 0), "fault[0].only"),
        ('prefix = "press"', f'prefix = "{"p" * 47}"', ("device", 0), "longer than 48"),
        ('prefix = "room"', 'prefix = "press"', (), "'press-1' stands twice"),
        ("slope = {", "label_delay_s = 1e6\nslope = {", (), "labels would wait"),
    ],
)
def test_a_fault_is_named_with_its_place(old: str, new: str, where: tuple[str | int, ...], what: str) -> None:
    assert old in WORLD

    with pytest.raises(ValidationError) as refusal:
        world(WORLD.replace(old, new, 1))

    faults = refusal.value.errors(include_url=False)
    assert any(fault["loc"] == where and what in fault["msg"] for fault in faults), faults
