"""The closed loop with real processes: the world changes, and a while later all devices run what fits it."""

from __future__ import annotations

import importlib.util
import json
import time

import pytest

pytest.importorskip("pyarrow")
if importlib.util.find_spec("tensorflow") is None:
    pytest.skip("tensorflow is not installed (pip install 'atoll[trainer]')", allow_module_level=True)

from support.agents import SITE
from support.town import Town, first_release

from atoll_contract.requests import RETRAIN, WITHDRAW, Request, Response
from atoll_contract.topics import RequestTopic
from atoll_trainer.repository import Repository

pytestmark = [pytest.mark.tensorflow, pytest.mark.timeout(480)]


@pytest.fixture
def town(tmp_path, mosquitto_broker):
    with Town(tmp_path, mosquitto_broker, "pi", fresh_s=5.0, watch_s=1.0, cool_down_s=1.0) as made:
        yield made


def test_the_world_changes_and_the_loop_learns_it_anew(town):
    wait = town.spy.wait
    town.trainer.publish(first_release())
    town.start_agents()
    wait(lambda: town.all_run(1), "release 1", 60)
    town.start_loop()
    town.start_devices()
    quiet = wait(lambda: town.labelled(50, 1), "labelled predictions", 90)

    changed_ms = time.time() * 1e3
    town.change_truth(slope_x=3.0, intercept=-1.0)
    begun = wait(lambda: (now := town.drift()) and now.drifting and now, "drift", 30)
    wait(lambda: town.phase() == "training", "a training", 60)
    # It is stopped in the middle of it, and goes on where it was.
    assert town.stop("loop") == 0
    town.start_loop()
    wait(lambda: town.all_run(2), "release 2", 240)
    state = wait(town.ended, "the end", 60)
    better = wait(lambda: town.labelled(50, 2), "labels", 90)

    assert not quiet.drifting
    assert quiet.error.mean < 0.1
    assert begun.error.mean > 0.3
    assert begun.since_ms == pytest.approx(changed_ms, abs=3000)
    assert state.outcome == "release 2 is out; 1 agent: 1 runs"
    assert not better.drifting
    assert better.error.mean < 0.1


def ask(town, name: str, number: int, **arguments) -> Response:
    request = Request(id=f"t{number}", expires_ms=time.time() * 1e3 + 60e3, arguments=arguments)
    town.say((RequestTopic(SITE, "boss", "trainer", name), request.encode()))
    found = town.spy.wait(lambda: town.spy.on(f"/response/boss/{name}"), f"a response to {name}", 60)
    return Response.decode(found[0].payload)


def test_operators_ask_and_are_told_what_came_of_it(town):
    wait = town.spy.wait
    town.trainer.publish(first_release())
    town.start_loop()
    wait(lambda: town.phase() == "idle", "the loop", 60)

    trained = ask(town, RETRAIN, 1, model="wear")
    state = wait(town.ended, "the end", 90)
    withdrawn = ask(town, WITHDRAW, 2, model="wear", release=1.0)
    town.stop("loop")
    wait(lambda: town.status().health.value == "offline", "a goodbye")

    assert (trained.done, withdrawn.done) == (True, True)
    assert "no readings of stream 'press'" in state.outcome
    assert Repository.load(town.trainer.home / "repository").why_withdrawn("wear", 1) == "asked for by boss"
    assert [line["event"] for line in map(json.loads, town.log("loop").splitlines())].count("job.failed") == 1
