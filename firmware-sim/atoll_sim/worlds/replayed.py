"""Real recordings as the weather of a world: demand, presence and vibration instead of drawn ones.

The folder is laid out by data set; a world that is given one takes what fits it.
"""

from __future__ import annotations

import csv
import gzip
from collections import defaultdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from atoll_contract.errors import ConfigError


def flow_of_a_day(folder: Path, seed: int, minutes: int) -> NDArray[np.float64]:
    """Return the flow of a freeway from 06:00 on, minute by minute, the day's greatest flow being 1.

    ``extra/pems_flow``: a working day of 2016, chosen by ``seed``.
    """
    days: dict[str, list[float]] = defaultdict(list)
    for row in _rows(folder / "extra/pems_flow/pems_5min_train.csv"):
        days[row["5 Minutes"].split(" ")[0]].append(float(row["Lane 1 Flow (Veh/5 Minutes)"]))
    whole = [flows for flows in days.values() if len(flows) == 24 * 12]
    flows = np.array(whole[seed % len(whole)])[6 * 12 :]
    every = np.interp(np.arange(minutes), 5.0 * np.arange(len(flows)), flows)
    return np.asarray(every / every.max())


def occupancy_of_car_parks(folder: Path, seed: int, parks: int, minutes: int) -> NDArray[np.float64]:
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
    chosen = usable[seed % len(usable)]
    fullest = sorted(chosen, key=lambda points: -max(share for _, share in points))[:parks]
    curves = []
    for points in fullest:
        at, shares = zip(*sorted(points), strict=True)
        curves.append(np.interp(np.arange(minutes), at, shares))
    return np.array(curves)


def people_of_a_day(folder: Path, seed: int, rooms: int, minutes: int) -> NDArray[np.int64]:
    """Return how many people are in each room from 06:00 on, minute by minute, shape (rooms, minutes).

    ``extra/room_occupancy_estimation``: whole days of one room, another one for each of the rooms.
    """
    days: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for row in _rows(folder / "extra/room_occupancy_estimation/Occupancy_Estimation.csv"):
        hour, minute, _ = (int(part) for part in row["Time"].split(":"))
        days[row["Date"]].append((60 * (hour - 6) + minute, int(row["Room_Occupancy_Count"])))
    # Only days on which somebody came.
    whole = [points for _, points in sorted(days.items()) if any(count for _, count in points)]
    found = np.zeros((rooms, minutes), np.int64)
    for room in range(rooms):
        for at, count in whole[(seed + room) % len(whole)]:
            if 0 <= at < minutes:
                found[room, int(at)] = count
    return found


def vibration_by_damage(folder: Path) -> list[NDArray[np.float64]]:
    """Return rms (g) and kurtosis of a bearing, shape (n, 2), from new to worst.

    ``cwru_bearing``: conditions of the bearing, in the order of how hard they shake it.
    """
    classes = ("Normal_1", "Ball_007_1", "IR_014_1", "IR_007_1", "IR_021_1")
    found: dict[str, list[list[float]]] = defaultdict(list)
    for row in _rows(folder / "cwru_bearing/feature_time_48k_2048_load_1.csv"):
        found[row["fault"]].append([float(row["rms"]), float(row["kurtosis"])])
    if missing := [name for name in classes if not found[name]]:
        raise ConfigError(f"{folder}/cwru_bearing: no rows of {missing[0]}; there are {', '.join(found)}")
    return [np.array(found[name]) for name in classes]


def _rows(path: Path) -> list[dict[str, str]]:
    try:
        content = path.read_bytes()
        text = (gzip.decompress(content) if path.suffix == ".gz" else content).decode("utf-8-sig")
        return list(csv.DictReader(text.splitlines()))
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {error}") from error
