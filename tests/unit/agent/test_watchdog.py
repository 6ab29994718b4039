from __future__ import annotations

import asyncio
import os
import threading

import pytest
from structlog.testing import capture_logs
from support.lanes import Bench

from atoll_agent.supervisor.watchdog import Watchdog
from atoll_link.alive_file import AliveFile


class Planes:
    """Two planes whose steps a test counts, and the beats that came of them."""

    def __init__(self) -> None:
        self.lane = self.control = 0
        self.beats = 0
        planes = {"lane": lambda: self.lane, "control": lambda: self.control}
        self.watchdog = Watchdog(planes, self.beat, 60.0)

    def beat(self) -> None:
        self.beats += 1

    def look(self, *, lane: int = 0, control: int = 0) -> int:
        """Look after so many steps; return how many beats there were so far."""
        self.lane += lane
        self.control += control
        self.watchdog.look()
        return self.beats


def test_it_beats_while_both_planes_do_steps():
    planes = Planes()

    assert [planes.look(lane=1, control=3) for _ in range(3)] == [1, 2, 3]


def test_it_tells_for_how_long_a_plane_has_stood_still():
    planes = Planes()
    planes.look(lane=1, control=1)

    for _ in range(6):
        planes.look(control=1)
    assert planes.watchdog.stalled_s == 90.0

    planes.look(lane=1, control=1)
    assert planes.watchdog.stalled_s == 0.0


@pytest.mark.parametrize("still", ["lane", "control"])
def test_it_is_silent_while_a_plane_stands_still_and_tells_which(still):
    planes = Planes()
    goes_on = "control" if still == "lane" else "lane"
    planes.look()

    with capture_logs() as logs:
        beats = [planes.look(**{goes_on: 1}) for _ in range(4)]

    # look        1 2 3 4
    # beat        - - - -
    # told          x
    assert beats == [1, 1, 1, 1]
    assert [(line["event"], line["planes"]) for line in logs] == [("plane.stalled", [still])]
    assert planes.look(**{still: 1}) == 2


def test_a_plane_that_was_slow_once_is_not_told_as_stalled():
    planes = Planes()

    with capture_logs() as logs:
        for lane in (1, 0, 1, 0, 1):
            planes.look(lane=lane, control=1)

    assert planes.beats == 3
    assert not logs


def test_nobody_watches_and_it_ends_at_once():
    planes = Planes()
    asyncio.run(Watchdog({"lane": lambda: 1}, planes.beat, None).run())

    assert planes.beats == 0


def test_a_lane_that_hangs_in_a_step_does_no_more_of_them():
    bench = Bench()
    at_work, go_on = threading.Event(), threading.Event()

    def hang(_timeout_s: float) -> list:
        at_work.set()
        assert go_on.wait(20)
        return []

    watchdog = Watchdog({"lane": lambda: bench.lane.steps}, lambda: beats.append(1), 60.0)
    beats: list[int] = []
    watchdog.look()
    bench.turn()
    watchdog.look()
    bench.wire.step = hang
    thread = threading.Thread(target=bench.turn)
    thread.start()
    assert at_work.wait(20)

    watchdog.look()  # the turn itself was a step
    watchdog.look()
    watchdog.look()
    assert len(beats) == 3
    go_on.set()
    thread.join(20)
    bench.turn()
    watchdog.look()
    assert len(beats) == 4


def test_a_file_of_life_is_touched_at_each_beat(tmp_path):
    path = tmp_path / "alive"
    file = AliveFile(path)

    file.beat()
    os.utime(path, (1, 1))
    file.beat()

    assert path.stat().st_mtime > 1


def test_a_file_of_life_that_was_touched_just_now_is_left_alone(tmp_path):
    path = tmp_path / "alive"
    file = AliveFile(path, every_s=60.0)

    file.beat()
    os.utime(path, (1, 1))
    file.beat()

    assert path.stat().st_mtime == 1


def test_a_file_of_life_in_no_folder_is_told_once(tmp_path):
    file = AliveFile(tmp_path / "nowhere" / "alive")

    with capture_logs() as logs:
        file.beat()
        file.beat()

    assert [line["event"] for line in logs] == ["alive_file.untouched"]
