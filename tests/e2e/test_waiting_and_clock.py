"""A real agent that has to wait for its turn, and one whose clock is not set."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from support.agents import AgentProcess
from support.brokers import RunningBroker
from support.bundles import make_bundle
from support.feeder import Feeder
from support.releases import Trainer
from support.spy import Spy

from atoll_contract.messages import SlotStatus, Status
from atoll_contract.topics import PredictionTopic, ReadingTopic, SlotTopic, StatusTopic

SITE = "site"


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    made = Trainer.create(tmp_path / "trainer")
    (tmp_path / "root.json").write_bytes(made.root)
    return made


def newest_slot(spy: Spy) -> SlotStatus | None:
    found = spy.on("/slot/wear")
    return SlotStatus.decode(found[-1].payload) if found else None


def test_a_signed_delay_is_waited_for_over_restarts_until_it_is_signed_away(
    mosquitto_broker: RunningBroker, tmp_path: Path, trainer: Trainer
) -> None:
    bundle = make_bundle().pack()
    trainer.publish(mosquitto_broker, bundle, max_delay_s=604_800)
    agent = AgentProcess(tmp_path / "agent", mosquitto_broker.port, tmp_path / "root.json")

    def waits(after: int) -> Callable[[], float | None]:
        def start() -> float | None:
            said = [SlotStatus.decode(item.payload).challenger for item in spy.on("/slot/wear")[after:]]
            return said[-1].start_ms if said and said[-1] else None

        return start

    with Spy(mosquitto_broker.port, SlotTopic.any_of(site=SITE)) as spy:
        try:
            agent.start()
            first = spy.wait(waits(0), "a release that waits")
            agent.kill()
            seen = len(spy.deliveries)
            agent.start()
            second = spy.wait(waits(seen), "the same after a restart")
            trainer.publish(mosquitto_broker, bundle, max_delay_s=0)
            spy.wait(lambda: (slot := newest_slot(spy)) and slot.champion, "the release as champion")
        finally:
            agent.close()

    assert second == first


def test_an_agent_whose_clock_is_not_set_takes_releases_answers_and_says_so(
    mosquitto_broker: RunningBroker, tmp_path: Path, trainer: Trainer
) -> None:
    trainer.publish(mosquitto_broker, make_bundle().pack())
    agent = AgentProcess(tmp_path / "agent", mosquitto_broker.port, tmp_path / "root.json", clock="untrusted")
    reading = str(ReadingTopic(site=SITE, device="press-1", stream="press"))
    topics = [SlotTopic.any_of(site=SITE), StatusTopic.any_of(site=SITE), PredictionTopic.any_of(site=SITE)]
    with Spy(mosquitto_broker.port, *topics) as spy, Feeder(mosquitto_broker.port, reading) as feeder:
        try:
            agent.start()
            spy.wait(lambda: (slot := newest_slot(spy)) and slot.champion, "a champion")
            feeder.go_on()
            spy.wait(lambda: len(spy.on("/prediction/")) >= 3, "predictions")
        finally:
            agent.close()

    said = [Status.decode(item.payload) for item in spy.on("/status")]
    assert any(status.time_unsynced for status in said)
