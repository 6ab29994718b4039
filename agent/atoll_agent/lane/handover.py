"""What the control plane gets to see of the lane's work, bounded: all of a little, a part of a lot.

The lane pays a few comparisons per batch of answers, and something per window for at most
:data:`RATE_HZ` of them a second and model, whatever comes.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Sequence
from typing import Final

import numpy as np

from atoll_agent.drift.seen import Seen, Told
from atoll_agent.lane.answering import Answering
from atoll_agent.lane.executors import Answered
from atoll_contract.messages import Label
from atoll_infer.predictor import Answer
from atoll_signal.picture import decodes_late
from atoll_signal.spread import Columns

RATE_HZ: Final = 50.0
"""Windows of one model that are handed over in a second; of more a random part."""
BURST: Final = 100
"""So many may come at once."""
MAX_WAITING: Final = 8192
"""Windows and labels that wait for the control plane; more are left out."""
_PAUSE: Final = 4.0
"""Up to so many windows are left out after a burst: a fixed rhythm would always meet the same device."""


class Handover:
    """Filled by the lane's thread, emptied by the control plane's.

    Attributes:
        left_out: How many windows and labels were not handed over, by model.
    """

    def __init__(self) -> None:
        self.left_out: Counter[str] = Counter()
        self._queue: deque[Seen | Told] = deque()
        self._allowances: dict[str, _Allowance] = {}

    # The lane's thread

    def offer(self, answering: Answering, answered: Sequence[Answered], now_ns: int) -> None:
        """Hand over what ``answering`` has answered, or as much as there is room for; monotonic time."""
        allowance = self._allowances.get(answering.model)
        if allowance is None or allowance.answering is not answering:
            allowance = self._allowances[answering.model] = _Allowance(answering, now_ns)
        room = allowance.take(len(answered), now_ns)
        chosen = answered
        if room < len(answered):
            self.left_out[answering.model] += len(answered) - room
            if not room:
                return
            chosen = random.sample(answered, room)
        if len(self._queue) >= MAX_WAITING:
            self.left_out[answering.model] += len(chosen)
            return
        for pending, answer in chosen:
            if isinstance(answer, Answer) and pending.is_heard:
                row = allowance.row(pending.samples)
                self._queue.append(
                    Seen(
                        answering.model, answering.release, pending.device, pending.time_ms, row, answer.value
                    )
                )

    def tell(self, model: str, device: str, label: Label) -> None:
        """Hand over a label."""
        if len(self._queue) < MAX_WAITING:
            self._queue.append(Told(model, device, label))
        else:
            self.left_out[model] += 1

    # Another thread

    def take(self) -> list[Seen | Told]:
        """Return what waits now, in the order in which it came."""
        queue = self._queue
        return [queue.popleft() for _ in range(len(queue))]


class _Allowance:
    """How much of one release's work is handed over, and which of its numbers."""

    __slots__ = ("_has_rows", "_places", "_row_bytes", "_since_ns", "_tokens", "answering")

    def __init__(self, answering: Answering, now_ns: int) -> None:
        self.answering = answering
        manifest = answering.manifest
        columns = manifest.columns
        self._has_rows = not decodes_late(manifest)
        self._row_bytes = 4 * columns
        places = Columns.of(manifest).places
        self._places = places if len(places) < columns else None
        self._tokens = float(BURST)
        self._since_ns = now_ns

    def take(self, count: int, now_ns: int) -> int:
        """Return how many of ``count`` windows there is room for."""
        tokens = min(BURST, self._tokens + (now_ns - self._since_ns) * (RATE_HZ / 1e9))
        self._since_ns = now_ns
        room = min(count, int(tokens)) if tokens > 0 else 0
        tokens -= room
        if room < count and room:
            tokens -= random.uniform(0.0, _PAUSE)  # noqa: S311 - no secret
        self._tokens = tokens
        return room

    def row(self, samples: bytes | bytearray) -> bytes:
        """Return the numbers of the newest row that are counted."""
        if not self._has_rows:
            return b""
        newest = bytes(samples[-self._row_bytes :])
        return newest if self._places is None else np.frombuffer(newest, np.float32)[self._places].tobytes()
