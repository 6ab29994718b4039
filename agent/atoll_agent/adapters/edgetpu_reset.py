"""Has a USB device reset by a child: the kernel may keep who asks for that for as long as it likes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

from atoll_agent.adapters.child_environment import child_environment

_MODULE: Final = "atoll_agent.children.usb_reset"
_RESET_S: Final = 10.0
_END_S: Final = 2.0


class UsbReset:
    """Resets one device. One caller at a time."""

    def __init__(self, timeout_s: float = _RESET_S) -> None:
        self._timeout_s = timeout_s
        self._stuck: subprocess.Popen[str] | None = None

    def run(self, node: Path) -> str | None:
        """Reset the device behind ``node`` (``/dev/bus/usb/001/004``); return why that failed, for people."""
        if self._stuck is not None and self._stuck.poll() is None:
            return f"{node} is not reset: the reset before has not returned yet"
        self._stuck = None
        try:
            child = subprocess.Popen(  # noqa: S603 - our own module
                [sys.executable, "-m", _MODULE, str(node)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                env=child_environment(),
                start_new_session=True,
            )
        except OSError as error:
            return f"{node} cannot be reset: {error.strerror}"
        try:
            said, _ = child.communicate(timeout=self._timeout_s)
        except subprocess.TimeoutExpired:
            self._give_up(child)
            return f"{node} cannot be reset: not within {self._timeout_s:g} s"
        if child.returncode:
            return f"{node} cannot be reset: {said.strip() or f'its child ended with {child.returncode}'}"
        return None

    def _give_up(self, child: subprocess.Popen[str]) -> None:
        """End ``child``; one in uninterruptible sleep stays, and no other one comes to it."""
        child.kill()
        if child.stdout is not None:
            child.stdout.close()
        try:
            child.wait(_END_S)
        except subprocess.TimeoutExpired:
            self._stuck = child
