"""A short version of `make chaos`, without namespaces: a few faults of each kind, on real processes."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from support.brokers import require_mosquitto

CHAOS = Path(__file__).parents[2] / "chaos"


@pytest.fixture(scope="module")
def chaos():
    """The programs, as modules."""
    require_mosquitto()
    sys.path.insert(0, str(CHAOS))
    import faults
    import scene
    import suite

    yield sys.modules
    sys.path.remove(str(CHAOS))
    for module in (faults, scene, suite):
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
