"""Retained topics over a session: fetch by exact topic, put, and prove that what was put is there.

Only exact topics are subscribed: some brokers retain nothing for a wildcard, others drop what does
not fit a client's queue. An acknowledgement proves nothing (a size limit or an access rule may drop
the message behind it): only reading back does.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from itertools import islice
from typing import Final

from atoll_contract.errors import BrokerUnavailableError, NotStoredError
from atoll_link.limits import BrokerLimits
from atoll_link.request import Fetched, Patience, Request, Wanted
from atoll_link.session import (
    Broker,
    Disconnected,
    Published,
    Refused,
    Session,
    Subscribed,
    wait_connected,
)

__all__ = ["Fetched", "Message", "RetainedTopics", "Wanted", "open_topics"]

_ATTEMPTS: Final = 3
_MOST_TIMES_AS_LONG: Final = 10
_PAUSE_S: Final = 0.05

Message = tuple[str, bytes]
"""A topic and what it should retain."""


@contextmanager
def open_topics(
    broker: Broker, client_id: str, witness: str, *, timeout_s: float, max_packet_bytes: int = 4 * 1024 * 1024
) -> Iterator[RetainedTopics]:
    """Open a session for as long as the context lasts and yield its view of the retained topics.

    A broker may accept a connection and then never look at it (amqtt does when another client
    subscribes at that moment): messages are acknowledged and lost. So it has to answer a subscription
    first, or the connection is made anew.

    Args:
        broker: Where the broker is.
        client_id: Of a connection that nobody else has.
        witness: The topic of that subscription.
        timeout_s: Longest wait for a connection, and for the answer.
        max_packet_bytes: Where a longer packet is cut off.

    Raises:
        BrokerUnavailableError: There is no connection, or none that is answered.
    """
    for _ in range(_ATTEMPTS):
        session = Session(broker, client_id, max_packet_bytes=max_packet_bytes)
        try:
            wait_connected(session, timeout_s)
            if _is_answering(session, witness, timeout_s / _ATTEMPTS):
                yield RetainedTopics(session)
                return
        finally:
            session.close()
    raise BrokerUnavailableError(f"{broker} accepts connections and does not answer on them")


class RetainedTopics:
    """Retained topics as seen through one session, which the caller opens, closes and lends."""

    def __init__(self, session: Session) -> None:
        self._session = session

    @property
    def limits(self) -> BrokerLimits:
        """What the broker takes, as far as it tells."""
        return self._session.limits

    def fetch(self, topic: str, *, max_bytes: int, timeout_s: float) -> bytes | None:
        """Return what ``topic`` retains, or None when it is absent, empty or longer than allowed.

        Raises:
            BrokerUnavailableError: There is no connection, or the broker refuses the subscription.
        """
        [fetched] = self.fetch_many([Wanted(topic, max_bytes)], timeout_s=timeout_s)
        return fetched.payload

    def fetch_many(
        self,
        wanted: Iterable[Wanted],
        *,
        timeout_s: float,
        window: int | Callable[[], int] = 8,
        only_retained: bool = False,
    ) -> Generator[Fetched, None, None]:
        """Yield what each of the ``wanted`` topics holds, in the order in which it arrives.

        Topics that were not asked for are ignored.

        Args:
            wanted: Distinct topics; taken as there is room.
            timeout_s: When nothing wanted has arrived for so long, all that is asked for is absent.
            window: Most subscriptions in flight, or what tells how many they are now.
            only_retained: Ignore what is published just now, as that does not prove it is kept.

        Raises:
            BrokerUnavailableError: There is no connection, it breaks again and again (also since the broker
                does not answer a subscription), or the broker refuses one.
        """
        queue = iter(wanted)
        request = Request(self._session, timeout_s, only_retained=only_retained)
        try:
            while True:
                most = window if isinstance(window, int) else window()
                for item in islice(queue, max(0, most - len(request.asked))):
                    request.ask(item)
                if not request.asked:
                    return
                answers = request.step()
                yield from answers
                if answers:
                    request.patience.renew()  # the caller's time does not count
        finally:
            for topic in request.asked:
                self._session.unsubscribe(topic)

    def put_many(self, messages: Iterable[Message], *, timeout_s: float, window: int = 16) -> None:
        """Publish ``messages`` retained and return when all are acknowledged, which proves little.

        What the broker refuses is taken back with the rest of ``messages``; after another error the session
        still holds what was not acknowledged: close it.

        Args:
            messages: Taken as there is room; some dozens, since broken connections are counted.
            timeout_s: Longest time without any acknowledgement.
            window: Most messages in flight.

        Raises:
            NotStoredError: The broker refuses one, or closes the connection again and again when it is
                sent these.
            BrokerUnavailableError: No acknowledgement came in time.
        """
        waiting: dict[int, tuple[str, int]] = {}
        try:
            self._put(iter(messages), waiting, timeout_s, window)
        except NotStoredError:
            self._session.take_back(waiting)  # else it would be sent again at the next connect
            raise

    def _put(
        self, queue: Iterator[Message], waiting: dict[int, tuple[str, int]], timeout_s: float, window: int
    ) -> None:
        patience = Patience(timeout_s)
        while True:
            for topic, payload in islice(queue, window - len(waiting)):
                mid = self._session.publish(topic, payload, qos=1, retain=True)
                if mid is None:
                    raise BrokerUnavailableError(f"{topic} can neither be sent nor kept")
                waiting[mid] = (topic, len(payload))
            if not waiting:
                return
            for event in self._session.step(patience.remaining_s):
                match event:
                    case Published() if waiting.pop(event.mid, None) is not None:
                        # Broken connections go on counting: a Mosquitto that denies the topic
                        # acknowledges one message per connection.
                        patience.extend()
                    case Refused() if event.mid in waiting:
                        raise _refused(waiting[event.mid][0], event.detail)
                    case Disconnected() if waiting and patience.is_lost_with(event):
                        raise _unsendable(*next(iter(waiting.values())))
                    case _:
                        pass
            if waiting and patience.remaining_s <= 0:
                topic, _ = next(iter(waiting.values()))
                why = "" if self._session.is_connected else f" ({patience.last_failure})"
                raise BrokerUnavailableError(f"{topic} was not acknowledged within {timeout_s:g} s{why}")

    def require(self, messages: Sequence[Message], *, timeout_s: float, window: int = 8) -> None:
        """Read ``messages`` back and compare. Use another session than the one that put them.

        Raises:
            NotStoredError: The broker does not hold one of them, or goes on holding other bytes.
            BrokerUnavailableError: There is no connection, or the broker refuses a subscription.
        """
        missing = dict(messages)
        patience = Patience(timeout_s)
        while missing:
            wanted = [Wanted(topic, len(payload)) for topic, payload in missing.items()]
            with closing(
                self.fetch_many(wanted, timeout_s=timeout_s, window=window, only_retained=True)
            ) as found:
                for fetched in found:
                    if fetched.payload == missing[fetched.topic]:
                        del missing[fetched.topic]
                        patience.renew()
                    elif fetched.size_bytes == 0 or patience.remaining_s <= 0:
                        raise _not_stored(fetched, len(missing[fetched.topic]))
            if missing:  # some brokers acknowledge first and store a little later
                self._session.step(_PAUSE_S)


def _is_answering(session: Session, witness: str, timeout_s: float) -> bool:
    session.subscribe(witness)
    patience = Patience(timeout_s)
    end = time.monotonic() + _MOST_TIMES_AS_LONG * timeout_s
    while patience.remaining_s > 0 and time.monotonic() < end:
        for event in session.step(patience.remaining_s):
            if isinstance(event, Subscribed) and event.topic_filter == witness:
                session.unsubscribe(witness)
                return True
            patience.renew()  # amqtt sends others' retained messages first
    return False


def _not_stored(fetched: Fetched, size_bytes: int) -> NotStoredError:
    found = f"{fetched.size_bytes} other bytes" if fetched.size_bytes else "nothing"
    return NotStoredError(
        f"the broker acknowledged {fetched.topic} ({size_bytes} bytes) but holds {found}: check its size "
        "limits (Mosquitto message_size_limit, EMQX retainer.max_payload_size), that it retains messages, "
        "and that this user may read and write the topic"
    )


def _refused(topic: str, why: str) -> NotStoredError:
    return NotStoredError(
        f"the broker refuses {topic}: {why}; check that this user may write the topic, that the broker "
        "retains messages, and its limits"
    )


def _unsendable(topic: str, size_bytes: int) -> NotStoredError:
    return NotStoredError(
        f"the broker closes the connection when it is sent {topic} ({size_bytes} bytes): raise its limit "
        "(Mosquitto max_packet_size, EMQX mqtt.max_packet_size), and check that this user may write the topic"
    )
