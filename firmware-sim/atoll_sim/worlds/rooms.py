"""Three rooms with three nodes each that agree on who is there, and command ventilation and heating.

People exhale carbon dioxide and give off warmth; ventilation carries both out, and what it lets in must
be heated. A room's air is one well-mixed volume. Each node sees a part of its room only: a motion sensor
a corner, a light sensor what the window lets it, and in every run some sensors get stuck. So no node
can be believed alone; the mean of what their models say of the room can. Whether the air will be stale is
forecast by each of them, and one that says so is enough: only then the fan is turned up, which takes six
times the power.

Plain controls go by the readings themselves: motion detectors that hold for a quarter of an hour, and
limits of CO2. Without commands ventilation and heating go by the clock, as they do in most buildings:
from the hour of the earliest meetings to that of the latest. A room that is known to be empty is not
aired, and its thermostat stands by: a little lower, but not so low that whoever comes in is cold until it
is warm again. At night it is lower still.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from atoll_contract.errors import ConfigError
from atoll_contract.messages import Command
from atoll_sim.worlds.scenario import Figure, Known, Lesson, Scenario, Sensed, World, task_text

_STEPS: Final = 960
"""06:00 to 22:00 in minutes."""
_OPENS, _CLOSES = 60, 780
"""07:00 and 19:00: meetings lie in between, and so does the day of the clock."""
_ROOMS: Final = 3
_AIR: Final = {f"air-{room + 1}": room for room in range(_ROOMS)}
"""What ventilates and heats, by its name."""
_NODES: Final = 3
_VOLUME_M3: Final = 150.0
_EXHALED_M3: Final = 0.018 / 60
"""CO2 of one person in a minute."""
_OUTSIDE_PPM: Final = 420.0
_AIR_M3: Final = (0.2, 4.0, 10.0)
"""Fresh air in a minute at each level of ventilation; 0: leaks."""
_FAN_KW: Final = (0.0, 0.1, 0.6)
_PERSON_KW: Final = 0.1
_AIR_KWH: Final = 1.2 * 1.006 / 3600 * 0.5
"""To warm a cubic metre by a kelvin; half of it is recovered."""
_HEATER_KW: Final = 3.0
_LOSS_KW_K: Final = 0.04
_CAPACITY_KWH_K: Final = 0.45
_COMFORT_C, _STANDBY_C, _NIGHT_C = 21.3, 20.5, 19.5
"""Of the thermostat: in use, empty by day, empty at night. The room stays a few tenths below."""
_MOST_PPM: Final = 1000.0
_LEAST_C: Final = 20.0
_HOLD_MIN: Final = 15
_BOOST_PPM, _CALM_PPM = 900.0, 700.0
"""Of the plain controls."""

_VALUES: Final = """\
temperature = { unit = "°C" }
co2 = { unit = "ppm" }
light = { unit = "lx" }
sound = { unit = "dB" }
motion = {}
"""

_PEOPLE_TASK: Final = task_text(
    f"""\
model = "people"
stream = "node"
kind = "regression"
[task.values]
{_VALUES}""",
    "length = 5\nmax_gap_ms = 600000.0",
    epochs=150,
)

_AIR_TASK: Final = task_text(
    f"""\
model = "air"
stream = "node"
kind = "forecast"
target = "co2"
horizon = 10
[task.values]
{_VALUES}""",
    "length = 6\nmax_gap_ms = 600000.0",
    epochs=120,
)

_STREAMS: Final = f"""\
[[stream]]
name = "node"
[stream.values]
{_VALUES}"""


def _rules(room: int) -> str:
    nodes = ", ".join(f'"room-{room}-node-{node}"' for node in range(1, _NODES + 1))
    occupied, empty, boost, calm = (
        f'[[rule.command]]\non = "{on}"\nname = "{name}"\ndevice = "air-{room}"\nvalue = {value}\n'
        for on, name, value in (
            ("raised", "occupied", "true"),
            ("cleared", "occupied", "false"),
            ("raised", "boost", "true"),
            ("cleared", "boost", "false"),
        )
    )
    return f"""
[[rule]]
name = "occupied-{room}"
model = "people"
devices = [{nodes}]
when = {{ above = 0.9, clear = 0.5, at_least = 2, of = 3 }}
cleared_for_s = 0
group = {{ name = "room-{room}", combine = "mean" }}
{occupied}{empty}
[[rule]]
name = "stale-soon-{room}"
model = "air"
devices = [{nodes}]
when = {{ above = 1000, clear = 900, at_least = 2, of = 3 }}
cleared_for_s = 0
group = {{ name = "room-{room}", combine = "any" }}
{boost}{calm}"""


_MODELS: Final = "\n".join(
    [
        '[[model]]\nname = "people"\nstream = "node"\n\n[[model]]\nname = "air"\nstream = "node"',
        """
# The nodes of a room agree: of people the mean of what their models say counts;
# that the air will be stale in ten minutes any of them may say.""",
        *(_rules(room) for room in range(1, _ROOMS + 1)),
    ]
)


class Rooms(World):
    """The rooms, minute by minute; see :class:`atoll_sim.worlds.scenario.World`."""

    def __init__(self, seed: int, data: Path | None = None, *, is_lesson: bool = False) -> None:
        del is_lesson
        if data is not None:
            raise ConfigError("rooms: the recordings have three days with people: too few to replay any")
        chance = np.random.default_rng(seed)
        self._people = np.array([_day_of_meetings(chance) for _ in range(_ROOMS)])
        self._noise = np.random.default_rng([seed, 1])
        self._outside_c = chance.uniform(2.0, 10.0)
        self._cloud = float(chance.uniform(0.3, 1.0))
        self._gains = chance.uniform(0.7, 1.3, (_ROOMS, _NODES, 3))
        self._stuck_since = np.where(
            chance.random((_ROOMS, _NODES)) < 1 / 4,
            chance.integers(60, _STEPS, (_ROOMS, _NODES)),
            10 * _STEPS,
        )
        self._stuck: dict[str, dict[str, float]] = {}
        self._ppm = np.full(_ROOMS, _OUTSIDE_PPM + 40.0)
        self._warmth_c = np.full(_ROOMS, _NIGHT_C)
        self._minute = -1
        self._is_commanded = [False] * _ROOMS
        self._is_occupied = [False] * _ROOMS
        self._is_boosted = [False] * _ROOMS
        self._seen_at = [-_HOLD_MIN] * _ROOMS
        self._tampered: list[tuple[int, float] | None] = [None] * _ROOMS
        self._kwh = self._stale = self._cold = self._there = 0.0

    def advance(self) -> None:
        """See the protocol."""
        self._minute += 1
        for room in range(_ROOMS):
            self._live(room, int(self._people[room, self._minute % _STEPS]))

    def _live(self, room: int, people: int) -> None:
        level, thermostat_c = self._orders(room)
        air = _AIR_M3[level]
        self._ppm[room] += 1e6 * people * _EXHALED_M3 / _VOLUME_M3
        self._ppm[room] += (_OUTSIDE_PPM - self._ppm[room]) * (1 - np.exp(-air / _VOLUME_M3))
        warmth = self._warmth_c[room]
        heat = float(np.clip(4.0 * (thermostat_c - warmth), 0.0, _HEATER_KW))
        vented = air * _AIR_KWH * (warmth - self._outside_c)  # kWh in this minute
        losses = _LOSS_KW_K * (warmth - self._outside_c)
        self._warmth_c[room] += ((heat + people * _PERSON_KW - losses) / 60 - vented) / _CAPACITY_KWH_K
        self._kwh += (heat + _FAN_KW[level]) / 60
        self._there += people
        self._stale += people * bool(self._ppm[room] > _MOST_PPM)
        self._cold += people * bool(self._warmth_c[room] < _LEAST_C)

    def _orders(self, room: int) -> tuple[int, float]:
        """Return the level of ventilation, and where the thermostat stands."""
        tampered = self._tampered[room]
        if tampered is not None:
            return tampered
        is_day = _OPENS <= self._minute % _STEPS < _CLOSES
        is_occupied = self._is_occupied[room] if self._is_commanded[room] else is_day
        level = 2 if self._is_boosted[room] else int(is_occupied)
        return level, _COMFORT_C if is_occupied else _STANDBY_C if is_day else _NIGHT_C

    def sensed(self) -> Sequence[Sensed]:
        """See the protocol."""
        return [self._node(room, node) for room in range(_ROOMS) for node in range(_NODES)]

    def _node(self, room: int, node: int) -> Sensed:
        people = int(self._people[room, self._minute % _STEPS])
        hour = 6 + self._minute % _STEPS / 60
        gains, noise = self._gains[room, node], self._noise.standard_normal(4)
        daylight = 400 * self._cloud * max(0.0, np.sin(np.pi * (hour - 7.5) / 9.0)) * (0.3 + 0.35 * node)
        lamps = 320.0 if people else 0.0
        seen = people and self._noise.random() < 1 - 0.75**people
        values = {
            "temperature": self._warmth_c[room] + 0.1 * noise[0] + 0.2 * (node - 1),
            "co2": self._ppm[room] * (0.97 + 0.03 * gains[0]) + 8.0 * noise[1],
            "light": max(0.0, (daylight + lamps) * gains[1] + 10.0 * noise[2]),
            "sound": 32.0 + 2.2 * gains[2] * people + 2.0 * abs(noise[3]),
            "motion": float(bool(seen)),
        }
        said = {name: round(float(value), 2) for name, value in values.items()}
        device = f"room-{room + 1}-node-{node + 1}"
        if self._minute >= self._stuck_since[room, node]:
            said = self._stuck.setdefault(device, said)
        return Sensed(device, "node", said)

    def known(self) -> Sequence[Known]:
        """See the protocol."""
        at = self._minute % _STEPS
        return [
            Known(f"room-{room + 1}-node-{node + 1}", "people", "node", float(self._people[room, at]))
            for room in range(_ROOMS)
            for node in range(_NODES)
        ]

    def obey(self, device: str, name: str, command: Command) -> bool:
        """See the protocol."""
        match name, command.value:
            case "occupied" | "boost", bool(value) if device in _AIR:
                room = _AIR[device]
                self._is_commanded[room] = True
                if name == "occupied":
                    self._is_occupied[room] = value
                else:
                    self._is_boosted[room] = value
                return True
            case _:
                return False

    def control(self, sensed: Sequence[Sensed]) -> None:
        """See the protocol."""
        for room in range(_ROOMS):
            nodes = [one.values for one in sensed[room * _NODES : (room + 1) * _NODES]]
            if any(node["motion"] for node in nodes):
                self._seen_at[room] = self._minute
            ppm = max(node["co2"] for node in nodes)
            self._is_commanded[room] = True
            self._is_occupied[room] = self._minute - self._seen_at[room] < _HOLD_MIN
            self._is_boosted[room] = ppm > (_CALM_PPM if self._is_boosted[room] else _BOOST_PPM)

    def meddle(self, chance: Generator) -> None:
        """See the protocol."""
        for room in range(_ROOMS):
            if chance.random() < 1 / 40:
                self._tampered[room] = (
                    int(chance.integers(3)),
                    float(chance.choice([_COMFORT_C, _STANDBY_C, _NIGHT_C])),
                )

    def figures(self) -> dict[str, float]:
        """See the protocol."""
        minutes = max(self._there, 1.0)
        return {
            "energy_kwh": self._kwh,
            "stale_air": 100 * self._stale / minutes,
            "cold": 100 * self._cold / minutes,
            "person_hours": self._there / 60,
        }


def _day_of_meetings(chance: Generator) -> NDArray[np.int64]:
    people = np.zeros(_STEPS, np.int64)
    at = int(chance.integers(_OPENS, 180))
    while at < _CLOSES - 90:
        length = int(chance.integers(25, 120))
        most = int(chance.integers(1, 11))
        people[at : at + length] = most
        # Not all of them come in the same minute.
        for late in chance.integers(0, 6, size=most):
            people[at : at + int(late)] -= 1
        at += length + int(chance.integers(10, 200))
    people[_CLOSES:] = 0
    return np.clip(people, 0, None)


ROOMS: Final = Scenario(
    name="rooms",
    title="three rooms whose nodes agree on who is there, and command ventilation and heating",
    build=Rooms,
    step_s=60.0,
    steps=_STEPS,
    lesson_steps=3 * _STEPS,
    streams=_STREAMS,
    models=_MODELS,
    lessons=[Lesson("people", _PEOPLE_TASK), Lesson("air", _AIR_TASK)],
    meanings=[
        Figure("energy_kwh", "kWh", "heating and fans"),
        Figure("stale_air", "%", f"of the person-minutes above {_MOST_PPM:.0f} ppm of CO2"),
        Figure("cold", "%", f"of the person-minutes below {_LEAST_C:.0f} °C"),
        Figure("person_hours", "h", "spent in the rooms", None),
    ],
    controls="motion detectors and CO2 limits",
)
