"""Predictions, and what rules made of them, on their way to the broker."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Sequence
from typing import Final

from atoll_agent.lane.ledger import Entry, Ledger, Resent
from atoll_agent.lane.spill import Spill, Waiting, is_fresh
from atoll_agent.ports import Stored, Wire

MAX_OUTSTANDING: Final = 20_000
"""Predictions on their way without PUBACK. Beyond that they wait here, a QoS 0 reading is refused as
overload, and a QoS 1 reading waits unread: the broker stops by itself at its in-flight limit, which is
65,535 at the most."""


class Outgoing:
    """Hands predictions, decisions and commands to the wire in order. ``counts`` are those of its track.

    Where there is a ``spill``, predictions go to disk while the broker is away.
    """

    def __init__(self, wire: Wire, ledger: Ledger, counts: Counter[str], spill: Spill | None = None) -> None:
        self._wire = wire
        self._ledger = ledger
        self._counts = counts
        self._spill = spill
        self._predictions: deque[Waiting] = deque()
        self._acts: deque[tuple[str, bytes, Entry]] = deque()
        self._acts_sent: set[int] = set()

    @property
    def is_full(self) -> bool:
        """Whether no more readings should be answered for now."""
        # With nothing here there is room for one more; asked at each turn, so this comes first.
        return bool(self._predictions or self._acts) and self.waiting >= MAX_OUTSTANDING

    @property
    def waiting(self) -> int:
        """How many messages wait here, for their PUBACK, or for the disk."""
        spilling = 0 if self._spill is None else self._spill.waiting
        return len(self._predictions) + len(self._acts) + self._ledger.outstanding + spilling

    @property
    def undelivered(self) -> int:
        """How many predictions neither the broker nor the disk has."""
        return len(self._on_their_way()) + sum(map(is_fresh, self._predictions))

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

    def refused(self, mid: int, *, is_passing: bool) -> str:
        """Note that the broker refused a message; return what it was.

        One from the spool that it may take later stays there.
        """
        self._ledger.refuse(mid, is_passing=is_passing)
        return "a decision or command" if self._is_act(mid) else "a prediction"

    def send_stored(self, stored: Sequence[Stored]) -> list[Resent]:
        """Take predictions from the spool; each entry tells when one is acknowledged."""
        entries = [Resent(1) for _ in stored]
        for one, entry in zip(stored, entries, strict=True):
            self._predictions.append((one.topic, one.payload, entry))
        return entries

    def work(self, *, is_connected: bool, now_s: float) -> None:
        """Hand over as much as the wire takes, or the disk; monotonic time.

        Decisions go behind the predictions that they follow from.
        """
        spill = self._spill
        if spill is None:
            self._send()
        else:
            spill.settle(self._predictions, now_s)
            waiting = len(self._predictions) + self._ledger.outstanding
            if spill.is_due(is_connected=is_connected, waiting=waiting, now_s=now_s):
                if batch := self._take_back():
                    spill.keep(batch, now_s)
            elif not spill.is_away:
                self._send()
        if self._acts:
            self._send_acts()

    def finish(self, deadline: float) -> None:
        """Bring to disk, where there is a spool, what was not delivered; monotonic time."""
        if self._spill is not None:
            self._spill.finish(self._take_back(), self._predictions, deadline)

    def _take_back(self) -> list[Waiting]:
        """Take back the predictions on their way, and those that wait; what comes from disk stays there."""
        taken = self._wire.take_back(self._on_their_way())
        batch: list[Waiting] = [
            (topic, payload, self._ledger.take_back(mid)) for mid, topic, payload in taken
        ]
        batch += self._predictions
        self._predictions.clear()
        self._predictions += [one for one in batch if not is_fresh(one)]
        return [one for one in batch if is_fresh(one)]

    def _on_their_way(self) -> list[int]:
        return [mid for mid in self._ledger.numbers() if mid not in self._acts_sent]

    def _send(self) -> None:
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
