"""Real recordings as the weather of a world: demand, presence and vibration instead of drawn ones.

The folder is laid out by data set; a world that is given one takes what fits it. Of the days every third
is learnt from, of the conditions of a bearing the first third of the rows, and never played.
"""

from __future__ import annotations

import csv
import gzip
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Final, TypeVar

import numpy as np
from numpy.typing import NDArray

from atoll_contract.errors import ConfigError

_LESSONS: Final = 3

_Day = TypeVar("_Day")


def day_of(days: Sequence[_Day], seed: int, source: str, *, is_lesson: bool) -> _Day:
    """Return the day that is number ``seed`` of those to learn from, or of those to play.

    Raises:
        ConfigError: There are not so many to play.
    """
    if is_lesson and days:
        lessons = days[::_LESSONS]
        return lessons[seed % len(lessons)]
    plays = [day for number, day in enumerate(days) if number % _LESSONS]
    if seed >= len(plays):
        raise ConfigError(f"{source}: {len(plays)} days to play: a seed below that is wanted, not {seed}")
    return plays[seed]


def flow_of_a_day(folder: Path, seed: int, minutes: int, *, is_lesson: bool = False) -> NDArray[np.float64]:
    """Return the flow of a freeway from 06:00 on, minute by minute, the day's greatest flow being 1.

    ``extra/pems_flow``: a working day of 2016, chosen by ``seed``.
    """
    days: dict[str, list[float]] = defaultdict(list)
    for row in _rows(folder / "extra/pems_flow/pems_5min_train.csv"):
        days[row["5 Minutes"].split(" ")[0]].append(float(row["Lane 1 Flow (Veh/5 Minutes)"]))
    whole = [flows for flows in days.values() if len(flows) == 24 * 12]
    flows = np.array(day_of(whole, seed, "pems_flow", is_lesson=is_lesson))[6 * 12 :]
    every = np.interp(np.arange(minutes), 5.0 * np.arange(len(flows)), flows)
    return np.asarray(every / every.max())


def occupancy_of_car_parks(
    folder: Path, seed: int, parks: int, minutes: int, *, is_lesson: bool = False
) -> NDArray[np.float64]:
    """Return the occupied share of car parks from 08:00 on, minute by minute, shape (parks, minutes).

    ``birmingham_parking``: one day, chosen by ``seed``, of the car parks that are fullest.
    """
    days: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for row in _rows(folder / "birmingham_parking/birmingham_parking.csv.gz"):
        day, _, clock = row["LastUpdated"].partition(" ")
        hour, minute = (int(part) for part in clock.split(":")[:2])
        share = float(row["Occupancy"]) / float(row["Capacity"])
        days[day][row["SystemCodeNumber"]].append((60 * (hour - 8) + minute, float(np.clip(share, 0, 1))))
    least = 16
    usable = [
        found
        for _, car_parks in sorted(days.items())
        if len(found := [points for points in car_parks.values() if len(points) >= least]) >= parks
    ]
    chosen = day_of(usable, seed, "birmingham_parking", is_lesson=is_lesson)
    fullest = sorted(chosen, key=lambda points: -max(share for _, share in points))[:parks]
    curves = []
    for points in fullest:
        at, shares = zip(*sorted(points), strict=True)
        curves.append(np.interp(np.arange(minutes), at, shares))
    return np.array(curves)


def vibration_by_damage(folder: Path, *, is_lesson: bool = False) -> list[NDArray[np.float64]]:
    """Return rms (g) and kurtosis of a bearing, shape (n, 2), from new to worst.

    ``cwru_bearing``: conditions of the bearing, in the order of how hard they shake it.
    """
    classes = ("Normal_1", "Ball_007_1", "IR_014_1", "IR_007_1", "IR_021_1")
    found: dict[str, list[list[float]]] = defaultdict(list)
    for row in _rows(folder / "cwru_bearing/feature_time_48k_2048_load_1.csv"):
        found[row["fault"]].append([float(row["rms"]), float(row["kurtosis"])])
    if missing := [name for name in classes if not found[name]]:
        raise ConfigError(f"{folder}/cwru_bearing: no rows of {missing[0]}; there are {', '.join(found)}")
    rows = [np.array(found[name]) for name in classes]
    return [each[: len(each) // _LESSONS] if is_lesson else each[len(each) // _LESSONS :] for each in rows]


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
        return list(csv.DictReader(text.splitlines()))
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
