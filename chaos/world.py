"""What the measured runs share: a site with a large release, what a run found, and an agent's memory."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from support.brokers import select_pause
from support.bundles import make_bundle
from support.releases import Trainer
from support.spy import Spy

from atoll_contract.bundle import Bundle
from atoll_contract.topics import ReadingTopic

SITE = "site"
READING = str(ReadingTopic(site=SITE, device="press-1", stream="press"))
SAID = f"atoll/v1/{SITE}/pi/#"
CHUNK = 61_440


def large_bundle(release: int, size: int, **manifest: Any) -> Bundle:
    """A bundle that runs, and is ``size`` bytes larger than it needs to be."""
    small = make_bundle(release=release, file=("linear_float", "triple_float")[release % 2], **manifest)
    return Bundle(small.manifest, small.model + random.Random(release).randbytes(size), small.golden)


def new_trainer(folder: Path) -> tuple[Trainer, Path]:
    """A trainer with nothing released, and the root that devices are enrolled with."""
    trainer = Trainer.create(folder / "trainer")
    root = folder / "root.json"
    root.write_bytes(trainer.root)
    return trainer, root


def champion(spy: Spy) -> int | None:
    """The release that answers, as the agent says it."""
    found = spy.on("/slot/wear")
    said = json.loads(found[-1].payload) if found else {}
    release: int | None = said.get("champion", {}).get("release")
    return release


def status(spy: Spy) -> dict[str, Any]:
    """What the agent last said of itself."""
    found = spy.on("/status")
    return json.loads(found[-1].payload) if found else {}


def settled_counts(counts: Callable[[], Mapping[str, int]], sent: int) -> tuple[int, int]:
    """Return how many of ``sent`` readings never came to the agent, and how many it tells as missing.

    The last readings come into the counters within a second, and these into the status.
    """
    deadline = time.monotonic() + 10
    while True:
        said = counts()
        never_came = sent - said.get("readings", 0) + said.get("repeated", 0)
        counted = said.get("readings_missing", 0)
        if never_came == counted or time.monotonic() > deadline:
            return never_came, counted
        select_pause(0.1)


def answered(spy: Spy) -> list[int]:
    """The numbers of the readings that were answered, in order of arrival."""
    return [json.loads(item.payload)["seq"] for item in spy.on("/prediction/")]


def answer_delays_ms(spy: Spy) -> list[float]:
    """How long after its time each reading was answered, as a consumer sees it."""
    found = [(item, json.loads(item.payload)) for item in spy.on("/prediction/")]
    return [item.arrival_ms - said["time_ms"] for item, said in found]


def stored_chunks(bundles: Path, sha256: str) -> set[int]:
    """The chunks of a bundle that the agent has noted."""
    try:
        text = (bundles / f"{sha256}.part.chunks").read_text()
    except FileNotFoundError:
        return set()
    return {int(line) for line in text.split("\n")[:-1] if line.isdecimal()}


class Memory:
    """Most memory of a process and all below it, looked at ten times a second while a ``with`` lasts."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.agent_kb = self.children_kb = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stopping.set()
        self._thread.join(5)

    def _run(self) -> None:
        while not self._stopping.wait(0.1):
            self.agent_kb = max(self.agent_kb, _resident_kb(self._pid))
            children = Path(f"/proc/{self._pid}/task/{self._pid}/children")
            pids = children.read_text().split() if children.exists() else []
            self.children_kb = max(self.children_kb, sum(_resident_kb(int(pid)) for pid in pids))


def _resident_kb(pid: int) -> int:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("VmRSS:")), 0)


def wait_for(fact: Callable[[], object], what: str, timeout_s: float) -> None:
    """Return once ``fact()`` holds."""
    waited_s = 0.0
    while not fact():
        if waited_s > timeout_s:
            raise TimeoutError(f"not within {timeout_s:g} s: {what}")
        select_pause(0.01)
        waited_s += 0.01


def report(found: Mapping[str, object], demanded: Mapping[str, bool]) -> int:
    """Print what a run found, and whether it is what was demanded; return the exit code."""
    for key, value in found.items():
        print(f"{key:36} {value}")
    for what, is_so in demanded.items():
        print(f"{'ok' if is_so else 'FAILED':8} {what}")
    return 0 if all(demanded.values()) else 1
