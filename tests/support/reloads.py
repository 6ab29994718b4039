"""Readings that go on while an agent reads other settings again and again, and what became of them.

A reading is ``{"a": n, "b": n + 0.5}`` and the model doubles and adds 1, so that each prediction says which
reading it answers and by which mapping that was read.
"""

from __future__ import annotations

import json
import signal
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from support.agents import AgentProcess
from support.spy import Spy

from atoll_contract.messages import decode_prediction
from atoll_link.session import Broker, Published, Session


def stream_text(key: str, *topics: str) -> str:
    """Return the settings of a stream that reads ``key``."""
    return (
        f'[[stream]]\nname = "press"\ntopics = {json.dumps(topics)}\ndialect = "json"\n'
        f'values = {{ x = {{ pointer = "/{key}" }} }}\n'
    )


MAPPINGS = (
    ("a", "old/{device}"),
    ("b", "old/{device}"),
    ("a", "+/{device}"),  # overlaps with what was: a broker may send a message twice
    ("b", "new/{device}", "old/{device}"),
    ("a", "new/{device}"),  # from here on the device publishes on the new topic
    ("b", "new/{device}"),
    ("a", "new/#/{device}"),  # refused as a whole
    ("a", "new/{device}"),
)
MOVES_AT = 4
WRONG_AT = 6


class Sender:
    """Publishes numbered readings at QoS 1, so many a second, from a thread."""

    def __init__(self, port: int, rate_hz: float) -> None:
        self._session = Session(Broker(host="127.0.0.1", port=port), "sender", max_inflight=1000)
        self._rate_hz = rate_hz
        self._stopping = threading.Event()
        self._waiting: set[int] = set()
        self._thread = threading.Thread(target=self._run, name="sender", daemon=True)
        self.topic = "old/p"
        self.sent = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join(30)

    @property
    def is_taken(self) -> bool:
        """Whether the broker has taken all that was sent."""
        return not self._waiting

    def stop(self) -> None:
        """Send no more."""
        self._rate_hz = 0.0

    def _run(self) -> None:
        started = time.monotonic()
        while not self._stopping.is_set():
            while self._session.is_connected and self.sent < self._rate_hz * (time.monotonic() - started):
                payload = json.dumps({"a": self.sent, "b": self.sent + 0.5}).encode()
                number = self._session.publish(self.topic, payload)
                assert number is not None, "the broker takes no readings"
                self._waiting.add(number)
                self.sent += 1
            for event in self._session.step(0.002):
                if isinstance(event, Published):
                    self._waiting.discard(event.mid)
        self._session.close()


@dataclass
class Outcome:
    """What became of the readings.

    Attributes:
        sent: How many there were.
        answers: How often each number was answered.
        by_mapping: How many were read by each mapping.
        seconds: How long it took.
    """

    sent: int
    answers: Counter[int] = field(default_factory=Counter)
    by_mapping: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0

    @property
    def lost(self) -> int:
        return sum(number not in self.answers for number in range(self.sent))

    @property
    def duplicated(self) -> int:
        return sum(count - 1 for count in self.answers.values())


def reload(agent: AgentProcess, text: str, event: str) -> None:
    """Write other settings, send SIGHUP, and wait until the agent says what it did with them."""
    before = len(agent.events(event))
    agent.settings.write_text(text)
    agent.process.send_signal(signal.SIGHUP)
    deadline = time.monotonic() + 30
    while len(agent.events(event)) == before:
        assert time.monotonic() < deadline, f"no {event}"
        time.sleep(0.01)  # pace of looking into the log


def reload_under_load(agent: AgentProcess, port: int, *, rate_hz: float, step_s: float) -> Outcome:
    """Let a running agent read all of :data:`MAPPINGS`, ``step_s`` apart, while readings come."""
    text = agent.settings.read_text()
    first = stream_text(*MAPPINGS[0])
    assert first in text
    started = time.monotonic()
    with (
        Spy(port, "atoll/v1/site/pi/prediction/#", client_id="counter") as spy,
        Sender(port, rate_hz) as sender,
    ):
        for step, (key, *topics) in enumerate(MAPPINGS[1:], start=1):
            sent = sender.sent
            if step == MOVES_AT:
                sender.topic = "new/p"
            spy.wait(lambda sent=sent: sender.sent - sent >= rate_hz * step_s, "readings", 60)
            event = "settings.refused" if step == WRONG_AT else "settings.reloaded"
            reload(agent, text.replace(first, stream_text(key, *topics)), event)
        sender.stop()
        outcome = Outcome(sender.sent)
        spy.wait(lambda: sender.is_taken and len(spy.deliveries) >= outcome.sent, "all predictions", 60)
        for delivery in spy.deliveries:
            number, mapping = divmod(decode_prediction(delivery.payload).value - 1, 2)
            outcome.answers[int(number)] += 1
            outcome.by_mapping["b" if mapping else "a"] += 1
    outcome.seconds = time.monotonic() - started
    return outcome
