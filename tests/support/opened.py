"""A session and a scripted broker, with the connection standing between them."""

from __future__ import annotations

from support.scripted_broker import Packet, ScriptedBroker
from support.sessions import has, of_kind, step_until

from atoll_link.session import Broker, Connected, Disconnected, Event, Session


class Opened:
    """A session and its peer, with the connection standing."""

    def __init__(
        self, peer: ScriptedBroker, sessions: list[Session], properties: bytes = b"", **options: object
    ) -> None:
        self.peer = peer
        self.session = Session(Broker("127.0.0.1", peer.port), "tested", **options)  # type: ignore[arg-type]
        sessions.append(self.session)
        self.connect(properties=properties)

    def connect(self, *, session_present: bool = False, properties: bytes = b"") -> list[Event]:
        """Let the session connect and the peer accept it, with these properties of CONNACK."""
        self.session._backoff.until = 0.0
        self.connect_packet = self.peer.accept_session(
            self.session, session_present=session_present, properties=properties
        )
        return step_until(self.session, has(Connected))

    def lose(self) -> Disconnected:
        """Let the peer hang up and the session notice."""
        self.peer.hang_up()
        [lost] = of_kind(Disconnected, step_until(self.session, has(Disconnected)))
        return lost

    def send(self, data: bytes) -> list[Event]:
        """Let the peer send more than sockets hold, while the session steps; return its events."""
        events = []
        for start in range(0, len(data), 100_000):
            self.peer.send(data[start : start + 100_000])
            events += self.session.step(0.0)
        return events

    def read(self, kind: int) -> Packet:
        """Step until the peer has the next packet, which must be of this kind."""
        self.session.step(0.0)
        found = self.peer.read()
        assert found.kind == kind
        return found
