"""Waits on several sessions at once."""

from __future__ import annotations

import select
import socket
from collections.abc import Sequence
from contextlib import suppress

from atoll_link.session import Session


class Waiter:
    """Waits on several sessions at once; only :meth:`wake` may be called by other threads."""

    def __init__(self, sessions: Sequence[Session]) -> None:
        self._sessions = list(sessions)
        self._wake_read, self._wake_write = socket.socketpair()
        for end in (self._wake_read, self._wake_write):
            end.setblocking(False)

    def remove(self, session: Session) -> None:
        self._sessions.remove(session)

    def wait(self, timeout_s: float) -> list[Session]:
        poll = select.poll()
        poll.register(self._wake_read, select.POLLIN)
        idle = 1.0
        for session in self._sessions:
            if session.fileno() >= 0:
                poll.register(
                    session.fileno(), select.POLLIN | (select.POLLOUT if session._client.want_write() else 0)
                )
            else:
                idle = 0.05
            if session._events:
                idle = 0.0
        poll.poll(min(timeout_s, idle) * 1e3)
        with suppress(BlockingIOError):
            self._wake_read.recv(4096)
        return self._sessions

    def wake(self) -> None:
        with suppress(OSError):
            self._wake_write.send(b"\0")
