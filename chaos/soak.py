"""Twenty minutes of 500 readings a second, two releases meanwhile: `make chaos-soak`.

The rate must be kept, memory and descriptors of the agent must stay as they are, and every reading must be
answered, once.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from scene import PATIENCE_S, Scene, scene
from support.feeder import Feeder
from world import SITE, champion, report, wait_for

from atoll_contract.messages import decode_prediction
from atoll_link.session import Broker, Delivery, Session

BOOT = "soak"
TOPIC = f"atoll/v1/{SITE}/press-9/reading/press"
KEPT = 0.95
"""Of the rate; what falls short of it says nothing of the rate that is asked for."""
WARM_UP = 0.25
"""So much of the time counts for nothing: caches fill."""


@dataclass(frozen=True)
class Sample:
    """What the agent has now."""

    resident_kb: int
    descriptors: int
    threads: int


class Answers:
    """Which readings were answered: ``total`` answers to ``numbers`` of them."""

    def __init__(self) -> None:
        self._seen = bytearray()
        self.total = self.numbers = 0

    def note(self, number: int) -> None:
        """Note an answer to the reading of this number."""
        self._seen.extend(bytes(max(0, number + 1 - len(self._seen))))
        self.numbers += not self._seen[number]
        self._seen[number] = 1
        self.total += 1


class Consumer:
    """Hears the predictions of one device."""

    def __init__(self, port: int) -> None:
        self._session = Session(Broker(host="127.0.0.1", port=port), "soak-consumer")
        self._session.subscribe(f"atoll/v1/{SITE}/pi/prediction/press-9/#")
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.answers = Answers()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stopping.set()
        self._thread.join(10)

    def _run(self) -> None:
        while not self._stopping.is_set():
            for event in self._session.step(0.2):
                if isinstance(event, Delivery):
                    self.answers.note(decode_prediction(event.payload).seq or 0)
        self._session.close()


def look(place: Scene) -> Sample:
    """Look at the agent's process."""
    folder = Path(f"/proc/{place.pid}")
    said = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines() if ":" in line)
    return Sample(int(said["VmRSS"].split()[0]), len(list((folder / "fd").iterdir())), int(said["Threads"]))


def run(folder: Path, minutes: float, rate: float) -> int:
    """Feed, look, and say what changed."""
    samples: list[Sample] = []
    with scene(folder, with_namespaces=False, broker=("max_inflight_messages 1000",)) as place:
        place.feeder.pause()
        with (
            Consumer(place.broker.port) as consumer,
            Feeder(place.broker.port, TOPIC, interval_s=1 / rate, client_id="soak") as feeder,
        ):
            feeder.go_on()
            started_s, seconds = time.monotonic(), minutes * 60
            while (passed_s := time.monotonic() - started_s) < seconds:
                if passed_s > seconds * place.release / 3:
                    place.release += 1
                    place.publishing(place.release).wait(120)
                samples.append(look(place))
                time.sleep(1.0)
            took_s = time.monotonic() - started_s
            feeder.pause()
            wait_for(lambda: consumer.answers.numbers >= feeder.sent, "all answers", PATIENCE_S)
            wait_for(lambda: champion(place.spy) == place.release, "the last release", PATIENCE_S)
            sent, deaths = feeder.sent, place.deaths.total()
            answers, answered = consumer.answers.total, consumer.answers.numbers
    settled = samples[int(len(samples) * WARM_UP) :]
    half = len(settled) // 2
    before, after = (
        statistics.median(sample.resident_kb for sample in part) for part in (settled[:half], settled[half:])
    )
    found = {
        "minutes": round(took_s / 60, 1),
        "readings": sent,
        "readings_per_s": round(sent / took_s),
        "lost": sent - answered,
        "answered_twice": answers - answered,
        "releases": place.release,
        "memory_mb_after_a_quarter": round(settled[0].resident_kb / 1024, 1),
        "memory_mb_median_then_and_later": f"{before / 1024:.1f}, {after / 1024:.1f}",
        "memory_mb_most": round(max(sample.resident_kb for sample in samples) / 1024, 1),
        "descriptors_least_and_most": _span(sample.descriptors for sample in settled),
        "threads_least_and_most": _span(sample.threads for sample in settled),
    }
    return report(
        found,
        {
            **demands(sent / took_s, rate, sent, answered, answers),
            "the agent did not end": not deaths,
            "memory is flat: within 2 MB": after - before < 2048,
            "descriptors are flat": settled[-1].descriptors <= settled[0].descriptors + 2,
        },
    )


def demands(rate: float, asked: float, sent: int, answered: int, answers: int) -> dict[str, bool]:
    """Return what must hold of readings and answers."""
    return {
        f"the rate was kept: {asked:g} readings a second": rate >= KEPT * asked,
        "every reading was answered": answered == sent,
        "none was answered twice": answers == answered,
    }


def _span(numbers: Iterable[int]) -> str:
    found = list(numbers)
    return f"{min(found)}, {max(found)}"


def main() -> int:
    """Run it once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=20, help="(default: %(default)s)")
    parser.add_argument("--rate", type=float, default=500, help="readings a second (default: %(default)s)")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="atoll-soak-") as name:
        return run(Path(name), given.minutes, given.rate)


if __name__ == "__main__":
    sys.exit(main())
