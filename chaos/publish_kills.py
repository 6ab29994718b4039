"""The trainer is killed at every step of publishing: `make chaos-publish`.

`kill -9` at the n-th MQTT packet of `atoll-trainer publish`: before it passes, after it, or some
milliseconds later, so that signing is hit as well. After each kill a device that has seen everything and
one that has seen nothing must be able to verify and fetch the old release or the new one; then the same
command, run again, must complete the work. A third device and a real agent look all the time.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

from killing_proxy import KillingProxy, Moment, Trap
from support import brokers
from support.agents import AgentProcess, TrainerHome, command
from support.brokers import RunningBroker
from support.bundles import make_bundle
from support.releases import Trainer, device, held, newest, topics_of
from support.watching import WatchingDevice

from atoll_contract.errors import AtollError
from atoll_contract.topics import MetadataTopic
from atoll_trainer.repository import Repository

BUNDLE_BYTES = 150_000
COMMAND_S = 120.0
AGENT_S = 120.0
TIMESTAMP = str(MetadataTopic("timestamp.json"))
AGE_EVERY = 4
"""Every so many releases the files grow two days older, so that there is something to clear."""


@dataclass
class Tally:
    """What happened.

    Attributes:
        kills: By the packet that was the last.
        left: What the kills left behind.
        survived: Commands that ended before their packet came.
        faults: What must not happen, in words.
        looks: Verifications by devices after a kill or a completion.
    """

    kills: Counter[str] = field(default_factory=Counter)
    left: Counter[str] = field(default_factory=Counter)
    survived: int = 0
    faults: list[str] = field(default_factory=list)
    looks: int = 0


class Killing:
    """One trainer that is killed again and again, and devices that look at what it leaves."""

    def __init__(self, folder: Path, broker: RunningBroker, proxy: KillingProxy) -> None:
        self._folder, self._broker, self._proxy = folder, broker, proxy
        self.home = TrainerHome(folder / "trainer", proxy.port)
        self.trainer = Trainer(self.home.home)
        self.release = 0
        self.tally = Tally()

    def publish(self, trap: Trap) -> int:
        """Run the command for the present release until it ends or the trap springs; return its status."""
        bundle = make_bundle(release=self.release)
        padding = random.Random(self.release).randbytes(BUNDLE_BYTES)
        path = self._folder / "wear.atoll"
        path.write_bytes(replace(bundle, model_edgetpu=padding).pack())
        self._proxy.trap = trap
        words = ("publish", str(path), "--settings", str(self.home.settings), "--log-level", "error")
        process = subprocess.Popen(
            command("atoll-trainer", *words), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        trap.process = process
        _, told = process.communicate(timeout=COMMAND_S)
        if process.returncode > 0:
            self.tally.faults.append(f"release {self.release}: {told.decode()}")
        return process.returncode

    def kill_at(self, number: int, moment: Moment) -> None:
        """Publish the next release, killed at packet ``number``, look, publish it again, look."""
        self.release += 1
        if self.release % AGE_EVERY == 0:
            self.trainer.age(timedelta(days=2))
        trap = Trap(number, moment)
        if self.publish(trap) == 0:
            self.tally.survived += 1
        else:
            self.tally.kills[trap.sprung_at or "no packet"] += 1
            self.tally.left[self._left()] += 1
            self._look("after a kill", {self.release - 1, self.release})
        if self.publish(Trap(0, moment)) == 0:
            self._look("completed", {self.release})
            self._compare()

    def _left(self) -> str:
        """Return what a kill has left: how far signing and publishing are."""
        repository = Repository.load(self.trainer.folder / "repository")
        is_signed = self.release in [terms.release for terms in repository.releases("wear")]
        if not repository.is_complete:
            return "partly signed"
        stamp = (self.trainer.folder / "repository" / "metadata" / "timestamp.json").read_bytes()
        is_out = held(self._broker, [TIMESTAMP])[TIMESTAMP] == stamp
        if not is_signed:
            return "nothing signed"
        return "all out" if is_out else "signed, not all out"

    def _look(self, when: str, allowed: set[int]) -> None:
        """Let a device that knows much and one that knows nothing verify and fetch what there is."""
        for name in ("known", f"fresh-{self.release}-{when.replace(' ', '-')}"):
            folder = self._folder / "devices" / name
            folder.mkdir(parents=True, exist_ok=True)
            (folder / "bundle.part").unlink(missing_ok=True)
            try:
                with device(self._broker, folder, self.trainer.root) as repository:
                    found = newest(repository.refresh(), "wear")
                    repository.fetch(found, folder / "bundle.part")
            except AtollError as error:
                self.tally.faults.append(f"release {self.release}, {when}, {name} device: {error.detail}")
                continue
            self.tally.looks += 1
            if found.release not in allowed:
                self.tally.faults.append(f"{when}: release {found.release}, not one of {allowed}")

    def _compare(self) -> None:
        missing = [
            topic for topic, payload in held(self._broker, topics_of(self.trainer)).items() if not payload
        ]
        if missing:
            self.tally.faults.append(f"release {self.release}: {missing} not at the broker")


def agent_faults(agent: AgentProcess, release: int) -> list[str]:
    """Wait for the agent to run ``release``; return what it could not verify on the way there."""
    deadline = time.monotonic() + AGENT_S
    while release not in [event["release"] for event in agent.events("model.activated")]:
        if time.monotonic() > deadline:
            return [f"the agent does not run release {release}"]
        time.sleep(0.1)
    failed = agent.events("repository.failed") + agent.events("release.refused")
    return [f"the agent: {event['reason']}: {event['detail']}" for event in failed]


def kill_the_trainer(kills: int, seed: int, folder: Path) -> int:
    """Kill it so many times, spread evenly over the packets of the command; return the exit status."""
    source = random.Random(seed)
    started_s = time.monotonic()
    with (
        brokers.mosquitto(folder / "broker") as broker,
        KillingProxy(broker.port, source) as proxy,
    ):
        killing = Killing(folder, broker, proxy)
        tally = killing.tally
        packets = 0
        for _ in range(2):  # the first release needs more packets than all others
            killing.release += 1
            whole = Trap(0, Moment.AFTER)
            killing.publish(whole)
            packets = whole.seen
        print(f"publishing takes {packets} packets; {kills} kills spread over them", flush=True)
        agent = AgentProcess(folder / "agent", broker.port, killing.home.home / "root.json")
        agent.start()
        root = (killing.home.home / "root.json").read_bytes()
        (folder / "watching").mkdir()
        try:
            with WatchingDevice(broker, folder / "watching", root, model="wear", pause_s=0.2) as watching:
                moments = [*Moment]
                for number in range(kills):
                    killing.kill_at(1 + number * packets // kills, moments[number % len(moments)])
                    if (number + 1) % 10 == 0:
                        print(f"{number + 1:>5} kills, {len(tally.faults)} faults", flush=True)
            tally.faults += [f"the watching device: {fault.detail}" for fault in watching.faults]
            tally.faults += agent_faults(agent, killing.release)
        finally:
            agent.close()
    return report(tally, watching, time.monotonic() - started_s)


def report(tally: Tally, watching: WatchingDevice, seconds: float) -> int:
    """Print the summary and return the exit status."""
    print(f"\nkilled {sum(tally.kills.values())} times in {seconds:.0f} s, at")
    for packet, count in tally.kills.most_common():
        print(f"  {packet:<24} {count:>4}")
    if tally.survived:
        print(f"ended before its packet came: {tally.survived}")
    print("left behind")
    for state, count in tally.left.most_common():
        print(f"  {state:<24} {count:>4}")
    print(f"devices that looked afterwards {tally.looks}, watching device looked {watching.looks} times")
    print(f"faults {len(tally.faults)}")
    for fault in tally.faults[:20]:
        print(f"  {fault}")
    return 1 if tally.faults else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=120)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="atoll-publish-kills-") as folder:
        return kill_the_trainer(arguments.kills, arguments.seed, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
