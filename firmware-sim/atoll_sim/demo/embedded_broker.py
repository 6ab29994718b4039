"""An amqtt broker on a loopback port: ``python -m atoll_sim.demo.embedded_broker PORT``."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

from amqtt.broker import Broker
from amqtt.mqtt.connect import ConnectPacket, ConnectPayload, ConnectVariableHeader
from amqtt.mqtt.disconnect import DisconnectPacket
from amqtt.mqtt.protocol.broker_handler import BrokerProtocolHandler
from amqtt.session import Session

_LEVEL: Final = 4
MOST_HELD: Final = 1000
"""Messages kept for a client that is away; those that come later are dropped. As Mosquitto does."""
_PASS_ON_S: Final = 60.0  # amqtt's loop for a client can die, and then nobody empties its queue


class EmbeddedBroker(Broker):  # type: ignore[misc]  # amqtt is untyped
    """An amqtt broker that passes on all that it has acknowledged, and nothing that nobody asked for.

    amqtt acknowledges a message when it has read it, passes it on later, and drops those that still
    wait when it reads that their sender leaves. From Python 3.12 on a burst is read faster than it
    is passed on: a sender that left with its last acknowledgement lost half of 300 messages.

    A session it forgets a second after its client has left, unless that had to log in; then it keeps
    what comes meanwhile without bound, sends it as retained messages, which a subscriber takes for
    old, and forgets what is not acknowledged. Where a client comes back before its old connection has
    been seen to end, the end of that counts for the new one, which gets nothing any more. To whoever
    connects it sends the retained messages of every subscription of every client.

    What is in flight when a connection ends is still lost, and what comes while a client is told what
    it has missed may overtake that.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config)
        self._subscriptions = Filters()

    async def _authenticate(self, session: Session, listener: Any) -> bool:
        is_allowed: bool = await super()._authenticate(session, listener)
        session.is_anonymous = False
        return is_allowed

    async def _retain_broadcast_message(
        self, broadcast: dict[str, Any], qos: int, target_session: Session
    ) -> None:
        if target_session.retained_messages.qsize() < MOST_HELD:
            await super()._retain_broadcast_message(broadcast, qos, target_session)

    async def _publish_session_retained_messages(self, session: Session) -> None:
        if not session.transitions.is_connected():  # the connection before ended while this one began
            session.transitions.connect()
        handler = self._get_handler(session)
        held = session.retained_messages
        sent: dict[asyncio.Future[Any], Any] = {}
        while handler is not None and not held.empty():
            message = held.get_nowait()
            publish = handler.mqtt_publish(message.topic, message.data, message.qos, retain=False)
            sent[asyncio.ensure_future(publish)] = message
        if sent:
            await asyncio.wait(sent)
        for sending, message in sent.items():
            if sending.cancelled() or sending.exception() is not None:
                held.put_nowait(message)

    async def _handle_disconnect(
        self, client_session: Session, handler: BrokerProtocolHandler, disconnect_waiter: asyncio.Future[Any]
    ) -> None:
        if self._get_handler(client_session) is handler:
            await super()._handle_disconnect(client_session, handler, disconnect_waiter)
        else:
            await self._stop_handler(handler)

    async def _client_message_loop(self, client_session: Session, handler: BrokerProtocolHandler) -> None:
        has_left = handler.wait_disconnect

        async def has_left_and_nothing_waits() -> DisconnectPacket | None:
            packet = await has_left()
            with suppress(TimeoutError):
                await asyncio.wait_for(client_session.delivered_message_queue.join(), _PASS_ON_S)
            return packet

        handler.wait_disconnect = has_left_and_nothing_waits
        await super()._client_message_loop(client_session, handler)

    async def _handle_message_delivery(
        self, client_session: Session, handler: BrokerProtocolHandler, wait_deliver: asyncio.Future[Any]
    ) -> bool:
        try:
            is_valid: bool = await super()._handle_message_delivery(client_session, handler, wait_deliver)
        finally:
            client_session.delivered_message_queue.task_done()
        return is_valid

    async def _publish_retained_messages_for_subscription(
        self, subscription: tuple[str, int], session: Session
    ) -> None:
        if any(subscriber is session for subscriber, _ in self._subscriptions.get(subscription[0], ())):
            await super()._publish_retained_messages_for_subscription(subscription, session)


class Filters(dict[str, Any]):
    """Subscriptions by filter; amqtt walks through them while others subscribe."""

    def __iter__(self) -> Iterator[str]:
        return iter(list(super().__iter__()))

    def items(self) -> Any:
        """Return what there is now."""
        return dict(super().items()).items()


class OwnLevelPayload(ConnectPayload):  # type: ignore[misc]  # amqtt is untyped
    """What follows in a CONNECT of MQTT 3.1.1, and nothing in another.

    amqtt refuses other versions, but not before it has read the properties of MQTT 5 as the length of
    a client id, and waited for that for ever.
    """

    @classmethod
    async def from_stream(
        cls, reader: Any, fixed_header: Any, variable_header: ConnectVariableHeader
    ) -> ConnectPayload:
        """Read it, if it is of this version."""
        if variable_header.proto_level != _LEVEL:
            return ConnectPayload(client_id="", will_topic="", will_message=b"")
        return await super().from_stream(reader, fixed_header, variable_header)


async def serve(port: int) -> None:
    """Serve until SIGTERM or SIGINT ends the process."""
    # At once: there is nothing to keep, and amqtt's own shutdown does not always end.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    ConnectPacket.PAYLOAD = OwnLevelPayload
    broker = EmbeddedBroker(
        {
            "listeners": {"default": {"type": "tcp", "bind": f"127.0.0.1:{port}", "max_connections": 0}},
            "plugins": {"amqtt.plugins.authentication.AnonymousAuthPlugin": {"allow_anonymous": True}},
        }
    )
    await broker.start()
    await asyncio.Event().wait()


if __name__ == "__main__":
    logging.disable(logging.ERROR)
    asyncio.run(serve(int(sys.argv[1])))
