"""Six car parks of a town centre, and a coordinator who tells arriving cars where to go.

Every car has an aim. Without advice it drives to the car park nearest to its aim whose sign does not show
"full" and, if that is full when it is there, on to the next. Looking for a bay takes the longer the fuller
the car park is. A sign that nobody commands shows what is. A coordinator, which is a part of this world,
sends cars where drive, search and walk together are shortest, by what is known of now and by what is
predicted for a quarter of an hour later; it does so while predictions arrive, and not when they cease.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from atoll_contract.messages import Command
from atoll_sim.worlds import replayed
from atoll_sim.worlds.scenario import Figure, Lesson, Scenario, Sensed, World, task_text

_STEPS: Final = 720
"""08:00 to 20:00 in minutes."""
_PARKS: Final = (
    (0.0, 0.0, 360),
    (0.4, 0.1, 240),
    (0.8, 0.5, 450),
    (0.2, 0.7, 270),
    (1.0, 0.0, 330),
    (0.5, 1.0, 480),
)
"""Place in kilometres, and bays."""
_NUMBERS: Final = {f"park-{number + 1}": number for number in range(len(_PARKS))}
"""By the names of their devices."""
_CENTRE: Final = (0.35, 0.25)
"""Where most cars want to be."""
_STAY_MIN: Final = 110.0
_DRIVE_MIN: Final = 3.0
_MIN_PER_KM: Final = 4.0
_WALK_MIN_PER_KM: Final = 13.0
_GIVE_UP: Final = 4
"""Full car parks in a row after which a driver leaves."""
_FULL: Final = 0.97
"""Share at which a sign that nobody commands shows "full"."""
_STALE_MIN: Final = 5
"""Age at which a prediction is no longer relied on."""

_TASK: Final = task_text(
    """\
model = "occupancy"
stream = "park"
kind = "forecast"
target = "occupied"
horizon = 15
[task.values]
occupied = { unit = "%" }
arriving = { unit = "%" }
leaving = { unit = "%" }
hour = { unit = "h" }""",
    "length = 16\nmax_gap_ms = 600000.0",
    epochs=120,
)

_STREAMS: Final = """\
[[stream]]
name = "park"
[stream.values]
occupied = { unit = "%" }
arriving = { unit = "%" }
leaving = { unit = "%" }
hour = { unit = "h" }
"""

_MODELS: Final = """\
[[model]]
name = "occupancy"
stream = "park"

# The sign at the entrance shows "full" a few minutes before it is.
[[rule]]
name = "soon-full"
model = "occupancy"
when = { above = 97, clear = 93 }
[[rule.command]]
name = "closed"
value = true
[[rule.command]]
on = "cleared"
name = "closed"
value = false
"""


class Parking(World):
    """The car parks, minute by minute; see :class:`atoll_sim.worlds.scenario.World`."""

    def __init__(self, seed: int, data: Path | None = None, *, is_lesson: bool = False) -> None:
        self._chance = np.random.default_rng(seed)
        self._bays = np.array([bays for _, _, bays in _PARKS])
        self._places = np.array([(x, y) for x, y, _ in _PARKS])
        self._demand = _drawn(self._chance) if data is None else _replayed(data, seed, is_lesson=is_lesson)
        self._cars = np.zeros(len(_PARKS), np.int64)
        self._leaves: list[list[float]] = [[] for _ in _PARKS]
        self._on_the_way: list[tuple[float, int, int, float, float, float, int]] = []
        self._arriving = np.zeros(len(_PARKS), np.int64)
        self._leaving = np.zeros(len(_PARKS), np.int64)
        self._minute = -1
        self._number = 0
        self._closed = [False] * len(_PARKS)
        self._is_commanded = [False] * len(_PARKS)
        self._expected: list[tuple[float, int]] = [(0.0, -_STALE_MIN)] * len(_PARKS)
        self._is_guessing = False
        self._parked = self._gone = 0
        self._search_min = self._walk_km = self._imbalance = 0.0
        self._refused = 0

    def advance(self) -> None:
        """See the protocol."""
        self._minute += 1
        now = float(self._minute)
        self._arriving[:] = self._leaving[:] = 0
        for park, leaves in enumerate(self._leaves):
            while leaves and leaves[0] <= now:
                heapq.heappop(leaves)
                self._cars[park] -= 1
                self._leaving[park] += 1
        for _ in range(self._chance.poisson(self._demand[self._minute % _STEPS])):
            self._set_out(now)
        while self._on_the_way and self._on_the_way[0][0] <= now:
            self._arrive(heapq.heappop(self._on_the_way))
        shares = self._cars / self._bays
        self._imbalance += float(np.std(shares))
        for park, is_commanded in enumerate(self._is_commanded):
            if not is_commanded:
                self._closed[park] = bool(shares[park] >= _FULL)

    def _set_out(self, now: float) -> None:
        x, y = self._chance.normal(_CENTRE, 0.3)
        stay = float(self._chance.gamma(2.0, _STAY_MIN / 2))
        park = self._advised(x, y) if self._is_advised else self._nearest(x, y, tried=0)
        self._number += 1
        heapq.heappush(self._on_the_way, (now + _DRIVE_MIN, self._number, park, x, y, stay, 1 << park))

    @property
    def _is_advised(self) -> bool:
        return all(self._minute - since <= _STALE_MIN for _, since in self._expected)

    def _advised(self, x: float, y: float) -> int:
        """Return where drive, search and walk together will be shortest."""
        coming = np.bincount([car[2] for car in self._on_the_way], minlength=len(_PARKS))
        shares = np.array([share for share, _ in self._expected])
        shares = np.maximum(shares, (self._cars + coming) / self._bays)
        costs = np.hypot(*(self._places - (x, y)).T) * _WALK_MIN_PER_KM + _search_min(shares)
        costs += 30.0 * (np.array(self._closed) | (shares >= 1.0))
        return int(costs.argmin())

    def _nearest(self, x: float, y: float, *, tried: int) -> int:
        """Return the nearest car park that was not tried and shows no "full"; else the nearest untried."""
        distances = np.hypot(*(self._places - (x, y)).T)
        untried = [park for park in range(len(_PARKS)) if not tried >> park & 1]
        open_ones = [park for park in untried if not self._closed[park]] or untried
        return min(open_ones, key=lambda park: float(distances[park]))

    def _arrive(self, car: tuple[float, int, int, float, float, float, int]) -> None:
        at, number, park, x, y, stay, tried = car
        self._arriving[park] += 1
        if self._cars[park] < self._bays[park]:
            search = _search_min(self._cars[park] / self._bays[park])
            self._cars[park] += 1
            heapq.heappush(self._leaves[park], at + float(search) + stay)
            self._parked += 1
            self._search_min += float(search)
            self._walk_km += float(np.hypot(*(self._places[park] - (x, y))))
            return
        self._refused += 1
        if tried.bit_count() >= _GIVE_UP:
            self._gone += 1
            return
        other = self._nearest(x, y, tried=tried)
        way = 1.0 + _MIN_PER_KM * float(np.hypot(*(self._places[park] - self._places[other])))
        self._search_min += way
        heapq.heappush(self._on_the_way, (at + way, number, other, x, y, stay, tried | 1 << other))

    def sensed(self) -> Sequence[Sensed]:
        """See the protocol."""
        return [
            Sensed(
                name,
                "park",
                {
                    "occupied": round(100 * float(self._cars[park] / self._bays[park]), 2),
                    "arriving": round(100 * float(self._arriving[park] / self._bays[park]), 2),
                    "leaving": round(100 * float(self._leaving[park] / self._bays[park]), 2),
                    "hour": round(8 + self._minute % _STEPS / 60, 2),
                },
            )
            for name, park in _NUMBERS.items()
        ]

    def obey(self, device: str, name: str, command: Command) -> bool:
        """See the protocol."""
        match name, command.value:
            case "closed", bool(value) if device in _NUMBERS:
                self._is_commanded[_NUMBERS[device]] = True
                self._closed[_NUMBERS[device]] = value
                return True
            case _:
                return False

    def heed(self, device: str, model: str, value: float) -> None:
        """Let the coordinator know what will be."""
        if model == "occupancy" and device in _NUMBERS:
            self._expected[_NUMBERS[device]] = (value / 100, self._minute)

    def meddle(self, chance: Generator) -> None:
        """Let the coordinator take the present for the future, most of the time."""
        if self._minute % _STEPS == 0 or chance.random() < 1 / 90:
            self._is_guessing = bool(chance.random() < 3 / 4)
        if self._is_guessing:
            shares = self._cars / self._bays
            self._expected = [(float(share), self._minute) for share in shares]

    def figures(self) -> dict[str, float]:
        """See the protocol."""
        return {
            "search_s_per_car": 60 * self._search_min / max(self._parked, 1),
            "turned_away": float(self._refused),
            "gone": float(self._gone),
            "imbalance": 100 * self._imbalance / max(self._minute + 1, 1),
            "walk_m_per_car": 1000 * self._walk_km / max(self._parked, 1),
            "parked": float(self._parked),
        }


def _search_min(share: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Return how long it takes to find a bay where so much is occupied: as long as it takes to see one."""
    return np.asarray(np.minimum(0.5 / (1.03 - np.minimum(share, 1.0)), 12.0))


def _drawn(chance: Generator) -> NDArray[np.float64]:
    """Return the cars that set out, minute by minute."""
    hours = 8 + np.arange(_STEPS) / 60
    day = 6.0 + 10.2 * np.exp(-(((hours - 10.5) / 1.6) ** 2)) + 7.8 * np.exp(-(((hours - 15.5) / 2.2) ** 2))
    day *= chance.normal(1.0, 0.06)
    start = int(chance.integers(60, 420))
    day[start : start + 60] *= chance.uniform(1.1, 1.5)
    return np.asarray(day)


def _replayed(data: Path, seed: int, *, is_lesson: bool) -> NDArray[np.float64]:
    """Return the demand that would fill car parks as they were filled in reality."""
    curves = replayed.occupancy_of_car_parks(data, seed, len(_PARKS), _STEPS, is_lesson=is_lesson)
    bays = np.array([bays for _, _, bays in _PARKS])
    cars = bays @ curves
    # What came is what there is more now, and what has left in the meantime.
    smooth = np.convolve(np.pad(np.diff(cars, prepend=0.0), 15, mode="edge"), np.ones(31) / 31, "valid")
    return np.asarray(0.8 * np.clip(smooth + cars / _STAY_MIN, 0.6, 42.0))


PARKING: Final = Scenario(
    name="parking",
    title="six car parks and a coordinator that knows how full they are, and will be in a quarter of an hour",
    build=Parking,
    step_s=60.0,
    steps=_STEPS,
    lesson_steps=4 * _STEPS,
    streams=_STREAMS,
    models=_MODELS,
    lessons=[Lesson("occupancy", _TASK)],
    meanings=[
        Figure("search_s_per_car", "s", "from the first entrance to a bay"),
        Figure("turned_away", "", "arrivals at a car park that was full"),
        Figure("gone", "cars", f"cars that left after {_GIVE_UP} full car parks"),
        Figure("imbalance", "%", "spread of the occupied shares of the car parks, mean over the day"),
        Figure("walk_m_per_car", "m", "from the bay to the aim"),
        Figure("parked", "cars", "cars that found a bay", None),
    ],
)
