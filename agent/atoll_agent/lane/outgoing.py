"""Predictions, and what rules made of them, on their way to the broker."""

from __future__ import annotations

from collections import Counter, deque
from typing import Final

from atoll_agent.lane.ledger import Entry, Ledger
from atoll_agent.ports import Wire

MAX_OUTSTANDING: Final = 20_000
"""Predictions on their way without PUBACK. Beyond that they wait here, and a QoS 0 reading is refused
as overload. A QoS 1 reading is not: the broker stops by itself at its in-flight limit, which is
65,535 at the most."""


class Outgoing:
    """Hands predictions, decisions and commands to the wire in order. ``counts`` are those of its track."""

    def __init__(self, wire: Wire, ledger: Ledger, counts: Counter[str]) -> None:
        self._wire = wire
        self._ledger = ledger
        self._counts = counts
        self._predictions: deque[tuple[str, bytes, Entry | None]] = deque()
        self._acts: deque[tuple[str, bytes, Entry]] = deque()
        self._acts_sent: set[int] = set()

    @property
    def is_full(self) -> bool:
        """Whether no more readings at QoS 0 should be answered for now."""
        return self.waiting >= MAX_OUTSTANDING

    @property
    def waiting(self) -> int:
        """How many messages wait here, or for their PUBACK."""
        return len(self._predictions) + len(self._acts) + self._ledger.outstanding

    def predict(self, topic: str, payload: bytes, entry: Entry | None) -> None:
        """Take a prediction; at the QoS of its reading, which ``entry`` stands for at QoS 1."""
        self._predictions.append((topic, payload, entry))

    def act(self, topic: str, payload: bytes, entry: Entry | None) -> None:
        """Take a decision or a command; at QoS 1 also for a reading that came at QoS 0."""
        # Of such a reading no acknowledgement waits for it.
        entry = Entry() if entry is None else entry
        entry.outstanding += 1
        self._acts.append((topic, payload, entry))

    def settle(self, mid: int) -> None:
        """Note the PUBACK for a message."""
        if self._ledger.settle(mid) and not (self._acts_sent and self._is_act(mid)):
            self._counts["predictions_acknowledged"] += 1

    def refused(self, mid: int) -> str:
        """Note that the broker refused a message, which it would do again; return what it was."""
        self._ledger.settle(mid)
        return "a decision or command" if self._is_act(mid) else "a prediction"

    def send(self) -> None:
        """Hand over as much as the wire takes; decisions behind the predictions that they follow from."""
        predictions, ledger, publish = self._predictions, self._ledger, self._wire.publish
        sent = 0
        while predictions and ledger.outstanding < MAX_OUTSTANDING:
            topic, payload, entry = predictions[0]
            mid = publish(topic, payload, qos=0 if entry is None else 1)
            if mid is None:
                break  # the wire keeps no more: again when it does
            predictions.popleft()
            sent += 1
            if entry is not None:
                ledger.sent(entry, mid)
        if sent:
            self._counts["predictions"] += sent
        if self._acts:
            self._send_acts()

    def _send_acts(self) -> None:
        acts = self._acts
        while acts:
            topic, payload, entry = acts[0]
            mid = self._wire.publish(topic, payload, qos=1)
            if mid is None:
                return
            acts.popleft()
            self._acts_sent.add(mid)
            self._ledger.sent(entry, mid)

    def _is_act(self, mid: int) -> bool:
        """Whether this was a decision or a command; asked once."""
        if mid not in self._acts_sent:
            return False
        self._acts_sent.discard(mid)
        return True
