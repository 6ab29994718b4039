"""Messages to systemd: ``sd_notify(3)``, a datagram to ``$NOTIFY_SOCKET``."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import Final

_BEATS: Final = 8
"""So many in the time after which the service is taken for dead, at the most."""


class Notifier:
    """Tells systemd how the service is; without systemd it does nothing.

    Attributes:
        watchdog_s: systemd ends the service when it was not told ``WATCHDOG="1"`` for so long; None: never.
    """

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        # A leading @ stands for an abstract socket.
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self.watchdog_s = _watchdog_s(environment) if address else None
        self._next_beat_s = 0.0

    def tell(self, **states: str) -> None:
        """Send ``states``, as ``READY="1", STATUS="waiting for the broker"``."""
        if not self._address:
            return
        message = "\n".join(f"{key}={value}" for key, value in states.items())
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.setblocking(False)
            try:
                sock.sendto(message.encode(), self._address)
            except OSError:
                return  # the manager is gone or busy: the service goes on

    def beat(self) -> None:
        """Tell that the service goes on, if that is asked for and was not told just now."""
        now_s = time.monotonic()
        if self.watchdog_s is not None and now_s >= self._next_beat_s:
            self._next_beat_s = now_s + self.watchdog_s / _BEATS
            self.tell(WATCHDOG="1")


def _watchdog_s(environment: Mapping[str, str]) -> float | None:
    """Return what ``sd_watchdog_enabled(3)`` would: None where the watchdog waits for another process."""
    microseconds = environment.get("WATCHDOG_USEC", "")
    if not microseconds.isdecimal() or environment.get("WATCHDOG_PID") not in {None, str(os.getpid())}:
        return None
    return int(microseconds) / 1e6 or None
