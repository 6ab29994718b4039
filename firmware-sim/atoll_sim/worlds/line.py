"""Three machines in a row and a camera above what comes out of them.

A machine wears until it breaks, sooner or later; the more it is worn the harder it shakes and the more
parts it spoils, each machine in a way of its own. A repair takes three hours, a service before that
half an hour. While one machine stands still the line does. The camera sees each part before it comes to a
diverter; what is not diverted is delivered, spoilt or not.

Without commands machines are serviced by the calendar, and a person looks at each tenth part.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import numpy as np
from numpy.random import Generator

from atoll_contract.messages import Command
from atoll_sim.worlds import parts, replayed
from atoll_sim.worlds.parts import Part
from atoll_sim.worlds.scenario import Figure, Known, Lesson, Scenario, Sensed, World, task_text

_MACHINES: Final = {"machine-1": 0, "machine-2": 1, "machine-3": 2}
_STEPS: Final = 3000
"""Minutes: two days and two hours."""
_SPOILS: Final = (Part.SCRATCHED, Part.DENTED, Part.UNDRILLED)
"""By machine."""
_REPAIR_MIN: Final = 180
_SERVICE_MIN: Final = 30
_CALENDAR_MIN: Final = 600
"""The best of 240 to 1,000 minutes for this line."""
_LOOKED_AT: Final = 1 / 10
"""Of the parts, by a person."""

_WEAR_TASK: Final = task_text(
    """\
model = "wear"
stream = "machine"
kind = "regression"
unit = "%"
[task.values]
rms = { unit = "g" }
kurtosis = {}
temperature = { unit = "°C" }""",
    "length = 8",
    epochs=150,
)

_STREAMS: Final = """\
[[stream]]
name = "machine"
values = { rms = { unit = "g" }, kurtosis = {}, temperature = { unit = "°C" } }

[[stream]]
name = "part"
topics = ["cameras/{device}/part"]
dialect = "picture"
values = { picture = {} }
"""

_MODELS: Final = """\
[[model]]
name = "wear"
stream = "machine"

[[model]]
name = "look"
stream = "part"

# A machine that is about to break is serviced before it does.
[[rule]]
name = "worn"
model = "wear"
when = { above = 72, clear = 40, at_least = 4, of = 6 }
[[rule.command]]
name = "service"
value = true

# The diverter stands as the latest part wants it.
[[rule]]
name = "spoilt"
model = "look"
when = { label = ["scratched", "dented", "undrilled"] }
[[rule.command]]
name = "divert"
value = true
[[rule.command]]
on = "cleared"
name = "divert"
value = false
"""


class _Machine:
    """One machine: its wear, and how long it stands still yet."""

    def __init__(self, chance: Generator) -> None:
        self._chance = chance
        self.wear = 0.0
        self.still_min = 0
        self.since_service_min = 0
        self._renew()

    def _renew(self) -> None:
        self.wear = float(self._chance.uniform(0.0, 0.1))
        self.since_service_min = 0
        # Bearings differ: a life of twenty hours in the mean, spread as Weibull's of shape 1.5.
        self._life_min = float(np.clip(1330.0 * self._chance.weibull(1.5), 240.0, 4000.0))
        self._breaks_at = float(self._chance.uniform(0.92, 1.1))

    def work(self) -> bool:
        """Wear for a minute; whether it broke."""
        self.since_service_min += 1
        self.wear += (0.5 + 1.2 * self.wear) * float(self._chance.gamma(2.0, 0.5)) / self._life_min
        if self.wear < self._breaks_at:
            return False
        self.stand(_REPAIR_MIN)
        return True

    def stand(self, minutes: int) -> None:
        """Stand still, and be as new afterwards."""
        self.still_min = minutes
        self._renew()


class Line(World):
    """The line, minute by minute; see :class:`atoll_sim.worlds.scenario.World`."""

    def __init__(self, seed: int, data: Path | None = None, *, is_lesson: bool = False) -> None:
        chance = np.random.default_rng(seed)
        self._chance = chance
        self._machines = [_Machine(child) for child in chance.spawn(len(_SPOILS))]
        self._noise = np.random.default_rng([seed, 1])
        self._vibration = None if data is None else replayed.vibration_by_damage(data, is_lesson=is_lesson)
        self._minute = -1
        self._part: Part | None = None
        self._is_serviced_on_command = False
        self._is_diverter_commanded = False
        self._is_diverting = False
        self._stopped = self._breakdowns = self._services = 0
        self._spoilt = self._escaped = self._wasted = self._delivered = 0

    def advance(self) -> None:
        """See the protocol."""
        self._minute += 1
        self._hand_over()
        self._part = None
        if any(machine.still_min for machine in self._machines):
            self._stopped += 1
            for machine in self._machines:
                machine.still_min = max(0, machine.still_min - 1)
            return
        for machine in self._machines:
            if machine.work():
                self._breakdowns += 1
            elif not self._is_serviced_on_command and machine.since_service_min >= _CALENDAR_MIN:
                self._service(machine)
        self._part = self._made()
        self._spoilt += self._part is not Part.GOOD

    def _made(self) -> Part:
        for machine, spoils in zip(self._machines, _SPOILS, strict=True):
            if self._chance.random() < 0.004 + 0.06 * machine.wear**3:
                return spoils
        return Part.GOOD

    def _hand_over(self) -> None:
        """Deliver or divert the part that the camera has seen last."""
        if self._part is None:
            return
        is_good = self._part is Part.GOOD
        looked_at = self._chance.random() < _LOOKED_AT
        is_diverted = self._is_diverting if self._is_diverter_commanded else looked_at and not is_good
        if is_diverted:
            self._wasted += is_good
        else:
            self._delivered += is_good
            self._escaped += not is_good

    def _service(self, machine: _Machine) -> None:
        machine.stand(_SERVICE_MIN)
        self._services += 1

    def sensed(self) -> Sequence[Sensed]:
        """See the protocol."""
        # A machine that stands still has nothing to tell.
        if self._part is None:
            return ()
        found = [
            Sensed(name, "machine", self._shaking(self._machines[number]))
            for name, number in _MACHINES.items()
        ]
        picture = parts.png(parts.draw(self._part, self._noise))
        return [*found, Sensed("camera-1", "part", picture=picture)]

    def _shaking(self, machine: _Machine) -> dict[str, float]:
        wear, noise = machine.wear, self._noise.standard_normal(3)
        if self._vibration is None:
            rms, kurtosis = 0.07 + 0.5 * wear**1.5, 0.2 + 3.0 * wear**2
        else:
            rms, kurtosis = self._recorded(min(wear, 1.0))
        return {
            "rms": round(max(0.0, rms * (1 + 0.06 * float(noise[0]))), 4),
            "kurtosis": round(kurtosis + 0.25 * float(noise[1]), 3),
            "temperature": round(38.0 + 14.0 * wear + 1.2 * float(noise[2]), 2),
        }

    def _recorded(self, wear: float) -> tuple[float, float]:
        """Return rms and kurtosis of a recorded window, between the two conditions around ``wear``."""
        assert self._vibration is not None  # noqa: S101 - asked by whoever has it
        place = wear * (len(self._vibration) - 1)
        below = min(int(place), len(self._vibration) - 2)
        rows = [stage[int(self._noise.integers(len(stage)))] for stage in self._vibration[below : below + 2]]
        mixed = rows[0] + (place - below) * (rows[1] - rows[0])
        return float(mixed[0]), float(mixed[1])

    def known(self) -> Sequence[Known]:
        """See the protocol."""
        if self._part is None:
            return ()
        wear = [
            Known(name, "wear", "machine", 100 * self._machines[number].wear)
            for name, number in _MACHINES.items()
        ]
        return [*wear, Known("camera-1", "look", "part", float(self._part.number))]

    def obey(self, device: str, name: str, command: Command) -> bool:
        """See the protocol."""
        match device, name, command.value:
            case _, "service", True if device in _MACHINES:
                self._is_serviced_on_command = True
                machine = self._machines[_MACHINES[device]]
                if not machine.still_min:
                    self._service(machine)
            case "camera-1", "divert", bool(value):
                self._is_diverter_commanded = True
                self._is_diverting = value
            case _:
                return False
        return True

    def meddle(self, chance: Generator) -> None:
        """Let parts be spoilt more often than they would be, so that there are some to learn from."""
        if self._part is not None and chance.random() < 1 / 3:
            self._part = _SPOILS[int(chance.integers(len(_SPOILS)))]

    def figures(self) -> dict[str, float]:
        """See the protocol."""
        return {
            "downtime_min": float(self._stopped),
            "breakdowns": float(self._breakdowns),
            "services": float(self._services),
            "escaped": float(self._escaped),
            "wasted": float(self._wasted),
            "spoilt": float(self._spoilt),
            "delivered": float(self._delivered),
        }


LINE: Final = Scenario(
    name="line",
    title="three machines and a camera: service before the breakdown, and bad parts are diverted",
    build=Line,
    step_s=60.0,
    steps=_STEPS,
    lesson_steps=_STEPS,
    streams=_STREAMS,
    models=_MODELS,
    lessons=[
        Lesson("wear", _WEAR_TASK),
        Lesson("look", labels=tuple(part.value for part in Part), stream="part"),
    ],
    meanings=[
        Figure("downtime_min", "min", "that the line stood still"),
        Figure("breakdowns", "", "machines that broke"),
        Figure("services", "", "services before that", None),
        Figure("escaped", "parts", "spoilt parts that were delivered"),
        Figure("wasted", "parts", "good parts that were diverted"),
        Figure("spoilt", "parts", "spoilt parts that were made"),
        Figure("delivered", "parts", "good parts that were delivered", is_better_lower=False),
    ],
)
