"""Who runs the model: the lane itself if it is fast, a thread of its own if it is not."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol, TypeVar

import numpy as np

from atoll_agent.lane.pending import Pending, PendingQueue
from atoll_contract.errors import Reason
from atoll_infer.predictor import Answer, Predictor
from atoll_ingest.stream import Overload

Item = TypeVar("Item")
Answered = tuple[Pending, Answer | Reason]
"""A reading, and what the model said of it or why it said nothing."""

_MOST_AT_ONCE: Final = 64
_MAX_WAIT_S: Final = 1.0
"""A slow model lets no more readings wait than it answers in this time, as far as the policy allows."""


class Executor(Protocol):
    """Runs one model on what is submitted, in this order."""

    @property
    def waiting(self) -> int:
        """How many were submitted and are not yet returned."""

    @property
    def is_full(self) -> bool:
        """Whether :meth:`finished` should be called before more is submitted."""

    def submit(self, pending: Pending) -> Pending | None:
        """Take in ``pending`` and return who is left out for it, if anybody is."""

    def finished(self) -> list[Answered]:
        """Return what has been answered since the last call."""

    def take_times_s(self) -> list[float]:
        """Return how long an answer took, for each call of the model since the last time."""

    def cancel(self) -> list[Pending]:
        """Return what waits and is not at work yet; it is not answered."""

    def relieve(self, *, is_behind: bool) -> None:
        """Tell whether readings come faster than they are answered."""

    def obey(self, policy: Overload) -> None:
        """Leave out by ``policy`` from now on, where too many wait."""

    def close(self) -> None:
        """Answer nothing more; does not wait."""


class LaneExecutor:
    """Answers in the lane's thread, many readings at once."""

    def __init__(self, predictor: Predictor, policy: Overload) -> None:
        self._predictor = predictor
        self._shape = _window_shape(predictor)
        self._queue = PendingQueue(policy)
        self._times_s: deque[float] = deque(maxlen=_MOST_AT_ONCE)

    @property
    def waiting(self) -> int:
        """See :class:`Executor`."""
        return len(self._queue)

    @property
    def is_full(self) -> bool:
        """See :class:`Executor`: so the windows that wait take little memory, whatever a turn brings."""
        return self._queue.limit is None and len(self._queue) >= _MOST_AT_ONCE

    def submit(self, pending: Pending) -> Pending | None:
        """See :class:`Executor`."""
        return self._queue.put(pending)

    def finished(self) -> list[Answered]:
        """Answer what waits."""
        answered: list[Answered] = []
        while batch := self._queue.take(_MOST_AT_ONCE):
            samples = b"".join([pending.samples for pending in batch])
            windows = np.frombuffer(samples, np.float32).reshape(len(batch), *self._shape)
            started = time.perf_counter()
            answered += zip(batch, self._predictor.answers(windows), strict=True)
            self._times_s.append((time.perf_counter() - started) / len(batch))
        return answered

    def take_times_s(self) -> list[float]:
        """See :class:`Executor`."""
        return _emptied(self._times_s)

    def cancel(self) -> list[Pending]:
        """See :class:`Executor`."""
        return self._queue.take(len(self._queue))

    def relieve(self, *, is_behind: bool) -> None:
        """See :class:`Executor`: while the lane is behind, each turn answers a part of what it brought."""
        has_limit = is_behind and self._queue.policy is not Overload.BLOCK
        self._queue.limit = _MOST_AT_ONCE if has_limit else None

    def obey(self, policy: Overload) -> None:
        """See :class:`Executor`."""
        self._queue.policy = policy

    def close(self) -> None:
        """Nothing to end."""


class ThreadExecutor:
    """Answers in a thread of its own; ``wake`` is called from it when an answer is there."""

    def __init__(self, predictor: Predictor, policy: Overload, wake: Callable[[], None]) -> None:
        self._predictor = predictor
        self._shape = _window_shape(predictor)
        self._queue = PendingQueue(policy, max(1, int(_MAX_WAIT_S / predictor.answer_s)))
        self._wake = wake
        self._condition = threading.Condition()
        self._answered: deque[Answered] = deque()
        self._times_s: deque[float] = deque(maxlen=_MOST_AT_ONCE)
        self._is_closing = False
        self._failure: BaseException | None = None
        self._waiting = 0
        name = f"model-{predictor.manifest.model}"
        threading.Thread(target=self._run, name=name, daemon=True).start()

    @property
    def waiting(self) -> int:
        """See :class:`Executor`."""
        return self._waiting

    @property
    def is_full(self) -> bool:
        """See :class:`Executor`."""
        return False

    def submit(self, pending: Pending) -> Pending | None:
        """See :class:`Executor`."""
        with self._condition:
            left_out = self._queue.put(pending)
            self._condition.notify()
        if left_out is None:
            self._waiting += 1
        return left_out

    def finished(self) -> list[Answered]:
        """See :class:`Executor`; a bug in the thread is raised here."""
        if self._failure is not None:
            raise self._failure
        answered = _emptied(self._answered)
        self._waiting -= len(answered)
        return answered

    def take_times_s(self) -> list[float]:
        """See :class:`Executor`."""
        return _emptied(self._times_s)

    def cancel(self) -> list[Pending]:
        """See :class:`Executor`."""
        with self._condition:
            cancelled = self._queue.take(len(self._queue))
        self._waiting -= len(cancelled)
        return cancelled

    def relieve(self, *, is_behind: bool) -> None:
        """Nothing to do: the queue is short at all times."""

    def obey(self, policy: Overload) -> None:
        """See :class:`Executor`."""
        with self._condition:
            self._queue.policy = policy

    def close(self) -> None:
        """See :class:`Executor`; an answer at work is the last one."""
        with self._condition:
            self._is_closing = True
            self._condition.notify()

    def _run(self) -> None:
        try:
            while (pending := self._next()) is not None:
                window = np.frombuffer(pending.samples, np.float32).reshape(1, *self._shape)
                started = time.perf_counter()
                (answer,) = self._predictor.answers(window)
                self._times_s.append(time.perf_counter() - started)
                self._answered.append((pending, answer))
                self._wake()
        except BaseException as error:  # noqa: BLE001 - finished() raises it where it ends the daemon
            self._failure = error
            self._wake()

    def _next(self) -> Pending | None:
        with self._condition:
            self._condition.wait_for(lambda: self._is_closing or len(self._queue) > 0)
            return None if self._is_closing else self._queue.take(1)[0]


def _window_shape(predictor: Predictor) -> tuple[int, int]:
    return predictor.manifest.window.length, predictor.manifest.columns


def _emptied(items: deque[Item]) -> list[Item]:
    """Return what ``items`` holds now and take it out; others may append meanwhile."""
    return [items.popleft() for _ in range(len(items))]
