"""How patient one is with an Edge TPU, and with each model on it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from atoll_agent.adapters.edgetpu_devices import SYSFS
from atoll_contract.errors import AcceleratorLostError, AtollError
from atoll_contract.manifest import TensorSpec
from atoll_infer.edgetpu import LIBRARY
from atoll_infer.runtime import Model

_MINUTE_S: Final = 60.0
RESET_AFTER: Final = 2
"""Failures in a row, without an answer in between, after which a USB device is reset."""
_ENDS_AT_LOADING: Final = 2
"""Ends of the child in a row at the same model, after which the others go on without it for a while."""
_MOST_RESTS: Final = 16
"""How often ``return_after_s`` a model waits at most that ends the child each time."""


@dataclass(frozen=True, slots=True)
class Care:
    """How an Edge TPU is kept.

    Attributes:
        library: File of libedgetpu.
        sysfs: Where sysfs is.
        deadline_s: Longest time of an inference.
        open_timeout_s: Longest time of opening it.
        restarts_per_minute: Failures in a minute after which it rests.
        return_after_s: How long it rests before the next attempt, and so does a model that ends the child.
    """

    library: str = LIBRARY
    sysfs: Path = SYSFS
    deadline_s: float = 2.0
    open_timeout_s: float = 60.0
    restarts_per_minute: int = 5
    return_after_s: float = 60.0


class Budget:
    """When the child may be started again. Times are of a monotonic clock."""

    def __init__(self, restarts_per_minute: int, return_after_s: float) -> None:
        self._return_after_s = return_after_s
        self._failures: deque[float] = deque(maxlen=restarts_per_minute + 1)
        self._in_row = 0
        self.is_resting = False

    @property
    def in_row(self) -> int:
        """Failures since the last success."""
        return self._in_row

    def failed(self, now_s: float, *, has_answered: bool) -> None:
        """Note a failure; ``has_answered``: of a child that had been of use."""
        self._in_row = 1 if has_answered else self._in_row + 1
        self._failures.append(now_s)
        is_full = len(self._failures) == self._failures.maxlen
        self.is_resting = self.is_resting or (is_full and now_s - self._failures[0] < _MINUTE_S)

    def lives(self, since_s: float, now_s: float) -> None:
        """Note that a child answers since then: one that has for a minute has mended it."""
        if now_s - since_s >= _MINUTE_S:
            self.is_resting = False

    def wait_s(self, now_s: float) -> float:
        """Return how long to wait before the next start."""
        if not self._failures:
            return 0.0
        pause_s = 0.0 if self._in_row < RESET_AFTER else min(0.25 * 2.0**self._in_row, 8.0)
        if self.is_resting:
            pause_s = self._return_after_s
        return max(0.0, self._failures[-1] + pause_s - now_s)


class Placed:
    """A model that the device shall run: its file, its tensors, and what it has to show when loaded.

    Attributes:
        content: The file.
        ends: Its input and its output.
        check: Gets the model each time that it has been loaded.
        fault: Why it is not used; None: nothing is known against it.
        ends_at_loading: Ends of the child in a row while it loaded this.
    """

    def __init__(
        self, content: bytes, ends: tuple[TensorSpec, TensorSpec], check: Callable[[Model], None]
    ) -> None:
        self.content = content
        self.ends = ends
        self.check = check
        self.fault: AtollError | None = None
        self.ends_at_loading = 0
        self._rests_until_s = 0.0

    @property
    def _ends_children(self) -> bool:
        return self.ends_at_loading >= _ENDS_AT_LOADING

    def ended(self, detail: str, now_s: float, return_after_s: float) -> None:
        """Note that the child ended while it loaded it: that may be the device's fault, or its own."""
        self.ends_at_loading += 1
        if self._ends_children:
            self.fault = AcceleratorLostError(f"the Edge TPU's child ends at it: {detail}")
            rests = 2.0 ** (min(self.ends_at_loading, _MOST_RESTS) - _ENDS_AT_LOADING)
            self._rests_until_s = now_s + return_after_s * min(rests, _MOST_RESTS)

    def is_due(self, now_s: float) -> bool:
        """Whether it is to be loaded."""
        return self.fault is None or (self._ends_children and now_s >= self._rests_until_s)

    def passed(self) -> None:
        """Note that it has been loaded and checked."""
        self.fault = None
        self.ends_at_loading = 0

    def refused(self, error: AtollError) -> None:
        """Note that the child has answered, and that it is not to be used there."""
        self.fault = error
        self.ends_at_loading = 0

    def forgive(self) -> None:
        """Let a new child try it, unless it ends them."""
        if not self._ends_children:
            self.fault = None
