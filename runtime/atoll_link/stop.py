"""SIGTERM and SIGINT as a wish that loops look at: what is in hand is finished first."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Final

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """Whether the process was told to stop."""

    def __init__(self) -> None:
        self._is_requested = False

    @property
    def is_requested(self) -> bool:
        """Whether the process was told to stop."""
        return self._is_requested

    def request(self) -> None:
        """Tell it to stop."""
        self._is_requested = True


@contextlib.contextmanager
def stop_on_signals(stop: Stop, wake: Callable[[], None]) -> Iterator[None]:
    """Let the first SIGTERM or SIGINT request ``stop`` and call ``wake``; the second has its usual effect."""

    def request(_number: int, _frame: FrameType | None) -> None:
        for number, handler in before.items():
            signal.signal(number, handler)
        stop.request()
        wake()

    before = {number: signal.signal(number, request) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
