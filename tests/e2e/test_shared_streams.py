"""Agents that share a stream: `$share/GROUP/...` among its topics."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.agents import AgentProcess, TrainerHome
from support.bundles import make_bundle
from support.spy import Spy

from atoll_agent.adapters.store import StateStore
from atoll_agent.cli import main as agent_main
from atoll_agent.rollout.release import Release
from atoll_agent.rollout.slot import Slot
from atoll_contract.messages import SlotStatus, decode_prediction
from atoll_link.session import Broker, Session, wait_connected

SHARED = (
    '[[stream]]\nname = "press"\nvalues = { x = {} }\n'
    'topics = ["$share/hall/atoll/v1/site/{device}/reading/press"]\n'
)
READINGS = 200


class Hall:
    """Two agents of one group, a trainer and a spy on all that the agents say."""

    def __init__(self, folder: Path, port: int) -> None:
        self.trainer = TrainerHome(folder / "trainer", port)
        root = self.trainer.home / "root.json"
        self.agents = {
            name: AgentProcess(folder / name, port, root, streams=SHARED, agent=name)
            for name in ("pi-1", "pi-2")
        }
        self.spy = Spy(port, "atoll/v1/site/pi-1/#", "atoll/v1/site/pi-2/#").__enter__()
        self.sender = Session(Broker(host="127.0.0.1", port=port), "sender", max_inflight=100)

    def slots(self) -> dict[str, SlotStatus]:
        latest = {item.topic.split("/")[3]: item.payload for item in self.spy.on("/slot/wear")}
        return {agent: SlotStatus.decode(payload) for agent, payload in latest.items()}

    def wait_champions(self, release: int) -> None:
        def both() -> bool:
            champions = [slot.champion for slot in self.slots().values()]
            return [champion and champion.release for champion in champions] == [release, release]

        self.spy.wait(both, f"release {release} in both agents", 60)

    def seqs(self, agent: str) -> list[int]:
        found = self.spy.on(f"/{agent}/prediction/")
        return [decode_prediction(item.payload).seq for item in found]

    def close(self) -> None:
        for agent in self.agents.values():
            agent.close()
            print(agent.log.read_text()[-4000:] if agent.log.exists() else "")  # noqa: T201 - for a failure
        self.sender.close()
        self.spy.__exit__(None, None, None)


@pytest.fixture
def hall(mosquitto_broker, tmp_path) -> Iterator[Hall]:
    made = Hall(tmp_path, mosquitto_broker.port)
    yield made
    made.close()


def test_each_reading_is_answered_by_one_agent_of_the_group_and_a_bundle_with_windows_by_none(hall):
    hall.trainer.publish(make_bundle(release=1))
    for agent in hall.agents.values():
        agent.start()
    hall.wait_champions(1)
    for agent in hall.agents.values():
        hall.spy.wait(lambda log=agent: log.events("lane.connected"), "the lane's connection")

    wait_connected(hall.sender, 20)
    for number in range(READINGS):
        payload = json.dumps({"time_ms": number, "values": {"x": 3.0}, "seq": number, "boot": "b"})
        topic = f"atoll/v1/site/press-{number % 7}/reading/press"
        hall.spy.wait(
            lambda t=topic, p=payload: hall.sender.publish(t, p.encode(), qos=1) is not None, "room to send"
        )
        hall.sender.step(0.0)

    def answered() -> list[int]:
        hall.sender.step(0.0)
        return hall.seqs("pi-1") + hall.seqs("pi-2")

    hall.spy.wait(lambda: len(answered()) >= READINGS, "all predictions", 60)
    assert sorted(answered()) == list(range(READINGS))
    assert hall.seqs("pi-1")
    assert hall.seqs("pi-2")

    hall.trainer.publish(make_bundle(release=2, file="mean12_float", length=12))

    def refusals() -> list[str]:
        return [slot.refused.reason.value for slot in hall.slots().values() if slot.refused]

    hall.spy.wait(lambda: refusals() == ["shared_stream", "shared_stream"], "both refusals", 60)


@pytest.mark.parametrize(
    ("topics", "status"), [("$share/hall/plant/{device}", 78), ("plant/{device}", 0)], ids=["shared", "own"]
)
def test_check_refuses_to_share_a_stream_whose_champion_has_windows(tmp_path, capsys, topics, status):
    settings = tmp_path / "agent.toml"
    settings.write_text(
        '[agent]\nid = "pi"\nsite = "site"\nstate_dir = "state"\n'
        f'[[stream]]\nname = "press"\nvalues = {{ x = {{}} }}\ntopics = ["{topics}"]\n'
        '[[model]]\nname = "wear"\nstream = "press"\n'
    )
    store = StateStore(tmp_path / "state")
    store.enrol(b"{}")
    store.lock()
    content = make_bundle(release=3, file="mean12_float", length=12).pack()
    champion = Release("wear", 3, "5" * 64, len(content))
    store.bundle_path(champion.sha256).write_bytes(content)
    store.save_slot(Slot("wear", champion=champion), "")

    assert agent_main(["check", "--settings", str(settings)]) == status

    told = capsys.readouterr()
    if status:
        assert "model 'wear': its champion, release 3, does not fit stream 'press'" in told.err
        assert "[shared_stream]" in told.err
    else:
        assert "press: x from plant/+" in told.out


def test_check_says_nothing_of_a_champion_that_is_not_there(tmp_path, capsys):
    settings = tmp_path / "agent.toml"
    settings.write_text(
        '[agent]\nid = "pi"\nsite = "site"\nstate_dir = "state"\n' + SHARED + "[[model]]\n"
        'name = "wear"\nstream = "press"\n'
    )

    assert agent_main(["check", "--settings", str(settings)]) == 0

    assert "press: x from $share/hall/atoll/v1/site/+/reading/press" in capsys.readouterr().out
