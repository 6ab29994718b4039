"""Two roads into a town, a sign where they part, and a signal where the longer one ends.

Each road is a chain of cells of 1.5 km (the cell transmission model of Daganzo, 1994): what a cell can
send is bounded by its capacity, what the next one takes by the room in it. The shorter road, ``north``,
ends in a bottleneck that lets 15 % less through once cars queue before it, as real ones do. ``south``
is one cell longer and ends at a signal that it shares with a cross street.

A sign, where the roads part, and the signal's plan can be commanded. Whoever sees the queue a few
minutes before it stands avoids the loss; whoever waits for it does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from atoll_contract.messages import Command
from atoll_sim.worlds import replayed
from atoll_sim.worlds.scenario import Figure, Lesson, Scenario, Sensed, World, task_text

_STEPS: Final = 900
"""06:00 to 21:00 in minutes."""
_NORTH, _SOUTH = 4, 5
_CELL_KM: Final = 1.5
_FREE_KMH: Final = 90.0
_CAPACITY: Final = 66.0
"""Cars a minute: two lanes."""
_ROOM: Final = 330.0
"""Cars in a cell that is full."""
_WAVE: Final = 0.25
"""Speed of a jam that grows backwards, in free speeds."""
_BOTTLENECK: Final = 44.0
_DROP: Final = 0.15
_SATURATION: Final = 74.0
"""Cars a minute through the signal while it is green."""
_CROSS_FREE_MIN: Final = 1.0
_USUAL_SHARE: Final = 0.28
_DIVERTED_SHARE: Final = 0.52
"""Of the cars that take the longer road, without and with the sign."""

_TASK: Final = task_text(
    """\
model = "speed"
stream = "road"
kind = "forecast"
target = "speed"
horizon = 6
[task.values]
speed = { unit = "km/h" }
flow = {}
occupancy = { unit = "%" }""",
    "length = 6\nmax_gap_ms = 600000.0",
    epochs=120,
)

_STREAMS: Final = """\
[[stream]]
name = "road"
values = { speed = { unit = "km/h" }, flow = {}, occupancy = { unit = "%" } }
"""

_MODELS: Final = """\
[[model]]
name = "speed"
stream = "road"

# The forecast, six minutes ahead, of any detector of the north road shows the queue to come.
[[rule]]
name = "north-slows"
model = "speed"
devices = ["north-2", "north-3", "north-4"]
when = { below = 66, clear = 74 }
group = { name = "north", combine = "any" }
[[rule.command]]
name = "divert"
device = "sign-1"
value = true
[[rule.command]]
on = "cleared"
name = "divert"
device = "sign-1"
value = false

[[rule]]
name = "south-slows"
model = "speed"
devices = ["south-4", "south-5"]
when = { below = 66, clear = 74 }
group = { name = "south", combine = "any" }
[[rule.command]]
name = "favour-south"
device = "signal-1"
value = true
[[rule.command]]
on = "cleared"
name = "favour-south"
device = "signal-1"
value = false

[[rule]]
name = "cross-slows"
model = "speed"
devices = ["cross-1"]
when = { below = 25, clear = 35 }
group = { name = "cross", combine = "any" }
[[rule.command]]
name = "favour-cross"
device = "signal-1"
value = true
[[rule.command]]
on = "cleared"
name = "favour-cross"
device = "signal-1"
value = false
"""


class Traffic(World):
    """The roads, minute by minute; see :class:`atoll_sim.worlds.scenario.World`."""

    def __init__(self, seed: int, data: Path | None = None, *, is_lesson: bool = False) -> None:
        chance = np.random.default_rng(seed)
        shape = (
            _two_peaks() if data is None else replayed.flow_of_a_day(data, seed, _STEPS, is_lesson=is_lesson)
        )
        day = 66.0 * chance.normal(1.0, 0.04) * shape
        # A match, a market, an accident elsewhere: more cars for a while, on no calendar.
        for start in chance.integers(0, _STEPS - 90, size=3):
            length = int(chance.integers(25, 60))
            day[start : start + length] += chance.uniform(6.0, 16.0)
        self._arrivals = chance.poisson(day)
        self._cross_arrivals = chance.poisson(np.clip(day * 0.32, 4.0, 28.0))
        self._noise = np.random.default_rng([seed, 1])
        self._roads = [np.zeros(_NORTH), np.zeros(_SOUTH)]
        self._flows = [np.zeros(_NORTH), np.zeros(_SOUTH)]
        self._waiting = [0.0, 0.0]
        self._cross = self._cross_flow = 0.0
        self._minute = -1
        self._is_diverting = False
        self._favours = {"south": False, "cross": False}
        self._car_minutes = self._delay_minutes = self._cars = 0.0
        self._longest = 0.0

    def advance(self) -> None:
        """See the protocol."""
        self._minute += 1
        at = self._minute % _STEPS
        share = _DIVERTED_SHARE if self._is_diverting else _USUAL_SHARE
        arrivals = float(self._arrivals[at])
        self._waiting[0] += arrivals * (1 - share)
        self._waiting[1] += arrivals * share
        green = 0.62 if self._favours["south"] else 0.55
        if self._favours["cross"]:
            green = 0.55 if self._favours["south"] else 0.45
        self._cross += float(self._cross_arrivals[at])
        self._cross_flow = min(self._cross, _SATURATION * (1 - green) * 0.9)
        self._cross -= self._cross_flow
        queues_before_bottleneck = self._roads[0][-1] > _BOTTLENECK * 1.1
        ends = (_BOTTLENECK * (1 - _DROP if queues_before_bottleneck else 1.0), _SATURATION * green * 0.95)
        for number, end in enumerate(ends):
            self._move(number, end)
        self._count(arrivals + float(self._cross_arrivals[at]), arrivals)

    def _move(self, number: int, end: float) -> None:
        cells = self._roads[number]
        sends = np.minimum(cells, _CAPACITY)
        takes = np.minimum(_CAPACITY, _WAVE * (_ROOM - cells))
        flows = np.minimum(sends, np.append(takes[1:], end))
        enters = min(self._waiting[number], _CAPACITY, float(takes[0]))
        self._waiting[number] -= enters
        cells -= flows
        cells += np.concatenate([[enters], flows[:-1]])
        self._flows[number] = flows

    def _count(self, cars: float, on_roads: float) -> None:
        there = sum(float(cells.sum()) for cells in self._roads) + sum(self._waiting)
        self._cars += cars
        self._car_minutes += there + self._cross
        # Cars of the shorter road need its cells in minutes when nobody is in their way.
        self._delay_minutes += there - on_roads * _NORTH + self._cross
        self._longest = max(self._longest, *(float(cells.max()) for cells in self._roads), *self._waiting)

    def sensed(self) -> Sequence[Sensed]:
        """See the protocol."""
        found = []
        for name, cells, flows in zip(("north", "south"), self._roads, self._flows, strict=True):
            for number, (cars, flow) in enumerate(zip(cells, flows, strict=True), start=1):
                speed = _FREE_KMH * min(1.0, flow / cars if cars > 1.0 else 1.0)
                found.append(self._detector(f"{name}-{number}", speed, flow, cars / _ROOM))
        # A car at the signal waits as long as the queue before it takes.
        waits = self._cross / max(self._cross_flow, 1.0)
        speed = 50.0 * _CROSS_FREE_MIN / (_CROSS_FREE_MIN + waits)
        found.append(self._detector("cross-1", speed, self._cross_flow, self._cross / 100))
        return found

    def _detector(self, device: str, speed: float, flow: float, share: float) -> Sensed:
        noise: NDArray[np.float64] = self._noise.standard_normal(3)
        values = {
            "speed": max(0.0, speed + 2.0 * float(noise[0])),
            "flow": max(0.0, flow + 1.5 * float(noise[1])),
            "occupancy": float(np.clip(100 * share + 0.5 * noise[2], 0, 100)),
        }
        return Sensed(device, "road", {name: round(float(value), 2) for name, value in values.items()})

    def obey(self, device: str, name: str, command: Command) -> bool:
        """See the protocol."""
        match device, name, command.value:
            case "sign-1", "divert", bool(value):
                self._is_diverting = value
            case "signal-1", "favour-south", bool(value):
                self._favours["south"] = value
            case "signal-1", "favour-cross", bool(value):
                self._favours["cross"] = value
            case _:
                return False
        return True

    def meddle(self, chance: Generator) -> None:
        """See the protocol."""
        if chance.random() < 1 / 20:
            self._is_diverting = bool(chance.random() < 1 / 3)
            self._favours = {name: bool(chance.random() < 1 / 3) for name in self._favours}

    def figures(self) -> dict[str, float]:
        """See the protocol."""
        return {
            "delay_h": self._delay_minutes / 60,
            "delay_s_per_car": 60 * self._delay_minutes / max(self._cars, 1.0),
            "longest_queue": self._longest,
            "cars": self._cars,
        }


def _two_peaks() -> NDArray[np.float64]:
    hours = 6 + np.arange(_STEPS) / 60
    peaks: NDArray[np.float64] = np.exp(-(((hours - 8.0) / 1.1) ** 2)) + np.exp(
        -(((hours - 17.0) / 1.4) ** 2)
    )
    return 0.42 + 0.5 * peaks


TRAFFIC: Final = Scenario(
    name="traffic",
    title="two roads, a sign and a signal: forecasts of speed divert cars before the queue stands",
    build=Traffic,
    step_s=60.0,
    steps=_STEPS,
    lesson_steps=2 * _STEPS,
    streams=_STREAMS,
    models=_MODELS,
    lessons=[Lesson("speed", _TASK)],
    meanings=[
        Figure("delay_h", "h", "time that all cars lose, the longer way included"),
        Figure("delay_s_per_car", "s", "the same for one car"),
        Figure("longest_queue", "cars", "most cars in one cell"),
        Figure("cars", "", "cars in all", None),
    ],
)
