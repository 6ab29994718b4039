"""How long to wait before the next attempt: longer each time, with jitter, up to a cap."""

from __future__ import annotations

import random
from typing import Final

_BASE_S: Final = 2.0
_MOST_FAILURES: Final = 16


class Backoff:
    """Counts failures in a row."""

    def __init__(self) -> None:
        self._failures = 0

    def next_s(self, cap_s: float) -> float:
        """Return how long to wait after one more failure."""
        ceiling_s = min(cap_s, _BASE_S * 2.0**self._failures)
        self._failures = min(self._failures + 1, _MOST_FAILURES)
        return random.uniform(_BASE_S / 2, ceiling_s)  # noqa: S311 - jitter, not a secret

    def reset(self) -> None:
        """Begin again: it went well."""
        self._failures = 0
