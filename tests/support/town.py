"""A trainer's loop, agents and simulated devices on one broker, as real processes."""

from __future__ import annotations

import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import numpy as np
from support.agents import SITE, AgentProcess, TrainerHome, command
from support.brokers import RunningBroker
from support.bundles import make_bundle
from support.spy import Spy

from atoll_contract.bundle import Bundle
from atoll_contract.drift import DriftReport
from atoll_contract.manifest import PassRules
from atoll_contract.messages import Command, LoopState, SlotStatus, Status
from atoll_contract.reference import ExpectedError, Histogram, Reference
from atoll_contract.topics import CommandTopic
from atoll_link.session import Broker, Delivery, Published, Session, wait_connected
from atoll_signal.spread import Spread, edges_of

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
"""


def first_release() -> Bundle:
    """Return y = 2x + 1 for x from -1 to 1, as a trainer would publish it."""
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


def _phase_in(item: Delivery) -> str | None:
    """Return where the loop is by what was heard of it, if that is what was heard."""
    loops = Status.decode(item.payload).loops if item.topic.endswith("/trainer/status") else None
    return loops[0].phase if loops else None


class Town:
    """The processes, and what they say as ``spy`` hears it.

    Args:
        folder: Where everything is.
        broker: Runs.
        agents: Ids of the agents.
        **loop: Keys of ``[[model]]``.
    """

    def __init__(self, folder: Path, broker: RunningBroker, *agents: str, **loop: float) -> None:
        self.folder, self.broker = folder, broker
        self.trainer = TrainerHome(folder / "trainer", broker.port)
        settings = self.trainer.settings
        text = settings.read_text().replace("[trainer]\n", '[trainer]\ntrusted_writers = ["boss"]\n')
        settings.write_text(text + LOOP + "".join(f"{key} = {value}\n" for key, value in loop.items()))
        (settings.parent / "task.toml").write_text(TASK)
        self.world = folder / "world.toml"
        self.world.write_text(WORLD)
        root = self.trainer.home / "root.json"
        self.agents = {name: AgentProcess(folder / name, broker.port, root, agent=name) for name in agents}
        # Not readings and predictions: whoever waits for a fact looks through all that was heard.
        kinds = ("slot", "drift", "response")
        self.spy = Spy(
            broker.port, f"atoll/v1/{SITE}/+/status", *(f"atoll/v1/{SITE}/+/{kind}/#" for kind in kinds)
        )
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._boss = Session(Broker(host="127.0.0.1", port=broker.port), "boss")

    def __enter__(self) -> Self:
        self.spy.__enter__()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._boss.close()
        for agent in self.agents.values():
            agent.close()
        for name in list(self.processes):
            self.stop(name, signal.SIGKILL)
        self.spy.__exit__(None, None, None)

    # What goes on

    def start(self, name: str, program: str, *words: str | Path) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                command(program, *map(str, words)), stdout=log, stderr=log
            )

    def start_agents(self) -> None:
        for agent in self.agents.values():
            agent.start()

    def start_loop(self) -> None:
        self.start("loop", "atoll-trainer", "run", "--settings", self.trainer.settings)

    def start_devices(self) -> None:
        self.start("sim", "atoll-sim", "run", "--broker", f"mqtt://127.0.0.1:{self.broker.port}", self.world)

    def stop(self, name: str, sig: int = signal.SIGTERM) -> int:
        process = self.processes.pop(name)
        process.send_signal(sig)
        return process.wait(60)

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def say(self, *messages: tuple[object, bytes]) -> None:
        """Publish as ``boss`` and return once the broker has it."""
        wait_connected(self._boss, 20)
        waiting = {self._boss.publish(str(topic), payload) for topic, payload in messages}
        deadline = time.monotonic() + 20
        while waiting:
            assert time.monotonic() < deadline
            waiting -= {event.mid for event in self._boss.step(0.5) if isinstance(event, Published)}

    def change_truth(self, **arguments: float) -> None:
        """Let the devices do something else from now on: ``slope_x``, ``intercept``."""
        order = Command(expires_ms=time.time() * 1e3 + 30e3, arguments=arguments)
        self.say(*((CommandTopic(SITE, "boss", device, "truth"), order.encode()) for device in DEVICES))

    # What is heard

    def champions(self, before: str | None = None) -> dict[str, int | None]:
        """Return what answers, by agent; or what did until the loop was first heard to be at ``before``."""
        heard = list(self.spy.deliveries)
        if before is not None:
            heard = heard[: [_phase_in(item) for item in heard].index(before)]
        found = {}
        for name in self.agents:
            said = [item for item in heard if f"/{name}/slot/wear" in item.topic]
            slot = SlotStatus.decode(said[-1].payload) if said else None
            found[name] = slot.champion.release if slot and slot.champion else None
        return found

    def all_run(self, release: int) -> bool:
        return set(self.champions().values()) == {release}

    def drift(self, agent: str = "pi") -> DriftReport | None:
        found = self.spy.on(f"/{agent}/drift/wear")
        return DriftReport.decode(found[-1].payload) if found else None

    def status(self) -> Status | None:
        found = self.spy.on("/trainer/status")
        return Status.decode(found[-1].payload) if found else None

    def loop(self) -> LoopState | None:
        found = self.status()
        return found.loops[0] if found and found.loops else None

    def phase(self) -> str | None:
        found = self.spy.on("/trainer/status")
        return _phase_in(found[-1]) if found else None

    def ended(self) -> LoopState | None:
        """Return the state of the loop if a turn has ended, and none is going on."""
        found = self.loop()
        return found if found and found.phase == "idle" and found.outcome else None

    def labelled(self, count: int, release: int, agent: str = "pi") -> DriftReport | None:
        """Return the report of a release once so many labels have found their predictions."""
        found: Any = self.drift(agent)
        if found and found.release == release and found.error and found.error.labels >= count:
            return found  # type: ignore[no-any-return]  # a report
        return None
