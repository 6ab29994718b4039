"""What a step of a session may return."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec


@dataclass(frozen=True, slots=True)
class Connected:
    """The broker accepted the connection; subscriptions are on their way."""

    connection: int
    session_present: bool


@dataclass(frozen=True, slots=True)
class Disconnected:
    """The connection is gone, or an attempt to connect failed. QoS 0 messages not yet sent are lost.

    Attributes:
        detail: For people.
        was_connected: Whether the connection stood before.
        was_refused: Whether the broker refused CONNECT: a wrong login, say.
    """

    detail: str
    was_connected: bool
    was_refused: bool = False


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """A message that arrived.

    Attributes:
        topic: Where it was published; empty when it was no UTF-8, so that it can be refused and
            acknowledged.
        payload: Its bytes; cut off when the packet is longer than the session's ``max_packet_bytes``.
        qos: Quality of service of the delivery.
        mid: Packet id to acknowledge, for QoS 1.
        is_duplicate: The DUP flag: the broker sent it before.
        is_retained: The broker had kept it.
        connection: Number of the connection it arrived on.
        arrival_ms: Wall clock, milliseconds since the epoch.
        arrival_ns: Monotonic clock, for latencies.
    """

    topic: str
    payload: bytes
    qos: int
    mid: int
    is_duplicate: bool
    is_retained: bool
    connection: int
    arrival_ms: float
    arrival_ns: int


class Published(msgspec.Struct, frozen=True, gc=False):
    """The broker acknowledged this QoS 1 message, or the network took this QoS 0 message.

    Attributes:
        mid: The number that ``publish`` returned; no packet id.
    """

    mid: int


class Refused(msgspec.Struct, frozen=True, gc=False):
    """The broker does not take this message, and it is not sent again. Only with MQTT 5.

    Attributes:
        mid: The number that ``publish`` returned; no packet id.
        detail: Why, for people: an access rule, a limit.
        is_passing: Whether the broker may take the same later: a quota, say.
    """

    mid: int
    detail: str
    is_passing: bool = False


@dataclass(frozen=True, slots=True)
class Subscribed:
    """The broker answered a subscription.

    Attributes:
        topic_filter: What was subscribed to.
        refused: Whether the broker refused it.
        detail: Why, for people, if it tells.
    """

    topic_filter: str
    refused: bool
    detail: str = ""


Event = Connected | Disconnected | Delivery | Published | Refused | Subscribed
