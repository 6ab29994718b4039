"""The lane's connections: one persistent session for each stream, acknowledged by hand."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Final

import structlog

from atoll_agent.ports import Wire
from atoll_link.session import Broker, Connected, Session
from atoll_link.waiting import Waiter

log = structlog.get_logger()

_MAX_INFLIGHT: Final = 1000
_FEW: Final = 20
"""Of large messages a broker with MQTT 5 sends no more ahead; with 3.1.1 it has a setting of its own."""


class StreamWires:
    """Implements ``ports.Waiter`` for the sessions of the streams in ``filters``.

    The client id of a session is ``{prefix}-{stream}-{token}``. ``left`` are the topic filters of
    earlier settings, by stream, which the broker is told to forget; the session of a stream that is
    gone is ended. The messages of streams in ``large`` are large: few of them are taken ahead.

    Attributes:
        by_stream: The sessions.
    """

    def __init__(
        self,
        broker: Broker,
        prefix: str,
        token: str,
        filters: Mapping[str, Collection[str]],
        *,
        left: Mapping[str, Collection[str]],
        large: Collection[str] = (),
    ) -> None:
        self.by_stream: dict[str, Session] = {}
        for stream, wanted in filters.items():
            session = Session(
                broker,
                f"{prefix}-{stream}-{token}",
                is_clean=False,
                acknowledges_by_hand=True,
                max_inflight=_MAX_INFLIGHT,
                receive_maximum=_FEW if stream in large else _MAX_INFLIGHT,
            )
            for topic_filter in wanted:
                session.subscribe(topic_filter, qos=1)
            for topic_filter in left.get(stream, ()):
                session.subscribe(topic_filter)
                session.unsubscribe(topic_filter)
            self.by_stream[stream] = session
        # A clean connection is the end of a persistent session.
        self._leaving = {
            Session(broker, f"{prefix}-{stream}-{token}"): stream for stream in left if stream not in filters
        }
        self._waiter = Waiter([*self.by_stream.values(), *self._leaving])

    def wait(self, timeout_s: float) -> Sequence[Wire]:
        """Return the wires that need a step, once there is one or ``timeout_s`` have passed."""
        ready = self._waiter.wait(timeout_s)
        if not self._leaving:
            return ready
        leaving = self._leaving.keys() & ready
        for session in leaving:
            self._leave(session)
        return [session for session in ready if session not in leaving]

    def wake(self) -> None:
        """Make a waiting :meth:`wait` return; any thread may call it."""
        self._waiter.wake()

    def _leave(self, session: Session) -> None:
        if any(isinstance(event, Connected) for event in session.step(0.0)):
            self._waiter.remove(session)
            session.close()
            log.info("session.ended", stream=self._leaving.pop(session))
