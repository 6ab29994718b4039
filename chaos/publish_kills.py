"""The trainer is killed at every step of publishing: `make chaos-publish`.

`kill -9` at the n-th MQTT packet of `atoll-trainer publish`: before it passes, after it, or some
milliseconds later, so that signing is hit as well. After each kill a device that has seen everything and
one that has seen nothing must be able to verify and fetch the old release or the new one; then the same
command, run again, must complete the work. A third device and a real agent look all the time. At the end
the same with `keys rotate`, where all must go on with the release that they have.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass, field, replace
from datetime import timedelta
from io import StringIO
from itertools import cycle
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

BUNDLE_BYTES = 150_000
COMMAND_S = 120.0
AGENT_S = 120.0
TIMESTAMP = str(MetadataTopic("timestamp.json"))
ROTATED = ("online", "targets", "trainer")
SIGNED_FILES = {"publish": 3, "online": 4, "targets": 5, "trainer": 4}
"""Metadata files that a command signs: trainer, snapshot, timestamp; around them targets and roots."""
ENOUGH = 0.9
"""So much of what is asked for must be killed: a command may be shorter than the one that was measured."""
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
        self.runs = 0
        self.tally = Tally()

    def publish_next(self, number: int = 0, moment: Moment = Moment.AFTER) -> int:
        """Publish the next release, killed at packet ``number``; return how many packets passed."""
        self.release += 1
        if self.release % AGE_EVERY == 0:
            self.trainer.age(timedelta(days=2))
        padding = random.Random(self.release).randbytes(BUNDLE_BYTES)
        path = self._folder / "wear.atoll"
        bundle = make_bundle(release=self.release)
        path.write_bytes(replace(bundle, model=bundle.model + padding).pack())
        return self._kill(["publish", str(path)], number, moment, {self.release - 1, self.release})

    def rotate(self, name: str, number: int = 0, moment: Moment = Moment.AFTER) -> int:
        """Put a new key in the place of an old one, killed at packet ``number``."""
        return self._kill(["keys", "rotate", name], number, moment, {self.release})

    def _kill(self, words: list[str], number: int, moment: Moment, allowed: set[int]) -> int:
        """Run a command that is killed, look, run it again and look."""
        self.runs += 1
        before = self._timestamp()
        trap = Trap(number, moment)
        if self._run(words, trap) < 0:
            self.tally.kills[trap.sprung_at or "no packet"] += 1
            self.tally.left[self._left(before)] += 1
            self._look("after a kill", allowed)
            self._run(words, Trap(0, moment))
        elif number:
            self.tally.survived += 1
        self._look("completed", {self.release})
        self._compare()
        return trap.seen

    def _run(self, words: list[str], trap: Trap) -> int:
        """Run a command until it ends or the trap springs; return its status, negative if killed."""
        self._proxy.trap = trap
        options = ("--settings", str(self.home.settings), "--log-level", "error")
        process = subprocess.Popen(
            command("atoll-trainer", *words, *options), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        trap.process = process
        if trap.moment is Moment.FILE and trap.number:
            self._kill_while_signing(trap, process)
        _, told = process.communicate(timeout=COMMAND_S)
        if process.returncode > 0:
            self.tally.faults.append(f"{' '.join(words)}: {told.decode()}")
        return process.returncode

    def _kill_while_signing(self, trap: Trap, process: subprocess.Popen[bytes]) -> None:
        before = self._metadata_files()
        while process.poll() is None:
            if len(new := self._metadata_files() - before) >= trap.number:
                process.kill()
                trap.sprung_at = f"{len(new)} files signed"
                return
            time.sleep(0.0002)

    def _metadata_files(self) -> set[tuple[str, int]]:
        found = os.scandir(self.trainer.folder / "repository" / "metadata")
        return {(entry.name, entry.inode()) for entry in found if not entry.name.startswith(".")}

    def _timestamp(self) -> bytes:
        return (self.trainer.folder / "repository" / "metadata" / "timestamp.json").read_bytes()

    def _left(self, before: bytes) -> str:
        """Return what a kill has left: how far signing and publishing are."""
        if not self.trainer.repository.is_complete:
            return "partly signed"
        if self._timestamp() == before:
            return "nothing signed"
        is_out = held(self._broker, [TIMESTAMP])[TIMESTAMP] == self._timestamp()
        return "all out" if is_out else "signed, not all out"

    def _look(self, when: str, allowed: set[int]) -> None:
        """Let a device that knows much and one that knows nothing verify and fetch what there is."""
        for name in ("known", f"fresh-{self.runs}-{when.replace(' ', '-')}"):
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


def plan(packets: Mapping[str, int], kills: int) -> Iterator[tuple[str, int, Moment]]:
    """Yield what to run, and when to kill it: two thirds publishing, the rest rotations."""
    for what, whole in packets.items():
        share = kills - kills // 3 if what == "publish" else kills // 3 // len(ROTATED)
        signing = share // 4
        for number in range(signing):
            yield what, 1 + number % SIGNED_FILES[what], Moment.FILE
        moments = cycle((Moment.BEFORE, Moment.AFTER, Moment.LATER))
        for number in range(share - signing):
            yield what, 1 + (2 * number + 1) * whole // (2 * (share - signing)), next(moments)


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
        with redirect_stdout(StringIO()):
            killing = Killing(folder, broker, proxy)
        tally = killing.tally
        killing.publish_next()  # which needs more packets than all others
        packets = {"publish": killing.publish_next()} | {name: killing.rotate(name) for name in ROTATED}
        print(f"packets {packets}; {kills} kills spread over them", flush=True)
        with redirect_stdout(StringIO()):
            agent = AgentProcess(folder / "agent", broker.port, killing.home.home / "root.json")
        agent.start()
        root = (killing.home.home / "root.json").read_bytes()
        (folder / "watching").mkdir()
        try:
            with WatchingDevice(broker, folder / "watching", root, model="wear", pause_s=0.2) as watching:
                for done, (what, number, moment) in enumerate(plan(packets, kills), start=1):
                    if what == "publish":
                        killing.publish_next(number, moment)
                    else:
                        killing.rotate(what, number, moment)
                    if done % 10 == 0:
                        print(f"{done:>5} kills, {len(tally.faults)} faults", flush=True)
                killing.publish_next()
            tally.faults += [f"the watching device: {fault.detail}" for fault in watching.faults]
            tally.faults += agent_faults(agent, killing.release)
        finally:
            agent.close()
    return report(tally, watching.looks, kills, time.monotonic() - started_s)


def report(tally: Tally, watched: int, kills: int, seconds: float) -> int:
    """Print the summary and return the exit status."""
    if sum(tally.kills.values()) < ENOUGH * kills:
        tally.faults.append(f"fewer kills than {ENOUGH:.0%} of {kills}")
    if not tally.looks or not watched:
        tally.faults.append("no device looked")
    print(f"\nkilled {sum(tally.kills.values())} times in {seconds:.0f} s, at")
    for packet, count in tally.kills.most_common():
        print(f"  {packet:<24} {count:>4}")
    if tally.survived:
        print(f"ended before its packet came: {tally.survived}")
    print("left behind")
    for state, count in tally.left.most_common():
        print(f"  {state:<24} {count:>4}")
    print(f"devices that looked afterwards {tally.looks}, watching device looked {watched} times")
    print(f"faults {len(tally.faults)}")
    for fault in tally.faults[:20]:
        print(f"  {fault}")
    return 1 if tally.faults else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=160)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="atoll-publish-kills-") as folder:
        return kill_the_trainer(arguments.kills, arguments.seed, Path(folder))


if __name__ == "__main__":
    sys.exit(main())
