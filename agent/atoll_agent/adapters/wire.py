"""The lane's connections: one persistent session for each stream, acknowledged by hand."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Final

import structlog

from atoll_agent.ports import LanePlan, Wire
from atoll_contract.errors import ConfigError
from atoll_link.session import Broker, Connected, Session
from atoll_link.waiting import Waiter

log = structlog.get_logger()

_MAX_INFLIGHT: Final = 1000
_FEW: Final = 20
"""Of large messages a broker with MQTT 5 sends no more ahead; with 3.1.1 it has a setting of its own."""


class StreamWires:
    """Implements ``ports.Waiter`` for the sessions of streams.

    The client id of a session is ``{prefix}-{stream}-{token}``. Only :meth:`make`, :meth:`unmake` and
    :meth:`wake` may be called by other threads than the one that waits.
    """

    def __init__(self, broker: Broker, prefix: str, token: str) -> None:
        self._broker = broker
        self._prefix = prefix
        self._token = token
        self._made: dict[str, Session] = {}
        self._sessions: dict[str, Session] = {}
        self._filters: dict[str, list[str]] = {}
        self._leaving: dict[Session, str] = {}
        self._left: set[str] = set()
        """Streams whose sessions this process has ended, or is about to."""
        self._waiter: Waiter[Session] = Waiter([])

    def make(self, streams: Iterable[str], large: Collection[str] = ()) -> None:
        """Make the sessions of new streams, which :meth:`rewire` puts to use.

        The messages of those in ``large`` are large: few of them are taken ahead.

        Raises:
            ConfigError: The files for TLS cannot be read.
        """
        for stream in streams:
            self._made[stream] = Session(
                self._broker,
                self._client_id(stream),
                is_clean=False,
                acknowledges_by_hand=True,
                max_inflight=_MAX_INFLIGHT,
                receive_maximum=_FEW if stream in large else _MAX_INFLIGHT,
            )

    def unmake(self) -> None:
        """Free the sessions that were made and not put to use."""
        while self._made:
            _, session = self._made.popitem()
            session.close()

    def rewire(self, plan: LanePlan) -> Mapping[str, Wire]:
        """See ``ports.Waiter``."""
        for stream, wanted in plan.filters.items():
            if stream not in self._sessions:
                self._add(stream, plan.left.get(stream, ()))
            self._subscribe(stream, wanted)
        self.unmake()  # of a stream that had left and is back before its session ended
        for stream in self._sessions.keys() - plan.filters.keys():
            self._subscribe(stream, ())
        for stream in plan.left.keys() - self._sessions.keys() - self._left:
            self._leave(stream)
        return {stream: self._sessions[stream] for stream in plan.filters}

    def wait(self, timeout_s: float) -> Sequence[Wire]:
        """Return the wires that need a step, once there is one or ``timeout_s`` have passed."""
        ready = self._waiter.wait(timeout_s)
        if not self._leaving:
            return ready
        leaving = self._leaving.keys() & ready
        for session in leaving:
            if any(isinstance(event, Connected) for event in session.step(0.0)):
                log.info("session.ended", stream=self._leaving[session])
                self._forget(session)
        return [session for session in ready if session not in leaving]

    def wake(self) -> None:
        """Make a waiting :meth:`wait` return; any thread may call it."""
        self._waiter.wake()

    def end(self, stream: str) -> None:
        """See ``ports.Waiter``."""
        self._waiter.remove(self._sessions.pop(stream))
        del self._filters[stream]
        self._leave(stream)

    def _add(self, stream: str, left: Iterable[str]) -> None:
        """Put the session made for ``stream`` to use, and have the broker forget what is ``left``."""
        for leaving, name in list(self._leaving.items()):
            if name == stream:  # it would take the client id away from the new one
                self._forget(leaving)
        self._left.discard(stream)
        session = self._made.pop(stream)
        for topic_filter in left:
            session.subscribe(topic_filter)
            session.unsubscribe(topic_filter)
        self._sessions[stream], self._filters[stream] = session, []
        self._waiter.add(session)

    def _subscribe(self, stream: str, wanted: Collection[str]) -> None:
        session, before = self._sessions[stream], self._filters[stream]
        for topic_filter in wanted:
            if topic_filter not in before:
                session.subscribe(topic_filter, qos=1)
        for topic_filter in before:
            if topic_filter not in wanted:
                session.unsubscribe(topic_filter, once_answered=True)
        self._filters[stream] = list(wanted)

    def _leave(self, stream: str) -> None:
        """End the session at the broker: a clean connection is the end of a persistent session."""
        try:
            session = Session(self._broker, self._client_id(stream))
        except ConfigError as error:  # the files for TLS have just gone; the next start ends it
            log.warning("session.left", stream=stream, detail=error.detail)
            return
        self._left.add(stream)
        self._leaving[session] = stream
        self._waiter.add(session)

    def _forget(self, session: Session) -> None:
        self._waiter.remove(session)
        session.close(0.0)  # all other streams wait
        del self._leaving[session]

    def _client_id(self, stream: str) -> str:
        return f"{self._prefix}-{stream}-{self._token}"
