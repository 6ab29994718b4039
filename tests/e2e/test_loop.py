"""The closed loop with real processes: the world changes, and a while later all devices run what fits it."""

from __future__ import annotations

import importlib.util
import json
import time

import numpy as np
import pytest

pytest.importorskip("pyarrow")
if importlib.util.find_spec("tensorflow") is None:
    pytest.skip("tensorflow is not installed (pip install 'atoll[trainer]')", allow_module_level=True)

from support.agents import SITE
from support.bundles import make_bundle
from support.town import Town, first_release
from tuf.api.metadata import Metadata, Targets

from atoll_contract.manifest import PassRules
from atoll_contract.release import TRAINER_ROLE, ReleaseTerms
from atoll_contract.requests import RETRAIN, WITHDRAW, Request, Response
from atoll_contract.topics import RequestTopic
from atoll_trainer.dataset import Examples, Split
from atoll_trainer.home import Home
from atoll_trainer.loop.machine import Phase
from atoll_trainer.loop.state import LoopFile, LoopStore, ModelState
from atoll_trainer.loop.work import BUNDLE
from atoll_trainer.repository import Repository
from atoll_trainer.runs import Run

pytestmark = [pytest.mark.tensorflow, pytest.mark.timeout(480)]


@pytest.fixture
def town(tmp_path, mosquitto_broker):
    with Town(tmp_path, mosquitto_broker, "pi", fresh_s=5.0, watch_s=1.0, cool_down_s=1.0) as made:
        yield made


def test_the_world_changes_and_the_loop_learns_it_anew(town):
    wait = town.spy.wait
    town.trainer.publish(first_release())
    town.start_agents()
    wait(lambda: town.all_run(1), "release 1", 180)
    town.start_loop()
    town.start_devices()
    quiet = wait(lambda: town.labelled(50, 1), "labelled predictions", 180)

    changed_ms = time.time() * 1e3
    town.change_truth(slope_x=3.0, intercept=-1.0)
    begun = wait(lambda: (now := town.drift()) and now.drifting and now, "drift", 90)
    wait(lambda: town.phase() == "training", "a training", 180)
    # It is stopped in the middle of it, and goes on where it was.
    assert town.stop("loop") == 0
    town.start_loop()
    wait(lambda: town.all_run(2), "release 2", 240)
    state = wait(town.ended, "the end", 180)
    better = wait(lambda: town.labelled(50, 2), "labels", 180)

    assert not quiet.drifting
    assert quiet.error.mean < 0.1
    assert begun.error.mean > 0.3
    assert begun.since_ms == pytest.approx(changed_ms, abs=3000)
    assert state.outcome == "release 2 is out; 1 agent: 1 runs"
    assert not better.drifting
    assert better.error.mean < 0.1


def trained(town, release: int) -> None:
    """Leave behind what a loop does that was killed after it had trained ``release``: y = 2x + 1."""
    home = Home(town.trainer.home)
    run = Run(home.for_loop.new_run("wear"))
    x = np.linspace(-1, 1, 30, dtype=np.float32).reshape(-1, 1, 1)
    part = Examples(x, 2.0 * x[:, 0, 0] + 1.0, np.arange(30.0))
    run.write_split(Split(part, part, part))
    passing = PassRules(shadow_windows=0, probation_windows=0)
    (run.folder / BUNDLE).write_bytes(make_bundle(release=release, passing=passing).pack())
    state = ModelState(
        model="wear",
        phase=Phase.PUBLISHING,
        since_ms=1.0,
        created_ms=1.0,
        run=run.folder.name,
        release=release,
    )
    LoopStore(home.for_loop.folder).write(LoopFile(models={"wear": state}))


def test_a_release_is_tried_by_a_few_and_then_by_all(tmp_path, mosquitto_broker):
    with Town(tmp_path, mosquitto_broker, "pi", "pj", fresh_s=600.0, watch_s=0.5, worse_by=0.05) as town:
        wait = town.spy.wait
        town.trainer.publish(first_release())
        town.start_agents()
        wait(lambda: town.all_run(1), "release 1", 180)
        trained(town, 2)
        town.start_loop()
        state = wait(town.ended, "the end", 300)
        counts = town.status().counts

        # The few are watched for too short a time to look at them meanwhile.
        terms = first_terms(town, 2)
        tried = list(town.champions(before="promoting").values()).count(2)
        assert tried == sum(map(terms.includes, town.agents)) > 0
        assert town.all_run(2)
        assert state.outcome == "release 2 is out; 2 agents: 2 runs"
        assert counts == {"publications": 1, "promotions": 1}


def first_terms(town, release: int) -> ReleaseTerms:
    """Return for whom a release was when it came out."""
    target = ReleaseTerms(model="wear", release=release).target
    for path in Repository.load(town.trainer.home / "repository").metadata.files(TRAINER_ROLE):
        held = Metadata[Targets].from_file(str(path)).signed.targets.get(target)
        if held is not None:
            return ReleaseTerms.decode(held.custom)
    raise AssertionError(f"{target} never came out")


def ask(town, name: str, number: int, **arguments) -> Response:
    request = Request(id=f"t{number}", expires_ms=time.time() * 1e3 + 60e3, arguments=arguments)
    town.say((RequestTopic(SITE, "boss", "trainer", name), request.encode()))
    found = town.spy.wait(lambda: town.spy.on(f"/response/boss/{name}"), f"a response to {name}", 180)
    return Response.decode(found[0].payload)


def test_operators_ask_and_are_told_what_came_of_it(town):
    wait = town.spy.wait
    town.trainer.publish(first_release())
    town.start_loop()
    wait(lambda: town.phase() == "idle", "the loop", 180)

    trained = ask(town, RETRAIN, 1, model="wear")
    state = wait(town.ended, "the end", 180)
    withdrawn = ask(town, WITHDRAW, 2, model="wear", release=1.0)
    town.stop("loop")
    wait(lambda: town.status().health.value == "offline", "a goodbye")

    assert (trained.done, withdrawn.done) == (True, True)
    assert "no readings of stream 'press'" in state.outcome
    assert Repository.load(town.trainer.home / "repository").why_withdrawn("wear", 1) == "asked for by boss"
    assert [line["event"] for line in map(json.loads, town.log("loop").splitlines())].count("job.failed") == 1
