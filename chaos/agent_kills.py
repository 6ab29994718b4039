"""The agent is killed in every phase of a release, and the broker during a transfer: `make chaos-kills`.

`kill -9` of the agent, at least two hundred times: each time it resumes, nothing on its disk is damaged,
and every reading is answered. Then the broker, while a large bundle is on its way over a slow line: the
transfer ends after the trainer has published again, and what the broker lost of the readings is told.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from line import SlowLine
from support import brokers
from support.agents import AgentProcess
from support.brokers import RunningBroker
from support.feeder import Feeder
from support.releases import Trainer
from support.spy import Spy
from world import (
    CHUNK,
    READING,
    SAID,
    answered,
    champion,
    large_bundle,
    new_trainer,
    report,
    settled_counts,
    status,
    stored_chunks,
    wait_for,
)

from atoll_contract.manifest import PassRules

PHASES = ("announced", "fetching", "verifying", "self_test", "activating", "shadow", "probation", "champion")
LOADED = ("activating", "shadow", "probation")
"""In one of these a release survives one kill; the second in a row refuses it."""
TRIAL = PassRules(shadow_windows=10, probation_windows=10)
PATIENCE_S = 60.0


class Kills:
    """Kills one agent again and again, and looks at what it left."""

    def __init__(self, folder: Path, broker: RunningBroker, trainer: Trainer, root: Path) -> None:
        self.broker, self.trainer = broker, trainer
        self.agent = AgentProcess(folder / "agent", broker.port, root)
        self.state = folder / "agent" / "state"
        self.kills: Counter[str] = Counter()
        self.missed: Counter[str] = Counter()
        self.damaged: list[str] = []

    def publish(self, release: int) -> None:
        bundle = large_bundle(release, 1_000_000, passing=TRIAL).pack()
        # A second at most, so that "announced" lasts long enough to be seen.
        self.trainer.publish(self.broker, bundle, chunk_size=CHUNK, max_delay_s=1)

    def kill_in(self, phase: str, release: int) -> None:
        """Start the agent, kill it as soon as its slot says ``phase`` of ``release``, and look."""
        self.agent.start()
        deadline_s = time.monotonic() + PATIENCE_S
        while (seen := self._phase(release)) != phase:
            if seen == "champion":
                self.missed[phase] += 1  # it was too quick; killed all the same
                break
            if time.monotonic() > deadline_s:
                raise TimeoutError(
                    f"release {release} does not reach {phase}: {self.agent.log.read_text()[-2000:]}"
                )
            time.sleep(0.0003)
        self.agent.kill()
        self.kills[phase] += 1
        self._look()

    def _phase(self, release: int) -> str | None:
        slot = self._slot()
        for part in ("challenger", "champion"):
            if slot.get(part) and slot[part]["release"] == release:
                return "champion" if part == "champion" else str(slot["phase"])
        return None

    def _slot(self) -> dict[str, Any]:
        try:
            content = json.loads((self.state / "slots" / "wear.json").read_bytes())
        except FileNotFoundError:
            return {}
        return dict(content["slot"])

    def _look(self) -> None:
        """Find what a kill has damaged: no slot, no bundle and no champion's file may be torn."""
        slot = self._slot()
        self.damaged += [path.name for path in (self.state / "slots").glob("*.damaged")]
        for path in (self.state / "bundles").glob("*.atoll"):
            if hashlib.sha256(path.read_bytes()).hexdigest() != path.stem:
                self.damaged.append(path.name)
        if (
            slot.get("champion")
            and not (self.state / "bundles" / f"{slot['champion']['sha256']}.atoll").exists()
        ):
            self.damaged.append("the champion's bundle is gone")


def kill_the_agent(folder: Path, kills: int) -> int:
    """Kill it in each phase in turn, a new release each round."""
    with brokers.mosquitto(folder / "broker") as broker:
        trainer, root = new_trainer(folder)
        killing = Kills(folder, broker, trainer, root)
        with Spy(broker.port, SAID) as spy, Feeder(broker.port, READING) as feeder:
            try:
                killing.publish(1)
                killing.agent.start()
                wait_for(lambda: champion(spy) == 1, "the first release", PATIENCE_S)
                feeder.go_on()
                killing.agent.kill()
                killing.kills["champion"] += 1
                release, started_s = 1, time.monotonic()
                while sum(killing.kills.values()) < kills:
                    release += 1
                    killing.publish(release)
                    spared = [phase for phase in LOADED if phase != LOADED[release % len(LOADED)]]
                    for phase in PHASES:
                        if phase not in spared:
                            killing.kill_in(phase, release)
                took_s = time.monotonic() - started_s
                killing.agent.start()
                wait_for(lambda: champion(spy) == release, "the last release", PATIENCE_S)
                feeder.pause()
                wait_for(lambda: len(set(answered(spy))) == feeder.sent, "all predictions", PATIENCE_S)
            finally:
                killing.agent.close()
    numbers = answered(spy)
    lost = set(range(1, feeder.sent + 1)) - set(numbers)
    return report(
        {
            "kills": sum(killing.kills.values()),
            **{f"kills_{phase}": killing.kills[phase] - killing.missed[phase] for phase in PHASES},
            "releases": release,
            "seconds": round(took_s, 1),
            "damaged": killing.damaged,
            "readings": feeder.sent,
            "lost": len(lost),
            "answered_twice": len(numbers) - len(set(numbers)),
        },
        {
            f"{kills} kills, each resumed": sum(killing.kills.values()) >= kills,
            "every phase was hit": all(killing.kills[phase] > killing.missed[phase] for phase in PHASES),
            "nothing on disk was damaged": not killing.damaged,
            "every reading was answered": not lost,
        },
    )


def kill_the_broker(folder: Path) -> int:
    """Kill it while a bundle is on its way: it loses retained topics, sessions and what it had queued.

    The gap is that of a consumer of predictions, whose own session the broker has lost too.
    """
    with brokers.mosquitto(folder / "broker") as broker:
        trainer, root = new_trainer(folder)
        trainer.publish(broker, large_bundle(1, 1000).pack(), chunk_size=CHUNK)
        bundle = large_bundle(2, 6_000_000).pack()
        sha256 = hashlib.sha256(bundle).hexdigest()
        bundles = folder / "agent" / "state" / "bundles"
        with (
            SlowLine(broker.port, 1_000_000) as line,
            Spy(broker.port, SAID) as spy,
            Feeder(broker.port, READING) as feeder,
        ):
            agent = AgentProcess(folder / "agent", line.port, root)
            agent.start()
            try:
                wait_for(lambda: champion(spy) == 1, "the first release", PATIENCE_S)
                # What is sent before the lane has subscribed is nobody's loss, and nobody knows of it.
                wait_for(lambda: status(spy).get("health") == "ready", "a lane that is connected", PATIENCE_S)
                feeder.go_on()
                trainer.publish(broker, bundle, chunk_size=CHUNK)
                wait_for(lambda: len(stored_chunks(bundles, sha256)) > 20, "part of the bundle", PATIENCE_S)
                broker.kill()
                kept = len(stored_chunks(bundles, sha256))
                time.sleep(2.0)
                broker.start()
                stored = trainer.push(broker).topics_stored
                wait_for(lambda: champion(spy) == 2, "the release after republishing", 120)
                feeder.pause()
                before = feeder.sent
                feeder.go_on()
                wait_for(lambda: max(answered(spy)) > before, "predictions of what came after", PATIENCE_S)
                feeder.pause()
                wait_for(lambda: max(answered(spy)) == feeder.sent, "the last prediction", PATIENCE_S)
                never_came, counted = settled_counts(lambda: status(spy).get("counts", {}), feeder.sent)
            finally:
                agent.close()
    missing = sorted(set(range(1, feeder.sent + 1)) - set(answered(spy)))
    return report(
        {
            "chunks": -(-len(bundle) // CHUNK),
            "chunks_kept_over_the_kill": kept,
            "topics_published_again": stored,
            "readings": feeder.sent,
            "gap_of_readings": len(missing),
            "gap_from": missing[0] if missing else None,
            "gap_to": missing[-1] if missing else None,
            "never_came_to_the_agent": never_came,
            "of_these_the_agent_tells_as_missing": counted,
        },
        {
            "the transfer went on and was completed": champion(spy) == 2 and kept > 0,
            "readings go on after the gap": feeder.sent not in missing,
            "the agent tells what never came": counted == never_came,
        },
    )


def main() -> int:
    """Run both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="of the agent (default: %(default)s)")
    parser.add_argument("--broker-kills", type=int, default=3, help="of the broker (default: %(default)s)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        codes = [kill_the_agent(folder / "agents", given.kills)] if given.kills else []
        codes += [kill_the_broker(folder / f"broker-{number}") for number in range(given.broker_kills)]
        return max(codes)


if __name__ == "__main__":
    sys.exit(main())
