"""The closed loop with real processes: the world changes, and a while later all devices run what fits it."""

from __future__ import annotations

import importlib.util
import json
import signal
import subprocess
import time
from dataclasses import replace

import numpy as np
import pytest
from support.agents import SITE, AgentProcess, TrainerHome, command
from support.bundles import make_bundle
from support.spy import Spy

from atoll_contract.drift import DriftReport
from atoll_contract.manifest import PassRules
from atoll_contract.messages import Command, SlotStatus, Status
from atoll_contract.reference import ExpectedError, Histogram, Reference
from atoll_contract.requests import RETRAIN, Request, Response
from atoll_contract.topics import CommandTopic, RequestTopic
from atoll_link.session import Broker, Published, Session, wait_connected
from atoll_signal.spread import Spread, edges_of

if importlib.util.find_spec("tensorflow") is None:
    pytest.skip("tensorflow is not installed (pip install 'atoll[trainer]')", allow_module_level=True)

pytestmark = [pytest.mark.tensorflow, pytest.mark.timeout(480)]

DEVICES = ("press-1", "press-2", "press-3")
WORLD = f"""
[world]
site = "{SITE}"
seed = 3
trusted_writers = ["boss"]
[[device]]
prefix = "press"
count = {len(DEVICES)}
stream = "press"
rate_hz = 15.0
[device.signal.x]
shape = "uniform"
low = -1.0
high = 1.0
[device.truth]
model = "wear"
slope = {{ x = 2.0 }}
intercept = 1.0
noise = 0.05
label_delay_s = 0.2
"""
TASK = """
[task]
model = "wear"
stream = "press"
kind = "regression"
[task.values.x]
[fit]
optimiser = "gradient_descent"
learning_rate = 0.2
epochs = 60
[pass]
shadow_windows = 20
probation_windows = 20
"""
LOOP = """
[[stream]]
name = "press"
values = { x = {} }
[loop]
records = true
[[model]]
task = "task.toml"
fresh_s = 5.0
watch_s = 1.0
cool_down_s = 1.0
"""


def first_release():
    """Return y = 2x + 1, as a trainer would publish it."""
    x = np.linspace(-1, 1, 2000)
    histograms = []
    for numbers in (x, 2 * x + 1):
        edges = edges_of(numbers)
        blank = Histogram(edges=edges, counts=[1] * (len(edges) + 1), limit=0.25)
        counts = Spread([blank], np.array([0])).counts(numbers[:, None])[0].tolist()
        histograms.append(blank.model_copy(update={"counts": counts}))
    reference = Reference(
        span_s=5.0,
        windows=200,
        features=histograms[:1],
        output=histograms[1],
        error=ExpectedError(mean=0.04, std=0.03),
    )
    bundle = make_bundle(release=1, passing=PassRules(shadow_windows=0, probation_windows=0))
    return replace(bundle, reference=reference.encode())


class Town:
    """A broker with a trainer's loop, an agent and devices, and a spy on all of them."""

    def __init__(self, folder, broker) -> None:
        self.folder, self.broker = folder, broker
        self.trainer = TrainerHome(folder / "trainer", broker.port)
        settings = self.trainer.settings
        text = settings.read_text().replace("[trainer]\n", '[trainer]\ntrusted_writers = ["boss"]\n')
        settings.write_text(text + LOOP)
        (settings.parent / "task.toml").write_text(TASK)
        (folder / "world.toml").write_text(WORLD)
        self.agent = AgentProcess(folder / "agent", broker.port, self.trainer.home / "root.json")
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._boss = Session(Broker(host="127.0.0.1", port=broker.port), "boss")

    def start(self, name: str, program: str, *words: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(command(program, *words), stdout=log, stderr=log)

    def start_loop(self) -> None:
        self.start("loop", "atoll-trainer", "run", "--settings", str(self.trainer.settings))

    def stop(self, name: str, sig: int = signal.SIGTERM) -> int:
        process = self.processes.pop(name)
        process.send_signal(sig)
        return process.wait(60)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def say(self, *messages: tuple[object, bytes]) -> None:
        wait_connected(self._boss, 20)
        waiting = {self._boss.publish(str(topic), payload) for topic, payload in messages}
        deadline = time.monotonic() + 20
        while waiting:
            assert time.monotonic() < deadline
            waiting -= {event.mid for event in self._boss.step(0.5) if isinstance(event, Published)}

    def close(self) -> None:
        self._boss.close()
        self.agent.close()
        for name in list(self.processes):
            self.stop(name, signal.SIGKILL)


@pytest.fixture
def town(tmp_path, mosquitto_broker):
    made = Town(tmp_path, mosquitto_broker)
    yield made
    made.close()


def test_the_world_changes_and_the_loop_learns_it_anew(town):
    with Spy(town.broker.port, f"atoll/v1/{SITE}/#") as spy:
        town.trainer.publish(first_release())
        town.agent.start()
        spy.wait(lambda: champion(spy) == 1, "release 1", 60)
        town.start_loop()
        town.start(
            "sim",
            "atoll-sim",
            "run",
            "--broker",
            f"mqtt://127.0.0.1:{town.broker.port}",
            town.folder / "world.toml",
        )
        quiet = spy.wait(
            lambda: (now := drift(spy)) and labels(now) >= 50 and now, "labelled predictions", 90
        )

        order = Command(expires_ms=time.time() * 1e3 + 30e3, arguments={"slope_x": 3.0, "intercept": -1.0})
        changed_ms = time.time() * 1e3
        town.say(*((CommandTopic(SITE, "boss", device, "truth"), order.encode()) for device in DEVICES))
        begun = spy.wait(lambda: (now := drift(spy)) and now.drifting and now, "drift", 30)
        spy.wait(lambda: phase(spy) == "training", "a training", 60)
        # It is stopped in the middle of it, and goes on where it was.
        assert town.stop("loop") == 0
        town.start_loop()
        spy.wait(lambda: champion(spy) == 2, "release 2", 240)
        state = spy.wait(
            lambda: (now := loop(spy)) and now.phase == "idle" and now.outcome and now, "the end", 60
        )
        better = spy.wait(
            lambda: (now := drift(spy)) and now.release == 2 and labels(now) >= 50 and now, "labels", 90
        )

    assert not quiet.drifting
    assert quiet.error.mean < 0.1
    assert begun.error.mean > 0.3
    assert begun.since_ms == pytest.approx(changed_ms, abs=3000)
    assert state.outcome == "release 2 is out; 1 agent: 1 runs"
    assert not better.drifting
    assert better.error.mean < 0.1


def test_an_operator_asks_for_a_training_and_is_told_how_it_failed(town):
    with Spy(town.broker.port, f"atoll/v1/{SITE}/#") as spy:
        town.trainer.publish(first_release())
        town.start_loop()
        spy.wait(lambda: phase(spy) == "idle", "the loop", 60)
        request = Request(id="t1", expires_ms=time.time() * 1e3 + 60e3, arguments={"model": "wear"})
        town.say((RequestTopic(SITE, "boss", "trainer", RETRAIN), request.encode()))
        spy.wait(lambda: spy.on("/response/boss/retrain"), "a response", 30)
        state = spy.wait(lambda: (now := loop(spy)) and now.outcome and now, "the end", 90)
        town.stop("loop")
        spy.wait(lambda: status(spy).health.value == "offline", "a goodbye")

    assert Response.decode(spy.on("/response/boss/retrain")[0].payload).done
    assert "no readings of stream 'press'" in state.outcome
    assert [line["event"] for line in map(json.loads, town.log("loop").splitlines())].count("job.failed") == 1


def champion(spy) -> int | None:
    found = spy.on("/pi/slot/wear")
    slot = SlotStatus.decode(found[-1].payload) if found else None
    return slot.champion.release if slot and slot.champion else None


def drift(spy) -> DriftReport | None:
    found = spy.on("/pi/drift/wear")
    return DriftReport.decode(found[-1].payload) if found else None


def labels(report: DriftReport) -> int:
    return report.error.labels if report.error else 0


def status(spy) -> Status | None:
    found = spy.on("/trainer/status")
    return Status.decode(found[-1].payload) if found else None


def loop(spy):
    found = status(spy)
    return found.loops[0] if found and found.loops else None


def phase(spy) -> str | None:
    found = loop(spy)
    return found.phase if found else None
