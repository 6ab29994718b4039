"""Where the faults happen: a broker, an agent and a trainer on lines of their own, and readings."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from faulty_line import FaultyLine
from netns import Namespace
from support import brokers
from support.agents import AgentProcess, TrainerHome, command
from support.brokers import RunningBroker, select_pause
from support.bundles import make_bundle
from support.feeder import Feeder
from support.spy import Spy
from world import READING, SAID, champion, status, wait_for

from atoll_contract.manifest import PassRules

PATIENCE_S = 90.0
SPOOL = "[spool]\nenabled = true\nafter_s = 1.0\n"
TRIAL = PassRules(shadow_windows=5, probation_windows=5)
STATE_BYTES = 8 * 1024 * 1024


class Tally:
    """Who was answered, and how often, as one consumer of predictions sees it."""

    def __init__(self, spy: Spy) -> None:
        self._spy = spy
        self._read = 0
        self.answers: Counter[int] = Counter()
        self.highest = self.replayed = 0

    def look(self) -> None:
        """Take in what has come since."""
        deliveries = self._spy.deliveries
        while self._read < len(deliveries):
            item = deliveries[self._read]
            self._read += 1
            if "/prediction/" in item.topic and item.payload:
                said = json.loads(item.payload)
                self.answers[said["seq"]] += 1
                self.highest = max(self.highest, said["seq"])
                self.replayed += "replayed" in said.get("quality", ())

    @property
    def twice(self) -> int:
        """How many answers were one too many."""
        return self.answers.total() - len(self.answers)

    def missing(self, first: int, last: int) -> set[int]:
        """Return the readings from ``first`` to ``last`` that nobody has answered."""
        return {number for number in range(first, last + 1) if number not in self.answers}


class Scene:
    """What the faults are inflicted on.

    Attributes:
        agent_net, trainer_net: Their lines, as networks; None without namespaces.
        agent_line, trainer_line: Their lines, as connections.
        deaths: Exit codes of agents that ended though nobody ended them.
    """

    def __init__(
        self, folder: Path, broker: RunningBroker, trainer: TrainerHome, spy: Spy, feeder: Feeder
    ) -> None:
        self.folder = folder
        self.broker = broker
        self.trainer = trainer
        self.spy, self.feeder, self.tally = spy, feeder, Tally(spy)
        self.agent_net: Namespace | None = None
        self.trainer_net: Namespace | None = None
        self.agent_line: FaultyLine
        self.trainer_line: FaultyLine
        self.agent: AgentProcess
        self.release = 0
        self.deaths: Counter[int] = Counter()

    @property
    def state(self) -> Path:
        """The agent's state folder."""
        return self.agent.folder / "state"

    @property
    def pid(self) -> int:
        """The agent's process."""
        assert self.agent.process is not None
        return self.agent.process.pid

    def start_agent(self, agent: AgentProcess | None = None, **environment: str) -> None:
        """Start the agent, or another one, behind the agent's line."""
        (agent or self.agent).start(**_reached(self.agent_net, self.agent_line), **environment)

    def restart_agent(self, **environment: str) -> None:
        """Kill the agent, and start it with this environment."""
        self.agent.kill()
        self.start_agent(None, **environment)

    def tend(self) -> None:
        """Start the agent again if it has ended by itself, as systemd does; tell how it ended."""
        process = self.agent.process
        if process is not None and (code := process.poll()) is not None:
            self.deaths[code] += 1
            select_pause(0.5)
            self.start_agent()

    def publishing(self, release: int) -> subprocess.Popen[bytes]:
        """Start the trainer on publishing a release."""
        path = self.folder / f"wear-{release}.atoll"
        if not path.exists():
            file = ("linear_float", "triple_float")[release % 2]
            path.write_bytes(make_bundle(release=release, file=file, passing=TRIAL).pack())
        return self.trainer_process("publish", str(path))

    def trainer_process(self, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a command of the trainer behind its line."""
        prefix = [] if self.trainer_net is None else self.trainer_net.prefix
        words = [arguments[0], "--settings", str(self.trainer.settings), *arguments[1:]]
        with (self.folder / "trainer.log").open("ab") as log:
            return subprocess.Popen(
                [*prefix, *command("atoll-trainer", *words)],
                stdout=log,
                stderr=log,
                env={**os.environ, **_reached(self.trainer_net, self.trainer_line)},
            )

    def complete(self, *arguments: str) -> None:
        """Have the trainer run a command, again and again until it succeeds."""
        deadline = time.monotonic() + 240
        while self.trainer_process(*arguments).wait(120):
            if time.monotonic() > deadline:
                raise TimeoutError(f"the trainer cannot {arguments[0]}: {self.folder / 'trainer.log'}")

    def complete_release(self) -> None:
        """Have the present release published."""
        self.complete("publish", str(self.folder / f"wear-{self.release}.atoll"))

    def wait_sent(self, last: int) -> None:
        """Wait until the reading ``last`` has been sent."""
        wait_for(lambda: self.feeder.sent >= last, f"reading {last}", PATIENCE_S)

    def wait_answered(self, last: int, timeout_s: float = PATIENCE_S) -> float | None:
        """Return how long it took until the reading ``last``, or one after it, was answered; None: longer."""
        started_s = time.monotonic()
        while time.monotonic() - started_s < timeout_s:
            self.tally.look()
            if self.tally.highest >= last:
                return time.monotonic() - started_s
            self.tend()
            select_pause(0.02)
        return None

    def wait_all(self, first: int, last: int, timeout_s: float = PATIENCE_S) -> set[int]:
        """Return which readings were not answered in time."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            self.tally.look()
            if not (missing := self.tally.missing(first, last)):
                return missing
            self.tend()
            select_pause(0.05)
        return missing

    def counts(self) -> dict[str, int]:
        """Return the agent's counters, as it has last published them."""
        return dict(status(self.spy).get("counts", {}))


@contextmanager
def scene(
    folder: Path, *, with_namespaces: bool = True, more: str = SPOOL, broker: Sequence[str] = ()
) -> Iterator[Scene]:
    """Make it, with one release out, and end all of it; ``broker``: lines of its configuration."""
    with ExitStack() as stack:
        running = stack.enter_context(brokers.mosquitto(folder / "broker", *broker))
        trainer = TrainerHome(folder / "trainer", running.port)
        spy = stack.enter_context(Spy(running.port, SAID))
        feeder = stack.enter_context(Feeder(running.port, READING))
        made = Scene(folder, running, trainer, spy, feeder)
        if with_namespaces:
            made.agent_net = stack.enter_context(Namespace("agent", 1))
            made.trainer_net = stack.enter_context(Namespace("trainer", 2))
        target = ("127.0.0.1", running.port)
        made.agent_line = stack.enter_context(FaultyLine(target, _host(made.agent_net)))
        made.trainer_line = stack.enter_context(FaultyLine(target, _host(made.trainer_net)))
        state = folder / "agent" / "state"
        if with_namespaces:
            state.mkdir(parents=True)
            _mount(state)
            stack.callback(_unmount, state)
        prefix = [] if made.agent_net is None else made.agent_net.prefix
        root = trainer.home / "root.json"
        made.agent = AgentProcess(folder / "agent", running.port, root, more=more, prefix=prefix)
        made.release = 1
        assert made.publishing(1).wait(120) == 0
        made.start_agent()
        stack.callback(made.agent.close)
        wait_for(lambda: champion(spy) == 1, "the first release", PATIENCE_S)
        # What is sent before the lane has subscribed is nobody's loss, and nobody knows of it.
        wait_for(lambda: status(spy).get("health") == "ready", "a lane that is connected", PATIENCE_S)
        feeder.go_on()
        yield made


def _host(net: Namespace | None) -> str:
    return "127.0.0.1" if net is None else net.host


def _reached(net: Namespace | None, line: FaultyLine) -> dict[str, str]:
    return {"ATOLL_BROKER__HOST": _host(net), "ATOLL_BROKER__PORT": str(line.port)}


def _mount(folder: Path) -> None:
    """Put a small file system there, which can be filled and made read-only."""
    options = f"size={STATE_BYTES},mode=0755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], check=True, timeout=20)


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", folder], check=True, timeout=20)
