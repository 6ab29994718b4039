"""A release on a small fleet of real agents: followed, moved from channel to channel, withdrawn."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.agents import AgentProcess, TrainerHome
from support.brokers import RunningBroker, mostly_mosquitto
from support.bundles import make_bundle, with_wrong_golden
from support.operator import atoll_trainer

from atoll_contract.bundle import Bundle
from atoll_link.exits import Exit

pytestmark = mostly_mosquitto

CANARY = '[[model]]\nname = "wear"\nstream = "press"\nchannel = "canary"\n'
STABLE = '[[model]]\nname = "wear"\nstream = "press"\n'


class SmallFleet:
    """A trainer's home and two agents, of which ``first`` follows the channel canary."""

    def __init__(self, folder: Path, broker: RunningBroker) -> None:
        self._folder = folder
        self.trainer = TrainerHome(folder / "trainer", broker.port)
        root = self.trainer.home / "root.json"
        self.agents = {
            # An agent that is held up must not be lost before its time is up.
            name: AgentProcess(folder / name, broker.port, root, models=models, agent=name, keepalive_s=60)
            for name, models in (("first", CANARY), ("second", STABLE))
        }
        for agent in self.agents.values():
            agent.start()

    def trainer_says(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        return atoll_trainer(*words, "--settings", self.trainer.settings)

    def publish(self, bundle: Bundle, *options: str) -> subprocess.CompletedProcess[str]:
        path = self._folder / f"wear-{bundle.manifest.release}.atoll"
        path.write_bytes(bundle.pack())
        return self.trainer_says("publish", path, *options)

    def status(self) -> dict:
        ended = self.trainer_says("status", "--json")
        assert ended.returncode == Exit.SUCCESS, ended.stderr
        return json.loads(ended.stdout)

    def slots(self) -> dict[str, dict]:
        return {row["agent"]: row for row in self.status()["agents"] if row["slot"] is not None}


@pytest.fixture
def fleet(any_broker: RunningBroker, tmp_path: Path) -> Iterator[SmallFleet]:
    small = SmallFleet(tmp_path, any_broker)
    try:
        yield small
    finally:
        for name, agent in small.agents.items():
            agent.close()
            print(f"--- {name}\n{agent.log.read_text()[-4000:]}")  # noqa: T201 - for a failure


def rollout(ended: subprocess.CompletedProcess[str]) -> tuple[str, dict[str, str]]:
    """Return the verdict, and where each agent stands."""
    told = json.loads(ended.stdout)["rollout"]
    return told["verdict"], {member["agent"]: member["standing"] for member in told["members"]}


def wait_for_slots(fleet: SmallFleet, fact: Callable[[dict[str, dict]], bool], what: str) -> None:
    """Ask for the fleet, which takes a second, until ``fact`` holds for the slots."""
    deadline = time.monotonic() + 90
    while not fact(fleet.slots()):
        assert time.monotonic() < deadline, f"{what}: {fleet.status()}"


def wait_for_agents(fleet: SmallFleet) -> None:
    wait_for_slots(fleet, lambda slots: len(slots) == len(fleet.agents), "an agent does not say anything")


@pytest.mark.timeout(300)
def test_a_canary_is_followed_promoted_and_shown(fleet: SmallFleet) -> None:
    wait_for_agents(fleet)

    canary = fleet.publish(make_bundle(release=1), "--channel", "canary", "--wait", "--json")
    assert canary.returncode == Exit.SUCCESS, canary.stderr
    assert rollout(canary) == ("settled", {"first": "runs"})
    assert "1 agent: 1 run it" in canary.stderr
    rows = fleet.slots()
    assert rows["first"]["slot"]["champion"]["release"] == rows["first"]["slot"]["offered"] == 1
    assert rows["second"]["slot"]["offered"] is None

    promoted = fleet.trainer_says("promote", "wear", "1", "--channel", "stable", "--wait", "--json")
    assert promoted.returncode == Exit.SUCCESS, promoted.stderr
    assert rollout(promoted) == ("settled", {"first": "runs", "second": "runs"})

    fleet.agents["second"].kill()
    wait_for_slots(fleet, lambda slots: slots["second"]["health"] == "offline", "no will")
    seen = fleet.status()
    assert seen["publication"] == "out"
    assert {row["agent"]: row["health"] for row in seen["agents"]} == {"first": "ready", "second": "offline"}
    [release] = seen["releases"]
    assert {member["agent"]: member["standing"] for member in release["cohort"]} == {
        "first": "runs",
        "second": "runs",
    }
    text = fleet.trainer_says("status").stdout
    assert "publication: out" in text
    assert "second  offline" in text


@pytest.mark.timeout(300)
def test_a_release_that_too_many_refuse_is_withdrawn(fleet: SmallFleet) -> None:
    wait_for_agents(fleet)
    assert fleet.publish(make_bundle(release=1), "--wait").returncode == Exit.SUCCESS
    bad = with_wrong_golden(make_bundle(release=2, file="triple_float"))

    ended = fleet.publish(bad, "--wait-for", "2m", "--withdraw-above", "0.2", "--json")

    assert ended.returncode == Exit.GATE_REFUSED, ended.stderr
    verdict, standings = rollout(ended)
    assert verdict == "too_many_refused"
    assert "refused" in standings.values()
    assert [(one["model"], one["release"]) for one in fleet.status()["releases"]] == [("wear", 1)]
    again = fleet.publish(bad)
    assert "was withdrawn (2 agents: " in again.stderr
    assert "golden_mismatch" in again.stderr
    for row in fleet.slots().values():
        assert row["slot"]["champion"]["release"] == row["slot"]["offered"] == 1


@pytest.mark.timeout(300)
def test_refusals_without_a_limit_are_told_and_nothing_is_withdrawn(fleet: SmallFleet) -> None:
    wait_for_agents(fleet)
    bad = with_wrong_golden(make_bundle(release=1))

    ended = fleet.publish(bad, "--wait")

    assert ended.returncode == Exit.FAILURE
    assert "settled: 2 agents: 2 refused it" in ended.stdout
    assert "site/first refused it: golden_mismatch: " in ended.stdout
    assert [one["release"] for one in fleet.status()["releases"]] == [1]


@pytest.mark.timeout(300)
def test_time_is_up_when_an_agent_cannot_answer(fleet: SmallFleet) -> None:
    wait_for_agents(fleet)
    fleet.agents["first"].process.send_signal(signal.SIGSTOP)  # connected, and silent
    try:
        ended = fleet.publish(make_bundle(release=1), "--wait-for", "3s", "--json")
    finally:
        fleet.agents["first"].process.send_signal(signal.SIGCONT)

    assert ended.returncode == Exit.FAILURE
    verdict, standings = rollout(ended)
    assert verdict == "time_up"
    assert standings["first"] in {"waiting", "silent"}
