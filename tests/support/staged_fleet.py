"""A fleet as a dashboard sees it, staged on a real broker: agents, releases, devices that are answered."""

from __future__ import annotations

import json
import math
import random
import threading
import time
from dataclasses import dataclass, field
from typing import Self

from atoll_contract.decisions import Decision, State
from atoll_contract.errors import Reason
from atoll_contract.messages import (
    Challenge,
    Champion,
    Health,
    Label,
    Prediction,
    Reading,
    Refusal,
    Refusals,
    SlotStatus,
    Status,
    encode_prediction,
    encode_reading,
)
from atoll_contract.release import ReleaseTerms
from atoll_contract.topics import (
    DecisionTopic,
    LabelTopic,
    MetadataTopic,
    PredictionTopic,
    ReadingTopic,
    SlotTopic,
    StatusTopic,
)
from atoll_link.session import Broker, Published, Session, wait_connected

SITE = "plant-a"
MODEL = "press-wear"


def sha256(release: int) -> str:
    """Return the digest of a bundle that nobody made."""
    return f"{release:064x}"


@dataclass
class StagedFleet:
    """Publishes as trainer and agents would; from :meth:`play` on, readings and predictions in a thread.

    Attributes:
        port: Of the broker.
        devices: How many there are.
        rate_hz: Readings of each device; each has its prediction and, if ``has_labels``, its label.
        agents: How many answer them.
        release: The release that answers.
        sent: Predictions that were published.
        silent: Numbers of agents that answer nothing.
    """

    port: int
    devices: int = 3
    rate_hz: float = 10.0
    agents: int = 1
    has_labels: bool = True
    release: int = 1
    sent: int = 0
    bias: float = 0.0
    silent: frozenset[int] = frozenset()
    _started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self._session = Session(Broker(host="127.0.0.1", port=self.port), "staged-fleet", max_inflight=200)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._play, name="staged-fleet", daemon=True)
        self._lock = threading.Lock()
        self._random = random.Random(7)

    def __enter__(self) -> Self:
        wait_connected(self._session, 20)
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(20)
        self._session.close()

    @staticmethod
    def agent(number: int) -> str:
        return f"hall-{number + 1}-pi"

    @staticmethod
    def device(number: int) -> str:
        return f"press-{number + 1:03}"

    def publish(self, topic: object, payload: bytes, *, retain: bool = False) -> None:
        with self._lock:
            assert self._session.publish(str(topic), payload, retain=retain) is not None

    def settle(self, timeout_s: float = 20.0) -> None:
        """Return when the broker has taken all; only before :meth:`play`."""
        number = self._session.publish("staged/end", b"")
        deadline = time.monotonic() + timeout_s
        while Published(number) not in self._session.step(0.1):
            assert time.monotonic() < deadline, "the broker takes nothing"

    def status(self, agent: str, health: Health = Health.READY, **more: object) -> None:
        now_ms = time.time() * 1e3
        status = Status(
            health=health, session=1, time_ms=now_ms, started_ms=now_ms - 3.6e6, token="0a1b2c3d",
            version="0.1.0", counts={"readings": 48210, "predictions": 48210}, **more,
        )  # fmt: skip
        self.publish(StatusTopic(SITE, agent), status.encode(), retain=True)

    def slot(self, agent: str, release: int | None, model: str = MODEL, **more: object) -> None:
        champion = None
        if release is not None:
            champion = Champion(
                release=release,
                sha256=sha256(release),
                backend="tflite-runtime",
                task="regression",
                unit="µm",
            )
        slot = SlotStatus(model=model, time_ms=time.time() * 1e3, champion=champion, **more)
        self.publish(SlotTopic(SITE, agent, model), slot.encode(), retain=True)

    @staticmethod
    def challenge(release: int, phase: str) -> Challenge:
        return Challenge(release=release, sha256=sha256(release), phase=phase)

    @staticmethod
    def refusal(release: int, reason: Reason, detail: str) -> Refusal:
        return Refusal(
            release=release, sha256=sha256(release), reason=reason, detail=detail, time_ms=time.time() * 1e3
        )

    @staticmethod
    def refusals(where: str, reason: Reason, count: int, last: str) -> Refusals:
        return Refusals(where=where, reason=reason, count=count, last=last)

    def releases(self, *terms: ReleaseTerms, version: int = 1) -> None:
        """Put update metadata out, as the trainer would, signed by nobody."""
        expires = {"expires": "2031-01-01T00:00:00Z", "version": version}
        targets = {
            one.target: {"length": 9, "hashes": {"sha256": sha256(one.release)}, "custom": one.encode()}
            for one in terms
        }
        files = {
            f"{version}.trainer.json": {**expires, "targets": targets},
            f"{version}.snapshot.json": {**expires, "meta": {"trainer.json": {"version": version}}},
            "timestamp.json": {**expires, "meta": {"snapshot.json": {"version": version}}},
        }
        for name, signed in files.items():
            payload = json.dumps({"signed": signed, "signatures": []}).encode()
            self.publish(MetadataTopic(name), payload, retain=True)

    def decide(self, device: str, rule: str, state: State, value: float = 0.93, agent: int = 0) -> None:
        decision = Decision(
            state=state, time_ms=time.time() * 1e3, model=MODEL, release=self.release, value=value,
            commands=[f"atoll/v1/{SITE}/{self.agent(agent)}/command/{device}/slow-down"],
        )  # fmt: skip
        self.publish(DecisionTopic(SITE, self.agent(agent), device, rule), decision.encode())

    def play(self) -> None:
        """Let readings come from now on."""
        self._thread.start()

    def _play(self) -> None:
        number = 0
        step_s = 1.0 / (self.rate_hz * self.devices)
        started = time.monotonic()
        while not self._stopping.is_set():
            due = int((time.monotonic() - started) / step_s)
            with self._lock:
                while number < due:
                    self._tell(number % self.devices)
                    number += 1
                self._session.step(0.0)
            # Pace; what is due is computed from the clock.
            self._stopping.wait(min(0.02, step_s))

    def _tell(self, number: int) -> None:
        if number % self.agents in self.silent:
            return
        device, agent = self.device(number), self.agent(number % self.agents)
        now_ms = time.time() * 1e3
        phase = now_ms / 9000 + number
        load = 40 + 18 * math.sin(phase) + self._random.gauss(0, 0.8)
        temperature = 61 + 7 * math.sin(phase / 3) + self._random.gauss(0, 0.25)
        truth = 0.6 * load + 0.3 * temperature
        value = truth + self.bias + self._random.gauss(0, 0.5)
        put = self._session.publish
        reading = Reading({"load": round(load, 2), "temperature": round(temperature, 2)}, now_ms)
        put(str(ReadingTopic(SITE, device, "press")), encode_reading(reading), qos=0)
        latency_ms = 0.35 + self._random.expovariate(12)
        prediction = Prediction(now_ms, round(value, 3), self.release, round(latency_ms, 3))
        put(str(PredictionTopic(SITE, agent, device, MODEL)), encode_prediction(prediction), qos=0)
        self.sent += 1
        if self.has_labels:
            label = Label(value=round(truth, 3), time_ms=now_ms)
            put(str(LabelTopic(SITE, device, device, MODEL)), label.encode(), qos=0)
