"""Four worlds in which what agents decide changes what sensors measure next. Pure, in virtual time."""

from __future__ import annotations

from typing import Final

from atoll_sim.worlds.line import LINE
from atoll_sim.worlds.parking import PARKING
from atoll_sim.worlds.rooms import ROOMS
from atoll_sim.worlds.scenario import Scenario
from atoll_sim.worlds.traffic import TRAFFIC

SCENARIOS: Final[dict[str, Scenario]] = {one.name: one for one in (TRAFFIC, PARKING, ROOMS, LINE)}
