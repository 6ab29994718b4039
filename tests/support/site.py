"""A broker, a trainer, an agent and a spy: what an end-to-end test needs."""

from __future__ import annotations

import json
import time

from support.agents import AgentProcess, TrainerHome
from support.brokers import RunningBroker
from support.spy import Spy

from atoll_contract.messages import Prediction, SlotStatus, Status, decode_prediction
from atoll_link.session import Broker, Published, Session, wait_connected

READING = "atoll/v1/site/press-1/reading/press"


class Site:
    """A broker, a trainer's home, an agent and a spy on all it says."""

    def __init__(self, broker: RunningBroker, trainer: TrainerHome, agent: AgentProcess, spy: Spy) -> None:
        self.broker, self.trainer, self.agent, self.spy = broker, trainer, agent, spy
        self._sender = Session(Broker(host="127.0.0.1", port=broker.port), "sender", max_inflight=100)
        self._looked_at = 0
        self._predictions: list[Prediction] = []

    def send(self, *payloads: bytes, topic: str = READING, qos: int = 1) -> None:
        """Publish and wait for the broker to have taken all of it."""
        wait_connected(self._sender, 20)
        waiting = {self._sender.publish(topic, payload, qos=qos) for payload in payloads}
        deadline = time.monotonic() + 30
        while waiting and qos:
            assert time.monotonic() < deadline, "the broker takes no readings"
            waiting -= {event.mid for event in self._sender.step(0.5) if isinstance(event, Published)}
        self._sender.step(0)

    def close(self) -> None:
        self._sender.close()

    def predictions(self) -> list[Prediction]:
        """Each is decoded once: facts ask for all of them again and again."""
        unseen = self.spy.deliveries[self._looked_at :]
        self._looked_at += len(unseen)
        self._predictions += [
            decode_prediction(item.payload) for item in unseen if "/prediction/" in item.topic
        ]
        return list(self._predictions)

    def slot(self, model: str = "wear") -> SlotStatus | None:
        found = self.spy.on(f"/slot/{model}")
        return SlotStatus.decode(found[-1].payload) if found else None

    def status(self) -> Status | None:
        found = self.spy.on("/pi/status")
        return Status.decode(found[-1].payload) if found else None

    def champion(self, release: int, model: str = "wear") -> SlotStatus:
        def is_champion() -> SlotStatus | None:
            slot = self.slot(model)
            return slot if slot and slot.champion and slot.champion.release == release else None

        return self.spy.wait(is_champion, f"release {release} as champion", 60)

    def refused(self, release: int) -> SlotStatus:
        def is_refused() -> SlotStatus | None:
            slot = self.slot()
            return slot if slot and slot.refused and slot.refused.release == release else None

        return self.spy.wait(is_refused, f"release {release} refused", 60)

    def refusals(self) -> dict[tuple[str, str], int]:
        status = self.status()
        return {} if status is None else {(r.where, r.reason.value): r.count for r in status.refusals}

    def wait_lane(self) -> None:
        self.spy.wait(lambda: self.status() and self.status().health.value == "ready", "a ready agent")


def reading(number: int, x: float = 3.0) -> bytes:
    return json.dumps({"time_ms": number, "values": {"x": x}, "seq": number, "boot": "b"}).encode()
