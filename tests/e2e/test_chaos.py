"""A short version of `make chaos`, without namespaces: a few faults of each kind, on real processes."""

from __future__ import annotations

import json
import random
import sqlite3
import sys
import time
from contextlib import closing
from pathlib import Path

import pytest
from support.brokers import require_mosquitto
from support.sessions import connected

from atoll_link.session import Broker

CHAOS = Path(__file__).parents[2] / "chaos"


@pytest.fixture(scope="module")
def chaos():
    """The programs, as modules."""
    require_mosquitto()
    sys.path.insert(0, str(CHAOS))
    import device_faults
    import faults
    import scene
    import scene_acts
    import suite

    yield sys.modules
    sys.path.remove(str(CHAOS))
    for module in (device_faults, faults, scene, scene_acts, suite):
        del sys.modules[module.__name__]


@pytest.fixture(scope="module")
def place(chaos, tmp_path_factory):
    """A broker, a trainer and an agent with a spool, each on a line of its own, and readings."""
    folder = tmp_path_factory.mktemp("scene")
    broker = ("max_inflight_messages 1000",)
    with chaos["scene"].scene(folder, with_namespaces=False, broker=broker) as made:
        yield made


@pytest.mark.timeout(300)
def test_no_reading_is_lost_over_faults_of_agent_and_line(chaos, place):
    faults, suite = chaos["faults"], chaos["suite"]
    for fault in faults.FAULTS:
        if fault.inflict in {faults.half_open_up, faults.agent_killed}:
            assert suite.inflict(place, fault, random.Random(1)).recovered_s is not None, fault

    assert place.wait_all(1, place.feeder.sent, 30) == set()
    assert not place.deaths


@pytest.mark.long
@pytest.mark.timeout(300)
def test_answers_outlast_a_broker_that_forgets_and_an_end_of_the_agent(place):
    place.agent_line.swallows_up = True  # readings come, and no answer arrives
    before = place.feeder.sent
    place.wait_sent(before + 20)
    place.feeder.pause()
    place.agent.stop(timeout_s=60)
    kept = numbers_kept(place.state / "spool.db")
    place.broker.kill()  # all that is not acknowledged is forgotten
    place.agent_line.heal()
    place.broker.start()
    wait_heard(place)

    place.start_agent()

    assert kept
    place.spy.wait(lambda: kept <= numbers_replayed(place), f"the answers to {kept}", 60)


def numbers_kept(file: Path) -> set[int]:
    with closing(sqlite3.connect(file)) as connection:
        return {json.loads(payload)["seq"] for (payload,) in connection.execute("SELECT payload FROM spool")}


def numbers_replayed(place) -> set[int]:
    said = [json.loads(item.payload) for item in place.spy.on("/prediction/")]
    return {one["seq"] for one in said if "replayed" in one.get("quality", ())}


def wait_heard(place) -> None:
    """Wait until the spy has subscribed again."""
    marker = "atoll/v1/site/pi/marker"
    with connected(Broker(host="127.0.0.1", port=place.broker.port), "marker") as session:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            session.publish(marker, b"x")
            session.step(0.1)
            if place.spy.on("/marker"):
                return
    raise AssertionError("the spy does not come back")
