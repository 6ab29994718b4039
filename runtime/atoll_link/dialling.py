"""Opens a socket in a thread of its own, so that whoever steps a session goes on meanwhile.

To look up a name has no deadline, and TCP, TLS and WebSocket have one each.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any, Final

_QUICK_S: Final = 0.02
"""So long the owner waits nevertheless: a broker near by is connected in the same step."""
_LONGEST_S: Final = 30.0


class Dialling:
    """One attempt; begins at once. The descriptor is readable when it has ended.

    Raises:
        OSError: There is no descriptor or no thread left for it.
    """

    def __init__(self, dial: Callable[[], Any]) -> None:
        self.until = time.monotonic() + _LONGEST_S
        """When it is given up, on the monotonic clock."""
        self._dial = dial
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._is_given_up = False
        self._sock: Any = None
        self._failure: BaseException | None = None
        self._read, self._write = socket.socketpair()
        try:
            threading.Thread(target=self._run, name="dial", daemon=True).start()
        except RuntimeError as error:
            self._free()
            raise OSError(f"no thread to connect in: {error}") from error
        self._ended.wait(_QUICK_S)

    def fileno(self) -> int:
        """Return the descriptor to wait for."""
        return self._read.fileno()

    def take(self) -> Any:
        """Return the socket, which is the caller's from now on; None: it has not ended.

        Raises:
            OSError: There is no connection, or there was none for too long. Others: what ``dial`` raises.
        """
        with self._lock:  # it tells of its end in two steps, and the first may have woken the caller
            has_ended = self._ended.is_set()
        if not has_ended:
            if time.monotonic() < self.until:
                return None
            self.give_up()
            raise TimeoutError(f"no connection within {_LONGEST_S:.0f} s: is its name found?")
        self._free()
        if self._failure is not None:
            raise self._failure
        sock, self._sock = self._sock, None
        return sock

    def give_up(self) -> None:
        """Take no interest any more: a socket that is opened or opens later is closed."""
        with self._lock:
            self._is_given_up = True
            if self._sock is not None:
                self._sock.close()
        self._free()

    def _run(self) -> None:
        sock = failure = None
        try:
            sock = self._dial()
        except BaseException as error:  # noqa: BLE001 - take() raises it where somebody heeds it
            failure = error
        with self._lock:
            if self._is_given_up:
                if sock is not None:
                    sock.close()
                return
            self._sock, self._failure = sock, failure
            self._write.send(b"\0")
            self._ended.set()

    def _free(self) -> None:
        self._read.close()
        self._write.close()
