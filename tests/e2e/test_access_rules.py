"""The access rules of docs/operate/trainer.md are enough for every role, and for no more."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support import brokers
from support.agents import AgentProcess, TrainerHome
from support.bundles import make_bundle
from support.spy import Spy

from atoll_contract.messages import SlotStatus, Status
from atoll_link.session import Broker, Published, Refused, Session, wait_connected

PAGE = Path(__file__).parents[2] / "docs" / "operate" / "trainer.md"


@pytest.fixture
def guarded(tmp_path):
    rules = re.search(r"^```\n(user trainer.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)[1]
    (tmp_path / "acl").write_text(rules + "\nuser spy\ntopic read #\n")
    with brokers.mosquitto(tmp_path / "broker", f"acl_file {tmp_path / 'acl'}") as broker:
        yield broker


class Client:
    """A client that has logged in under a name."""

    def __init__(self, port: int, name: str) -> None:
        self.session = Session(Broker(host="127.0.0.1", port=port, username=name), f"{name}-test")
        wait_connected(self.session, 10)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        number = self.session.publish(topic, payload, retain=retain)
        for _ in range(100):
            if any(isinstance(e, Published | Refused) and e.mid == number for e in self.session.step(0.1)):
                return
        raise AssertionError("no PUBACK")


def test_each_role_can_do_its_work_and_nobody_the_works_of_others(guarded, tmp_path, monkeypatch):
    monkeypatch.setenv("ATOLL_BROKER__USERNAME", "trainer")
    trainer = TrainerHome(tmp_path / "trainer", guarded.port)
    agent = AgentProcess(tmp_path / "agent", guarded.port, trainer.home / "root.json")
    device, intruder = Client(guarded.port, "press-1"), Client(guarded.port, "press-2")
    reading = b'{"time_ms":1,"values":{"x":3}}'
    with Spy(guarded.port, "#", username="spy") as spy:
        try:
            trainer.publish(make_bundle(release=1))
            agent.start(ATOLL_BROKER__USERNAME="pi")
            spy.wait(lambda: spy.on("/slot/") and is_champion(spy.on("/slot/")[-1].payload), "a champion", 60)
            trainer.publish(make_bundle(release=2), "--wait", "--withdraw-above", "0")
            device.publish("atoll/v1/site/press-1/reading/press", reading)
            spy.wait(lambda: spy.on("/pi/prediction/press-1/"), "a prediction")
            for topic in (
                "atoll/v1/site/press-1/reading/press",
                "atoll/v1/site/pi/prediction/press-1/wear",
                "atoll/v1/site/pi/slot/wear",
                "atoll/v1/releases/metadata/timestamp.json",
            ):
                intruder.publish(topic, b"forged", retain=True)
            device.publish("atoll/v1/site/press-1/label/press-1/wear", b'{"time_ms":1,"value":7}')
            device.publish("atoll/v1/site/press-1/reading/press", reading)
            spy.wait(lambda: len(spy.on("/pi/prediction/press-1/")) == 2, "a second prediction")
            spy.wait(lambda: counts(spy).get("labels") == 1, "the label", 30)
        finally:
            agent.close()
            device.session.close()
            intruder.session.close()

    assert not [item for item in spy.deliveries if item.payload == b"forged"]


def counts(spy: Spy) -> dict[str, int]:
    return Status.decode(spy.on("/pi/status")[-1].payload).counts


def is_champion(payload: bytes) -> bool:
    return SlotStatus.decode(payload).champion is not None
