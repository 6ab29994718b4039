"""The demo's own subscriber: it sees what anybody at the broker sees, and keeps the tally."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final, Self, TypeVar

from atoll_contract import topics
from atoll_contract.errors import AtollError, MalformedMessageError, Reason
from atoll_contract.messages import (
    Command,
    Label,
    SlotStatus,
    Status,
    decode_prediction,
    decode_readings,
)
from atoll_link.session import Broker, Delivery, Published, Session
from atoll_sim.demo.tally import Tally

SITE: Final = "demo"
OBSERVER: Final = "demo"

_T = TypeVar("_T")


class NotInTimeError(AtollError):
    """Something that the demo waits for did not happen."""

    default_reason = Reason.CHILD_TIMEOUT


class Watch:
    """Sees every message of ``topic_filter``; sends commands. A context with a thread of its own."""

    def __init__(self, port: int, topic_filter: str = f"{topics.PREFIX}/#") -> None:
        self._session = Session(Broker(host="127.0.0.1", port=port), "demo-watch")
        self._session.subscribe(topic_filter)
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._outgoing: list[tuple[str, bytes]] = []
        self._acknowledged = 0
        self._slots: dict[str, SlotStatus] = {}
        self._status: Status | None = None
        self._announced_ms = 0.0
        self.tally = Tally()
        self._thread = threading.Thread(target=self._run, name="demo-watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self._stopping.set()
        self._session.wake()
        self._thread.join(10)

    def wait(
        self, fact: Callable[[], _T | None], what: str, timeout_s: float, check: Callable[[], None]
    ) -> _T:
        """Return ``fact()`` once it is true; ``check`` may raise meanwhile.

        Raises:
            NotInTimeError: Not within ``timeout_s``.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            with self._changed:
                found = fact()
                if found:
                    return found
                self._changed.wait(0.2)
            check()
            if time.monotonic() > deadline:
                raise NotInTimeError(f"not within {timeout_s:g} s: {what}")

    def slot(self, model: str) -> SlotStatus | None:
        """Return what the agent said of a model last."""
        return self._slots.get(model)

    @property
    def status(self) -> Status | None:
        """What the agent said of itself last."""
        return self._status

    @property
    def announced_ms(self) -> float:
        """When the trainer announced releases last."""
        return self._announced_ms

    def command(self, device: str, name: str, command: Command) -> None:
        """Tell a device to do something."""
        topic = topics.CommandTopic(SITE, OBSERVER, device, name)
        self._outgoing.append((str(topic), command.encode()))
        self._session.wake()

    def _run(self) -> None:
        while not self._stopping.is_set():
            while self._outgoing:
                topic, payload = self._outgoing.pop(0)
                self._session.publish(topic, payload, qos=1)
            events = self._session.step(0.5)
            with self._changed:
                for event in events:
                    if isinstance(event, Delivery):
                        self._note(event)
                    elif isinstance(event, Published):
                        self._acknowledged += 1
                self._changed.notify_all()
        self._session.close()

    def _note(self, delivery: Delivery) -> None:
        try:
            self._sort(topics.parse(delivery.topic), delivery)
        except MalformedMessageError:
            return  # what the demo's own programs would have to answer for; they count it

    def _sort(self, topic: topics.Topic, delivery: Delivery) -> None:
        payload = delivery.payload
        match topic:
            case topics.ReadingTopic(device=device):
                self.tally.bytes_in += len(payload)
                for reading in decode_readings(payload):
                    self.tally.reading(device, reading, delivery.arrival_ms)
            case topics.PredictionTopic(device=device):
                self.tally.bytes_out += len(payload)
                self.tally.prediction(device, decode_prediction(payload), delivery.arrival_ms)
            case topics.LabelTopic(device=device):
                self.tally.label(device, Label.decode(payload))
            case topics.SlotTopic(model=model):
                self._slots[model] = SlotStatus.decode(payload)
            case topics.StatusTopic():
                self._status = Status.decode(payload)
            case topics.MetadataTopic(file=file):
                self.tally.bytes_release += len(payload)
                if file == "timestamp.json" and not delivery.is_retained:
                    self._announced_ms = delivery.arrival_ms
            case topics.ChunkTopic():
                self.tally.bytes_release += len(payload)
            case _:
                pass
