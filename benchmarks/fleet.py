"""A fleet of simulated agents on one Mosquitto follows a canary, its promotion and a withdrawal.

Each agent is the real release machine with its slots on disk, its control connection, its refreshes and its
fetches, in this process; only inference and the lane are left out. Told is how long it takes after the
trainer's command until the retained slot topics show the new release on all agents that it is for, and what
the broker sent and received for it per agent. `make bench-fleet`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import structlog
from support import brokers
from support.agents import SITE, command
from support.bundles import make_bundle
from support.releases import refresh as refresh_once
from support.spy import Spy

from atoll_agent.adapters.control import ControlLink
from atoll_agent.adapters.delivery import fetch_bundle
from atoll_agent.adapters.repository import ReleaseRepository
from atoll_agent.adapters.store import StateStore
from atoll_agent.children.failure import failure_line
from atoll_agent.ports import Line
from atoll_agent.rollout.release import Release, choose
from atoll_agent.supervisor import reports
from atoll_agent.supervisor.means import Means, ModelPlan
from atoll_agent.supervisor.releases import Releases
from atoll_agent.supervisor.slots import Slots
from atoll_agent.supervisor.supervisor import TRIGGERS
from atoll_contract.bundle import Bundle
from atoll_contract.errors import AtollError
from atoll_contract.messages import Health, SlotStatus, Status
from atoll_contract.topics import MetadataTopic, SlotTopic, StatusTopic
from atoll_link.retained import RetainedTopics, open_topics
from atoll_link.session import Broker, Connected, Delivery, Will

MODEL = "wear"
DEBOUNCE_S = 0.5
SYS = "$SYS/broker/bytes/"


class Lane:
    """Swaps at once: nobody reads."""

    def swap(self, _predictor: object, **_how: bool) -> Future[None]:
        done: Future[None] = Future()
        done.set_result(None)
        return done


class Clock:
    """A clock that is set."""

    is_time_unsynced = False

    def look(self) -> bool:
        return False


class Loads:
    """Loads what a bundle says of itself, and no model."""

    key = "none"
    runtimes = SimpleNamespace(preferred="none")

    def __init__(self, store: StateStore) -> None:
        self._store = store

    def load(self, release: Release, _wish: object, *, may_wait: bool) -> Any:  # noqa: ARG002 - as called
        manifest = Bundle.unpack(self._store.read_bundle(release.sha256)).manifest
        model = SimpleNamespace(degradation=None)
        return SimpleNamespace(manifest=manifest, backend="none", why="", model=model)

    def keep(self, sha256: str, contest: object) -> None:
        """Nothing was timed."""

    def is_unsettled(self, _sha256: str) -> bool:
        return False


class SimulatedAgent:
    """One agent; its children are functions in a pool of threads."""

    def __init__(
        self, name: str, folder: Path, broker: Broker, root: bytes, pool: ThreadPoolExecutor
    ) -> None:
        self._name, self._broker, self._root, self._pool = name, broker, root, pool
        self._store = StateStore(folder)
        for part in ("slots", "bundles", "metadata"):
            (folder / part).mkdir(parents=True)
        status = str(StatusTopic(SITE, name))
        offline = Will(status, Status(health=Health.OFFLINE, session=1).encode())
        self._link = ControlLink(broker, f"{name}-control", will=lambda: offline, topic_filters=TRIGGERS)
        means = Means(
            store=self._store,
            loader=Loads(self._store),  # type: ignore[arg-type]  # all that the climb uses
            lane=Lane(),  # type: ignore[arg-type]  # as above
            fetch=self._child(self._fetch),
            examine=self._examine,
            max_bundle_bytes=10**8,
        )
        self._releases = Releases(
            {MODEL: ModelPlan(MODEL, "press", "stable", {"x": None}, is_shared=False)},
            Slots(self._store, "same"),
            means,
            refresh=self._child(self._refresh),
            clock=Clock(),
        )
        self._releases.slots.on_change = self._tell
        self._trigger = asyncio.Event()

    async def run(self) -> None:
        """Follow the releases until cancelled."""
        self._releases.start()
        async with self._link, asyncio.TaskGroup() as group:
            group.create_task(self._releases.run())
            group.create_task(self._heed())
            while True:
                await self._trigger.wait()
                await asyncio.sleep(DEBOUNCE_S)
                self._trigger.clear()
                retry_s = await self._releases.refresh()
                if retry_s is not None:
                    asyncio.get_running_loop().call_later(retry_s, self._trigger.set)

    async def _heed(self) -> None:
        while True:
            match await self._link.next_event():
                case Connected():
                    status = Status(health=Health.READY, session=1, time_ms=time.time() * 1e3)
                    self._link.publish(str(StatusTopic(SITE, self._name)), status.encode(), retain=True)
                case Delivery(topic=topic) if topic in TRIGGERS:
                    self._trigger.set()

    def _tell(self, model: str) -> None:
        message = reports.slot_status(
            self._releases.slots[model],
            self._releases.slots.predictors.get(model),
            self._releases.trouble,
            time.time() * 1e3,
            channel=self._releases.channel_of(model),
        )
        self._link.publish(str(SlotTopic(SITE, self._name, model)), message.encode(), retain=True)

    # What are children in a real agent

    def _child(self, work: Callable[[dict[str, Any]], Line]) -> Any:
        @asynccontextmanager
        async def child(request: dict[str, Any]) -> AsyncIterator[AsyncIterator[Line]]:
            async def lines() -> AsyncIterator[Line]:
                yield await asyncio.get_running_loop().run_in_executor(self._pool, self._line, work, request)

            yield lines()

        return child

    def _line(self, work: Callable[[dict[str, Any]], Line], request: dict[str, Any]) -> Line:
        try:
            return work(request)
        except AtollError as error:
            facts = failure_line(error)
            return Line(facts.pop("event"), facts)

    @contextmanager
    def _topics(self, role: str) -> Iterator[RetainedTopics]:
        witness = str(MetadataTopic("timestamp.json"))
        with open_topics(self._broker, f"{self._name}-{role}", witness, timeout_s=30) as topics:
            yield topics

    def _refresh(self, request: dict[str, Any]) -> Line:
        asked = request["models"][MODEL]
        with self._topics("refresh") as topics:
            folder = self._store.folder / "metadata"
            releases = ReleaseRepository(topics, folder, self._root, metadata_s=30.0).refresh()
        bad = frozenset(asked["bad"])
        wanted = choose(releases, model=MODEL, agent=self._name, channel=asked["channel"], bad=bad)
        return Line("refreshed", {"wanted": {MODEL: wanted and asdict(wanted)}})

    def _fetch(self, request: dict[str, Any]) -> Line:
        with self._topics("fetch") as topics:
            release, path = Release(**request["release"]), Path(request["path"])
            fetch_bundle(topics, release, path, max_bytes=request["max_bytes"])
        return Line("fetched", {})

    @asynccontextmanager
    async def _examine(self, _request: Mapping[str, Any]) -> AsyncIterator[AsyncIterator[Line]]:
        async def lines() -> AsyncIterator[Line]:
            yield Line("verified", {})
            yield Line("passed", {"contest": {}})

        yield lines()


class Watch:
    """What the retained topics show, and what the broker has counted."""

    def __init__(self, spy: Spy) -> None:
        self._spy = spy
        self._read = 0
        self._running: dict[str, int] = {}
        self._bytes = {"sent": 0, "received": 0}

    def running(self) -> dict[str, int]:
        """Return the release that answers, by agent."""
        new = self._spy.deliveries[self._read :]
        self._read += len(new)
        for item in new:
            if item.topic.startswith(SYS):
                self._bytes[item.topic.removeprefix(SYS)] = int(item.payload)
            elif (champion := SlotStatus.decode(item.payload).champion) is not None:
                self._running[SlotTopic.parse(item.topic).agent] = champion.release
        return self._running

    def traffic(self) -> dict[str, int]:
        """Return the bytes so far, once the broker has counted them: it does so every second."""
        time.sleep(2.5)
        self.running()
        return dict(self._bytes)


class Trainer:
    """The trainer's own commands."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self._settings = folder / "trainer.toml"
        self._settings.write_text(
            f'[trainer]\nsite = "{SITE}"\nhome = "home"\n[broker]\nhost = "127.0.0.1"\nport = {port}\n'
        )
        self._run("init", "--home", str(folder / "home"))
        self.root = (folder / "home" / "root.json").read_bytes()

    def publish(self, release: int, *options: str) -> None:
        path = self._folder / f"{release}.atoll"
        path.write_bytes(make_bundle(MODEL, release=release).pack())
        self._run("publish", str(path), "--settings", str(self._settings), *options)

    def promote(self, release: int, *options: str) -> None:
        self._run("promote", MODEL, str(release), "--settings", str(self._settings), *options)

    def withdraw(self, release: int) -> None:
        why = ["--why", "a measured run"]
        self._run("withdraw", MODEL, str(release), "--settings", str(self._settings), *why)

    def _run(self, *words: str) -> None:
        ended = subprocess.run(
            command("atoll-trainer", *words), capture_output=True, text=True, timeout=300, check=False
        )
        if ended.returncode != 0:
            raise RuntimeError(f"atoll-trainer {' '.join(words)}: {ended.stdout}{ended.stderr}")


def measure(
    watch: Watch, agents: int, work: Callable[[], None], expected: Callable[[], dict[str, int]]
) -> dict[str, float]:
    """Do ``work`` and wait until the retained view is as ``expected``."""
    before = watch.traffic()
    started_s = time.monotonic()
    work()
    commanded_s = time.monotonic()
    wanted = expected()
    while watch.running() != wanted:
        if time.monotonic() - commanded_s > 300:
            found = watch.running()
            late = [name for name in wanted if found.get(name) != wanted[name]]
            raise TimeoutError(f"{len(late)} agents do not show it within 5 minutes, {late[:5]}")
        time.sleep(0.02)
    shown_s = time.monotonic()
    after = watch.traffic()
    return {
        "command_s": round(commanded_s - started_s, 2),
        "until_shown_s": round(shown_s - commanded_s, 2),
        "sent_bytes_per_agent": round((after["sent"] - before["sent"]) / agents),
        "received_bytes_per_agent": round((after["received"] - before["received"]) / agents),
    }


def story(trainer: Trainer, watch: Watch, folder: Path, port: int, names: list[str]) -> dict[str, Any]:
    """Publish, canary, promote, withdraw; return what each took."""
    broker = SimpleNamespace(port=port)

    def included() -> dict[str, int]:
        offered = refresh_once(broker, folder / "observer", trainer.root)  # type: ignore[arg-type]
        second = next(release for release in offered if release.release == 2)
        return {name: 2 if second.includes(name) else 1 for name in names}

    def all_run(release: int) -> Callable[[], dict[str, int]]:
        return lambda: dict.fromkeys(names, release)

    count = len(names)
    return {
        "first": measure(watch, count, lambda: trainer.publish(1), all_run(1)),
        "canary": measure(watch, count, lambda: trainer.publish(2, "--percent", "10"), included),
        "promote": measure(watch, count, lambda: trainer.promote(2, "--percent", "100"), all_run(2)),
        "withdraw": measure(watch, count, lambda: trainer.withdraw(2), all_run(1)),
    }


async def live(folder: Path, port: int, names: list[str], trainer: Trainer, watch: Watch) -> dict[str, Any]:
    """Run all agents, and the story beside them."""
    broker = Broker(host="127.0.0.1", port=port)
    with ThreadPoolExecutor(32) as pool, ThreadPoolExecutor(1) as teller:
        async with asyncio.TaskGroup() as group:
            running = [
                group.create_task(SimulatedAgent(name, folder / name, broker, trainer.root, pool).run())
                for name in names
            ]
            found: dict[str, Any] = await asyncio.get_running_loop().run_in_executor(
                teller, story, trainer, watch, folder, port, names
            )
            for task in running:
                task.cancel()
    return found


def main() -> int:
    """Run it once."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agents", type=int, default=500, help="how many (default: %(default)s)")
    given = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    names = [f"agent-{number:04d}" for number in range(given.agents)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with brokers.mosquitto(folder / "broker", "sys_interval 1") as broker:
            trainer = Trainer(folder, broker.port)
            filters = [SlotTopic.any_of(site=SITE, model=MODEL), f"{SYS}sent", f"{SYS}received"]
            with Spy(broker.port, *filters) as spy:
                found = asyncio.run(live(folder, broker.port, names, trainer, Watch(spy)))
    print(json.dumps({"agents": given.agents, **found}, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
