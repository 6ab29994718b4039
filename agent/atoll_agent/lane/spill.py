"""Predictions that cannot be delivered: to disk while the broker is away, and from there once it is back.

Live predictions go first, but for a batch a second. What waits on disk follows, oldest first, a batch at a
time; a batch leaves the disk when all of it is acknowledged, so that a kill sends some of it again and
loses nothing.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, wait
from typing import Final, Protocol

import structlog

from atoll_agent.lane.ledger import Entry, Resent
from atoll_agent.ports import Spool, Stored
from atoll_contract.errors import StorageError

log = structlog.get_logger()

Waiting = tuple[str, bytes, Entry | None]
"""Topic and payload of a prediction, and what it holds back."""

BATCH: Final = 100
"""So many are on their way from the disk at once."""
_COMMIT_EVERY_S: Final = 1.0
"""Wear is set by commits: fewer than :data:`BATCH` predictions wait so long for others."""
_RETRY_S: Final = 10.0
_PATIENCE_S: Final = 1.0
"""After so long a batch follows though live predictions are on their way: on a long line they always are."""


class Spill:
    """Brings the predictions of one track to disk.

    Args:
        spool: Where they wait.
        after_s: So long the broker may be away before.
        wake: Makes the lane look again.
        counts: Counters of the track.
    """

    def __init__(self, spool: Spool, after_s: float, wake: Callable[[], None], counts: Counter[str]) -> None:
        self._spool = spool
        self._after_s = after_s
        self._counts = counts
        self._wake = wake
        self._away_s: float | None = None
        self._next_s = 0.0
        self._kept: Future[None] | None = None
        self._batch: list[Waiting] = []

    @property
    def waiting(self) -> int:
        """How many are on their way to the disk."""
        return len(self._batch)

    def is_due(self, *, is_connected: bool, waiting: int, now_s: float) -> bool:
        """Whether ``waiting`` predictions should go to disk now."""
        if is_connected:
            self._away_s = None
            return False
        if self._away_s is None:
            self._away_s = self._next_s = now_s
        if not waiting or self._kept is not None or now_s - self._away_s < self._after_s:
            return False
        return now_s >= self._next_s or waiting >= BATCH

    @property
    def is_away(self) -> bool:
        """Whether the broker is away, so that what is new waits for the disk."""
        return self._away_s is not None

    def keep(self, batch: list[Waiting], now_s: float) -> None:
        """Begin to bring ``batch`` to disk."""
        self._next_s = now_s + _COMMIT_EVERY_S
        self._batch = batch
        self._kept = self._spool.keep([(topic, payload) for topic, payload, _ in batch])
        self._kept.add_done_callback(lambda _kept: self._wake())

    def settle(self, backlog: deque[Waiting], now_s: float) -> None:
        """Let what has its place on disk hold back nothing any more; what found none waits on here."""
        if self._kept is None or not self._kept.done():
            return
        kept, batch = self._kept, self._batch
        self._kept, self._batch = None, []
        try:
            kept.result()
        except StorageError as error:
            self._next_s = now_s + _RETRY_S
            self._counts["spool_faults"] += 1
            _tell(len(batch), error)
            backlog.extendleft(reversed(batch))
            return
        for _, _, entry in batch:
            if entry is not None:
                entry.outstanding -= 1
        self._counts["predictions_spooled"] += len(batch)
        log.info("predictions.spooled", count=len(batch))

    def finish(self, batch: list[Waiting], backlog: deque[Waiting], deadline: float) -> None:
        """Bring the last ones to disk before the connection ends, and wait for it; monotonic time."""
        self._join(backlog, deadline)
        batch += [one for one in backlog if is_fresh(one)]
        backlog.clear()
        if batch:
            self.keep(batch, deadline)
            self._join(backlog, deadline)

    def _join(self, backlog: deque[Waiting], deadline: float) -> None:
        if self._kept is not None:
            done, _ = wait([self._kept], max(0.0, deadline - time.monotonic()))
            if not done:
                _tell(len(self._batch), StorageError("the disk is too slow"))
            self.settle(backlog, deadline)


class Sender(Protocol):
    """Who can send what waits on disk."""

    @property
    def is_connected(self) -> bool:
        """Whether its connection stands."""

    @property
    def has_time(self) -> bool:
        """Whether it is connected, and hardly anything live is on its way."""

    def send_stored(self, stored: Sequence[Stored]) -> list[Resent]:
        """Send them at QoS 1; each entry tells when one is acknowledged."""


class Replay:
    """Sends what waits on disk, whichever track it was of: all of them speak to the same broker."""

    def __init__(self, spool: Spool, wake: Callable[[], None]) -> None:
        self._spool = spool
        self._wake = wake
        self._asked: Future[Sequence[Stored]] | None = None
        self._dropped: Future[None] | None = None
        self._sender: Sender | None = None
        self._entries: list[Resent] = []
        self._numbers: list[int] = []
        self._retry_s = 0.0
        self._patient_s = 0.0
        self._put_off_s = 0.0
        self.counts: Counter[str] = Counter()

    def work(self, senders: Collection[Sender], now_s: float) -> None:
        """Do what is due."""
        if self._asked is not None:
            self._send(senders, now_s)
        elif self._sender is not None:
            self._see_through(senders, now_s)
        elif (
            now_s >= max(self._retry_s, self._put_off_s)
            and self._may_hold_any
            and self._chosen(senders, now_s) is not None
        ):
            self._asked = self._spool.oldest(BATCH)
            self._asked.add_done_callback(lambda _asked: self._wake())

    @property
    def _may_hold_any(self) -> bool:
        """Whether something waits on disk, or may, since it could not be read."""
        state = self._spool.state
        return state.rows > 0 or state.fault is not None

    def _chosen(self, senders: Collection[Sender], now_s: float) -> Sender | None:
        """Return who sends the next batch: one that has time, or after a while whoever is connected."""
        free = next((one for one in senders if one.has_time), None)
        if free is not None or now_s < self._patient_s:
            return free
        return next((one for one in senders if one.is_connected), None)

    def _send(self, senders: Collection[Sender], now_s: float) -> None:
        if self._asked is None or not self._asked.done():
            return
        asked, self._asked = self._asked, None
        try:
            stored = asked.result()
        except StorageError as error:
            self._fail(error, now_s)
            return
        sender = self._chosen(senders, now_s)
        if sender is not None and stored:
            self._patient_s = now_s + _PATIENCE_S
            self._sender, self._numbers = sender, [one.number for one in stored]
            self._entries = sender.send_stored(stored)

    def _see_through(self, senders: Collection[Sender], now_s: float) -> None:
        """Delete a batch that is acknowledged; one whose sender has gone is sent again.

        What the broker may take later is sent again too, after a pause, and what follows it.
        """
        if self._dropped is not None:
            self._end(now_s)
        elif any(entry.outstanding for entry in self._entries):
            if self._sender not in senders:
                self._sender, self._entries = None, []
        elif now_s >= self._retry_s:
            for place, entry in enumerate(self._entries):
                if entry.is_put_off:
                    self._put_off_s = now_s + _RETRY_S
                    del self._entries[place:]
                    break
            if not self._entries:
                self._sender = None
                return
            self._dropped = self._spool.drop(self._numbers[len(self._entries) - 1])
            self._dropped.add_done_callback(lambda _dropped: self._wake())

    def _end(self, now_s: float) -> None:
        if self._dropped is None or not self._dropped.done():
            return
        dropped, self._dropped = self._dropped, None
        try:
            dropped.result()
        except StorageError as error:  # once more, later: it is not sent again
            self._fail(error, now_s)
            return
        self.counts["predictions_replayed"] += sum(not entry.is_refused for entry in self._entries)
        if not self._spool.state.rows:
            log.info("predictions.replayed", count=self.counts["predictions_replayed"])
        self._sender, self._entries = None, []

    def _fail(self, error: StorageError, now_s: float) -> None:
        self._retry_s = now_s + _RETRY_S
        self.counts["spool_faults"] += 1
        _tell(0, error)


def is_fresh(waiting: Waiting) -> bool:
    """Whether a prediction does not come from the disk."""
    return not isinstance(waiting[2], Resent)


def _tell(predictions: int, error: StorageError) -> None:
    log.error("spool.failed", predictions=predictions, reason=error.reason.value, detail=error.detail)
