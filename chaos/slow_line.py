"""A bundle of 20 MB over a line of 8 Mbit/s that is cut every 3 seconds: `make chaos-line`.

No chunk that is stored may be asked for again, and every reading is answered meanwhile, over the
same line.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import time
from pathlib import Path

from line import SlowLine
from support import brokers
from support.agents import AgentProcess
from support.feeder import Feeder
from support.releases import Trainer
from support.spy import Spy
from world import (
    CHUNK,
    READING,
    SAID,
    Memory,
    answer_delays_ms,
    answered,
    champion,
    large_bundle,
    new_trainer,
    report,
    stored_chunks,
    wait_for,
)

from atoll_contract.errors import MalformedMessageError
from atoll_contract.topics import ChunkTopic


class Watch:
    """Notes what is asked for though it is stored."""

    def __init__(self, bundles: Path, sha256: str) -> None:
        self._bundles = bundles
        self._sha256 = sha256
        self.asked: list[int] = []
        self.again: list[int] = []

    def heed(self, topic: str) -> None:
        try:
            chunk = ChunkTopic.parse(topic)
        except MalformedMessageError:
            return
        if chunk.sha256 == self._sha256:
            self.asked.append(chunk.number)
            if chunk.number in stored_chunks(self._bundles, self._sha256):
                self.again.append(chunk.number)


def main() -> int:
    """Run it once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--megabytes", type=int, default=20, help="size of the bundle")
    parser.add_argument("--mbit-per-s", type=float, default=8.0, help="the line")
    parser.add_argument("--cut-every-s", type=float, default=3.0, help="0: never")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with brokers.mosquitto(folder / "broker") as broker:
            trainer, root = new_trainer(folder)
            return run(given, folder, broker, trainer, root)


def run(
    given: argparse.Namespace, folder: Path, broker: brokers.RunningBroker, trainer: Trainer, root: Path
) -> int:
    """Publish, cut until the release answers, and say what happened."""
    bundle = large_bundle(2, given.megabytes * 1_000_000).pack()
    sha256 = hashlib.sha256(bundle).hexdigest()
    watch = Watch(folder / "agent" / "state" / "bundles", sha256)
    trainer.publish(broker, large_bundle(1, 1000).pack(), chunk_size=CHUNK)
    with (
        SlowLine(broker.port, given.mbit_per_s * 125_000, watch.heed) as line,
        Spy(broker.port, SAID) as spy,
        Feeder(broker.port, READING, interval_s=0.1) as feeder,
    ):
        agent = AgentProcess(folder / "agent", line.port, root)
        agent.start()
        assert agent.process is not None
        try:
            wait_for(lambda: champion(spy) == 1, "the first release", 60)
            feeder.go_on()
            trainer.publish(broker, bundle, chunk_size=CHUNK)
            started_s, next_cut_s = time.monotonic(), time.monotonic() + given.cut_every_s
            with Memory(agent.process.pid) as memory:
                while champion(spy) != 2:
                    if given.cut_every_s and time.monotonic() > next_cut_s:
                        line.cut()
                        next_cut_s += given.cut_every_s
                    if time.monotonic() - started_s > 600:
                        raise TimeoutError("not fetched within 10 minutes")
                    time.sleep(0.05)
            took_s = time.monotonic() - started_s
            feeder.pause()
            wait_for(lambda: len(set(answered(spy))) == feeder.sent, "all predictions", 60)
        finally:
            agent.close()
    numbers = answered(spy)
    delays_ms = sorted(answer_delays_ms(spy))
    chunks = -(-len(bundle) // CHUNK)
    return report(
        {
            "bundle_bytes": len(bundle),
            "chunks": chunks,
            "line_mbit_per_s": given.mbit_per_s,
            "cuts": line.cuts,
            "seconds": round(took_s, 1),
            "line_used_percent": round(100 * len(bundle) / (took_s * given.mbit_per_s * 125_000)),
            "chunks_asked_for": len(watch.asked),
            "asked_for_though_stored": len(watch.again),
            "readings": feeder.sent,
            "answered": len(set(numbers)),
            "answered_twice": len(numbers) - len(set(numbers)),
            "answer_after_ms_median": round(delays_ms[len(delays_ms) // 2]),
            "answer_after_ms_99_percent": round(delays_ms[len(delays_ms) * 99 // 100]),
            "agent_most_mb": round(memory.agent_kb / 1024, 1),
            "children_most_mb": round(memory.children_kb / 1024, 1),
        },
        {
            "at least 5 cuts": line.cuts >= 5 or not given.cut_every_s,
            "no chunk that was stored was asked for again": not watch.again,
            "every reading was answered": set(numbers) == set(range(1, feeder.sent + 1)),
        },
    )


if __name__ == "__main__":
    sys.exit(main())
