"""A world played over MQTT: sensors publish, whoever answers commands, and the world obeys.

Devices' clocks run true while the world runs faster: a step of a minute may take a hundredth of a second, so
that decisions are as fresh as on a real site. Where answers are waited for, the next step begins when
each device that was answered before has been answered again; a command that comes later than that is
obeyed one step later. When nothing has answered for ten steps the play ends.
"""

from __future__ import annotations

import secrets
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import structlog

from atoll_contract.errors import MalformedMessageError, PeerError, Reason, TransientError
from atoll_contract.messages import Command, Label, Reading, Value, decode_prediction, encode_reading
from atoll_contract.topics import CommandTopic, LabelTopic, PredictionTopic, parse
from atoll_link.session import Delivery
from atoll_sim.uplink import Uplink
from atoll_sim.worlds.scenario import AGENT, SITE, Known, Sensed, World

TOPIC_FILTERS: Final = (
    f"atoll/v1/{SITE}/{AGENT}/command/#",
    f"atoll/v1/{SITE}/{AGENT}/prediction/#",
)
"""What to subscribe to."""

_PATIENCE_S: Final = 2.0
_MOST_SILENT: Final = 10
"""Steps in a row without any answer, after which nobody is waited for any more."""
_COMMANDS_S: Final = 0.004
"""How long commands may take that follow from the last answer of a step."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


class AgentSilentError(TransientError):
    """Who has answered before answers no more."""

    default_reason = Reason.CHILD_TIMEOUT


@dataclass(slots=True)
class StageCounts:
    """What came of a performance.

    Attributes:
        steps: Steps played.
        readings: Readings and pictures published.
        labels: Labels published.
        predictions: Predictions that arrived.
        unanswered: Answers that were waited for in vain.
        commands: Commands obeyed.
        refused: Messages that were refused, by reason.
    """

    steps: int = 0
    readings: int = 0
    labels: int = 0
    predictions: int = 0
    unanswered: int = 0
    commands: int = 0
    refused: Counter[str] = field(default_factory=Counter)


class Stage:
    """Plays ``world`` over ``uplink``, which must tell :meth:`take` of every delivery.

    Args:
        world: At its beginning.
        pace_s: Shortest time of a step.
        waits: Whether the next step waits for answers.
        meddles: Seed of what is done at random, so that it can be learnt from; None: nothing.
    """

    def __init__(self, world: World, *, pace_s: float, waits: bool, meddles: int | None = None) -> None:
        self.counts = StageCounts()
        self._world = world
        self._pace_s = pace_s
        self._waits = waits
        self._chance = None if meddles is None else np.random.default_rng(meddles)
        self._boot = secrets.token_hex(4)
        self._answering: set[tuple[str, str]] = set()
        self._answered: set[tuple[str, str]] = set()
        self._silent = 0
        self._late_labels: list[tuple[Known, float]] = []

    def play(self, uplink: Uplink, steps: int) -> None:
        """Play so many steps, or until told to stop; all is acknowledged at the end.

        Raises:
            AgentSilentError: Nothing has answered for many steps.
            BrokerUnavailableError: The uplink gave up.
        """
        for number in range(steps):
            began = time.monotonic()
            self._world.advance()
            if self._chance is not None:
                self._world.meddle(self._chance)
            if not self._tell(uplink, number):
                break
            if self._waits:
                self._await_answers(uplink)
            self.counts.steps += 1
            if not uplink.rest_until(began + self._pace_s):
                break
        uplink.settle()

    def take(self, delivery: Delivery) -> None:
        """Take note of a prediction; obey a command, or refuse it."""
        try:
            match parse(delivery.topic):
                case PredictionTopic(device=device, model=model):
                    self._heed(device, model, decode_prediction(delivery.payload).value)
                case CommandTopic(device=device, name=name):
                    self._obey(device, name, delivery)
                case _:
                    raise MalformedMessageError(f"{delivery.topic}: not for this world")
        except PeerError as error:
            self.counts.refused[error.reason] += 1
            _log.warning("command.refused", topic=delivery.topic, reason=error.reason, detail=error.detail)

    def _heed(self, device: str, model: str, value: float) -> None:
        self.counts.predictions += 1
        self._answering.add((device, model))
        self._answered.add((device, model))
        self._world.heed(device, model, value)

    def _obey(self, device: str, name: str, delivery: Delivery) -> None:
        command = Command.decode(delivery.payload)
        if delivery.is_retained or command.expires_ms <= delivery.arrival_ms:
            raise MalformedMessageError(f"{device}: {name!r} was retained, or has expired")
        if not self._world.obey(device, name, command):
            raise MalformedMessageError(f"{device} knows no command {name!r} of {command.value!r}")
        self.counts.commands += 1

    def _tell(self, uplink: Uplink, number: int) -> bool:
        time_ms = round(time.time() * 1e3, 3)
        for known, since_ms in self._late_labels:
            # Only now it is certain that the picture has arrived wherever it goes.
            label = Label(value=known.value, start_ms=since_ms, end_ms=time_ms, stream=known.stream)
            if not self._label(uplink, known, label):
                return False
        self._late_labels = []
        self._answered.clear()
        sensed = self._world.sensed()
        self._asked = {one.device for one in sensed}
        for one in sensed:
            if not uplink.publish(one.topic, self._payload(one, time_ms, number), qos=1):
                return False
            self.counts.readings += 1
        pictured = {one.device for one in sensed if one.picture is not None}
        for known in self._world.known():
            if known.device in pictured:
                self._late_labels.append((known, time_ms))
            elif not self._label(
                uplink, known, Label(value=known.value, time_ms=time_ms, stream=known.stream)
            ):
                return False
        return True

    def _label(self, uplink: Uplink, known: Known, label: Label) -> bool:
        self.counts.labels += 1
        topic = LabelTopic(SITE, known.device, known.device, known.model)
        return uplink.publish(topic, label.encode(), qos=1)

    def _payload(self, sensed: Sensed, time_ms: float, number: int) -> bytes:
        if sensed.picture is not None:
            return sensed.picture
        values: dict[str, Value] = dict(sensed.values)
        return encode_reading(Reading(values=values, time_ms=time_ms, seq=number, boot=self._boot))

    def _await_answers(self, uplink: Uplink) -> None:
        wanted = {(device, model) for device, model in self._answering if device in self._asked}
        due = time.monotonic() + _PATIENCE_S
        if not uplink.wait_for(lambda: wanted <= self._answered, due):
            self.counts.unanswered += len(wanted - self._answered)
            self._silent = self._silent + 1 if wanted.isdisjoint(self._answered) else 0
            if self._silent >= _MOST_SILENT:
                raise AgentSilentError(f"no answer for {self._silent} steps: does {AGENT!r} still run?")
        else:
            self._silent = 0
        uplink.rest_until(time.monotonic() + _COMMANDS_S)
