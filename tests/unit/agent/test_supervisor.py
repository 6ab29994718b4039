"""What the end of the agent leaves on disk."""

from __future__ import annotations

import asyncio
import faulthandler
import os
import signal
import threading
from contextlib import asynccontextmanager, nullcontext

import pytest
from support.climbs import ObedientLane, World, release

from atoll_agent.adapters.crashes import CrashRecord
from atoll_agent.adapters.unwatched import Unwatched
from atoll_agent.lane.handover import Handover
from atoll_agent.ports import End, Line
from atoll_agent.rollout.machine import Phase
from atoll_agent.supervisor import supervisor
from atoll_agent.supervisor.drift import DriftWatch
from atoll_agent.supervisor.homeassistant import HomeAssistant
from atoll_agent.supervisor.releases import Releases
from atoll_agent.supervisor.reports import Self
from atoll_agent.supervisor.requests import Requests
from atoll_agent.supervisor.supervisor import Reloaded, Sessions, Supervisor
from atoll_agent.supervisor.watchdog import Watchdog
from atoll_contract.errors import BrokerUnavailableError


class RunningLane(ObedientLane):
    """Runs until it is stopped, or ends by an error."""

    def __init__(self, error: Exception | None) -> None:
        super().__init__()
        self._error = error
        self._stopping = threading.Event()

    def run(self) -> None:
        if self._error is not None:
            raise self._error
        assert self._stopping.wait(20)

    def stop(self) -> None:
        self._stopping.set()


class UnconnectedLink:
    """A link whose broker is away."""

    is_connected = False
    steps = 0

    async def __aenter__(self):
        return self

    async def __aexit__(self, *_exception):
        pass

    async def next_event(self):
        await asyncio.get_running_loop().create_future()


class Quiet:
    """Implements ``ports.ServiceState``, ``Notes``, ``Accelerators`` and ``ClockState``, as far as needed."""

    is_time_unsynced = False
    states = ()
    on_change = None
    has_told_ready = False

    def tell(self, **words: str) -> None:
        if "READY" in words and not self.has_told_ready:
            self.has_told_ready = True
            os.kill(os.getpid(), signal.SIGTERM)

    def read(self):
        return None

    def look(self) -> bool:
        return False

    def close(self) -> None:
        pass


class HangingLane(RunningLane):
    """Heeds no order to stop."""

    def __init__(self) -> None:
        super().__init__(None)
        self.let_go = super().stop

    def stop(self) -> None:
        pass


class Stalled(Watchdog):
    """Has seen no step of the lane for so long."""

    def __init__(self, stalled_s: float) -> None:
        super().__init__({}, lambda: None, None)
        self._stalled_s = stalled_s

    @property
    def stalled_s(self) -> float:
        return self._stalled_s


class Faulty(Unwatched):
    """Has a bug."""

    def look(self, *_facts) -> None:
        raise ZeroDivisionError


@pytest.fixture(autouse=True)
def _watched(monkeypatch):
    """A crash record does not take over what pytest's own handler does."""
    files = []
    monkeypatch.setattr(faulthandler, "enable", files.append)
    yield
    for file in files:
        file.close()


def last_end(world: World) -> End:
    """Return how the last run ended, as the next start sees it."""
    return CrashRecord(world.store.folder).begin()


def run_agent(
    world: World,
    error: Exception | None,
    *,
    lane: RunningLane | None = None,
    stalled_s: float = 0.0,
    onlooker: Unwatched | None = None,
) -> None:
    """Run an agent that gets SIGTERM once it has started, or whose lane ends by ``error``."""
    crashes = CrashRecord(world.store.folder)
    crashes.begin()
    quiet = Quiet()
    quiet.has_told_ready = error is not None
    lane = lane or RunningLane(error)

    @asynccontextmanager
    async def refresh(_request):
        async def lines():
            yield Line("refreshed", {"wanted": {}})

        yield lines()

    async def reload() -> Reloaded:
        return Reloaded([], [], 1.0)

    async def work() -> None:
        await Supervisor(
            onlooker=onlooker or Unwatched(),
            site="site",
            agent="pi",
            me=Self(session=0, started_ms=0.0, token="token", version="1"),
            lane=lane,
            link=UnconnectedLink(),
            releases=Releases(world.plans, world.slots, world.means, refresh=refresh, clock=quiet),
            sessions=Sessions(),
            service=quiet,
            clock=quiet,
            watchdog=Stalled(stalled_s),
            reload=reload,
            accelerators=quiet,
            crashes=crashes,
            status_interval_s=1.0,
            requests=Requests("site", "pi", [], skip_delay=lambda _model, _release: None),
            homeassistant=HomeAssistant(None, quiet, max_sensors=1),
            drift=DriftWatch(Handover(), {}),
        ).run()

    world.loop.run(work())


@pytest.fixture
def on_trial(world):
    """A release of ``big`` is in shadow."""
    world.climb(1)
    world.lane.in_shadow = None  # no verdict yet
    world.run(lambda: world.phase() is Phase.SHADOW, start=world.offer(release("big", 3)))
    return world


def test_a_bug_during_a_trial_is_charged_to_the_release_on_trial(on_trial):
    with pytest.raises(ExceptionGroup):
        run_agent(on_trial, ZeroDivisionError())
    on_trial.restart()
    on_trial.slots.count_end(last_end(on_trial))

    assert (on_trial.slots["big"].crashes, on_trial.slots["big"].champion_crashes) == (1, 0)


@pytest.mark.parametrize(
    ("error", "onlooker", "end"),
    [
        (ZeroDivisionError(), None, End.CRASHED),
        (BrokerUnavailableError("away"), None, End.ORDERLY),
        (None, Faulty(), End.ORDERLY),
    ],
    ids=["in the lane", "the surroundings", "in the control plane"],
)
def test_only_what_ends_the_lane_is_charged_to_champions(world, error, onlooker, end):
    with pytest.raises(ExceptionGroup):
        run_agent(world, error, onlooker=onlooker)

    assert last_end(world) is end


def test_a_stop_during_a_trial_is_charged_to_nobody(on_trial):
    run_agent(on_trial, None)
    on_trial.restart()

    assert (on_trial.phase(), on_trial.slots["big"].crashes) == (Phase.ANNOUNCED, 0)


@pytest.mark.parametrize(("stalled_s", "is_crash"), [(30.0, False), (120.0, True)])
def test_a_lane_that_hangs_is_no_clean_stop_and_one_that_looks_up_a_name_is(
    on_trial, monkeypatch, stalled_s, is_crash
):
    monkeypatch.setattr(supervisor, "_LANE_STOP_S", 0.01)
    lane = HangingLane()

    with pytest.raises(RuntimeError, match="the lane hangs") if is_crash else nullcontext():
        run_agent(on_trial, None, lane=lane, stalled_s=stalled_s)
    lane.let_go()
    on_trial.restart()

    assert on_trial.slots["big"].crashes == is_crash
    assert last_end(on_trial) is (End.CRASHED if is_crash else End.ORDERLY)
