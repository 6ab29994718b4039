"""Waits on several sessions at once."""

from __future__ import annotations

import select
import socket
from collections.abc import Iterable
from contextlib import suppress
from typing import Final, Generic, Protocol, TypeVar

_READ: Final = select.POLLIN
_READ_OR_WRITE: Final = select.POLLIN | select.POLLOUT


class Waited(Protocol):
    """What is waited on."""

    @property
    def wants_write(self) -> bool:
        """Whether bytes wait for the socket."""

    def fileno(self) -> int:
        """Return the descriptor of the socket, or -1 when there is none."""

    def due_s(self) -> float:
        """Return after how long it needs a step though nothing arrives."""


WaitedT = TypeVar("WaitedT", bound=Waited)


class Waiter(Generic[WaitedT]):
    """Waits on several sessions at once; only :meth:`wake` may be called by other threads."""

    def __init__(self, sessions: Iterable[WaitedT]) -> None:
        self._sessions = list(sessions)
        self._watched: dict[int, int] = {}
        """By descriptor, what it is watched for."""
        self._wake_read, self._wake_write = socket.socketpair()
        for end in (self._wake_read, self._wake_write):
            end.setblocking(False)
        self._poll = select.poll()
        self._poll.register(self._wake_read, _READ)

    def add(self, session: WaitedT) -> None:
        """Wait for ``session`` too."""
        self._sessions.append(session)

    def remove(self, session: WaitedT) -> None:
        """Wait for ``session`` no longer."""
        self._sessions.remove(session)

    def wait(self, timeout_s: float) -> list[WaitedT]:
        """Return the sessions that need a step, once there is one or ``timeout_s`` have passed.

        It returns earlier, and maybe with none, after :meth:`wake`.
        """
        due_s = max(0.0, min([timeout_s, *[session.due_s() for session in self._sessions]]))
        self._watch()
        ready = {descriptor for descriptor, _ in self._poll.poll(due_s * 1e3)}
        if self._wake_read.fileno() in ready:
            with suppress(BlockingIOError):
                while self._wake_read.recv(4096):
                    pass
        return [session for session in self._sessions if session.fileno() in ready or session.due_s() <= 0]

    def wake(self) -> None:
        """Make a waiting :meth:`wait` return."""
        with suppress(OSError):  # a full pipe wakes as well; after close() there is nobody to wake
            self._wake_write.send(b"\0")

    def close(self) -> None:
        """Free the sockets that :meth:`wake` needs; the sessions stay open."""
        self._wake_read.close()
        self._wake_write.close()

    def _watch(self) -> None:
        wanted = {
            session.fileno(): _READ_OR_WRITE if session.wants_write else _READ for session in self._sessions
        }
        wanted.pop(-1, None)
        if wanted == self._watched:
            return
        for descriptor in self._watched.keys() - wanted.keys():
            self._poll.unregister(descriptor)
        for descriptor, events in wanted.items():
            self._poll.register(descriptor, events)
        self._watched = wanted
