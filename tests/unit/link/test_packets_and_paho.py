"""Our PUBLISH and PUBACK against paho's: its client runs as it is, with buffers in place of a socket."""

from __future__ import annotations

from typing import Any

import paho.mqtt.client as paho
import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import MQTTErrorCode
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode

from atoll_link.events import Delivery
from atoll_link.packets import (
    NO_PROPERTIES,
    PUBLISH,
    Level,
    PacketBuffer,
    PublishReader,
    pack_puback,
    pack_publish,
    unpack_puback,
)
from atoll_link.topic_cache import EncodedTopics

CONNECTION, ARRIVAL_MS, ARRIVAL_NS = 3, 17.0, 19

levels = st.sampled_from(Level)
topics = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0+#"), min_size=1, max_size=40)
payloads = st.binary(max_size=400)
mids = st.integers(1, 65_535)


class Reference(paho.Client):
    """paho with two buffers in place of its socket."""

    def __init__(self, level: Level) -> None:
        super().__init__(CallbackAPIVersion.VERSION2, "reference", protocol=paho.MQTTProtocolVersion(level))
        self._sock = self  # type: ignore[assignment]  # it is only asked whether there is one
        self.arriving = bytearray()
        self.written = bytearray()
        self.messages: list[paho.MQTTMessage] = []
        self.acknowledged: list[tuple[int, int]] = []
        self.on_message = lambda _client, _userdata, message: self.messages.append(message)
        self.on_publish = lambda _client, _userdata, mid, reason, _properties: self.acknowledged.append(
            (mid, reason.value)
        )

    def _sock_recv(self, bufsize: int) -> bytes:
        if not self.arriving:
            raise BlockingIOError
        received = bytes(self.arriving[:bufsize])
        del self.arriving[:bufsize]
        return received

    def _sock_send(self, buf: bytes | bytearray) -> int:
        self.written += buf
        return len(buf)

    def _sock_close(self) -> None:
        self._sock = None

    def pack(
        self,
        topic: str,
        payload: bytes,
        mid: int,
        properties: Properties | None = None,
        *,
        retain: bool = False,
        dup: bool = False,
    ) -> bytes:
        """Return what it sends to publish this."""
        info = paho.MQTTMessageInfo(mid)
        self._send_publish(mid, topic.encode(), payload, min(mid, 1), retain, dup, info, properties)
        return bytes(self.written)

    def read(self, stream: bytes) -> bool:
        """Read one packet; whether it was one."""
        self.arriving += stream
        return self.loop_read() is MQTTErrorCode.MQTT_ERR_SUCCESS and not self.arriving


def ours(stream: bytes, level: Level) -> Delivery:
    [(first, body)] = PacketBuffer(1 << 20).feed(stream)
    reader = PublishReader(CONNECTION, level, 1 << 20)
    reader.arrive(ARRIVAL_MS, ARRIVAL_NS)
    return reader.read(first, body)


def told(message: paho.MQTTMessage) -> Delivery:
    try:
        topic = message.topic
    except UnicodeDecodeError:
        topic = ""
    return Delivery(
        topic,
        bytes(message.payload),
        message.qos,
        message.mid,
        message.dup,
        message.retain,
        CONNECTION,
        ARRIVAL_MS,
        ARRIVAL_NS,
    )


def frame(first: int, body: bytes) -> bytes:
    packet = bytearray((first,))
    Reference(Level.MQTT_5)._pack_remaining_length(packet, len(body))
    return bytes(packet) + body


@given(
    level=levels, topic=topics, payload=payloads, mid=st.just(0) | mids, retain=st.booleans(), data=st.data()
)
def test_a_publish_is_packed_as_paho_packs_it(
    *, level: Level, topic: str, payload: bytes, mid: int, retain: bool, data: st.DataObject
) -> None:
    dup = mid > 0 and data.draw(st.booleans())

    packed = pack_publish(EncodedTopics()[topic], payload, NO_PROPERTIES[level], mid, retain=retain, dup=dup)

    assert packed == Reference(level).pack(topic, payload, mid, retain=retain, dup=dup)


@pytest.mark.parametrize("level", Level)
@pytest.mark.parametrize(
    "size", [0, 1, 119, 120, 121, 122, 123, 16_374, 16_376, 16_378, 2_097_143, 2_097_145]
)
def test_lengths_around_each_limit_are_spelt_as_paho_spells_them(level: Level, size: int) -> None:
    packed = pack_publish(b"\0\1a", b"x" * size, NO_PROPERTIES[level], 7)

    assert packed == Reference(level).pack("a", b"x" * size, 7)


@given(mids)
def test_a_puback_is_packed_as_paho_packs_it(mid: int) -> None:
    reference = Reference(Level.MQTT_5)
    reference._send_puback(mid)

    assert pack_puback(mid) == reference.written


@st.composite
def properties(draw: st.DrawFn) -> Properties:
    found: Any = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=200)
    choices = {
        "PayloadFormatIndicator": st.integers(0, 1),
        "MessageExpiryInterval": st.integers(0, 0xFFFF_FFFF),
        "ContentType": text,
        "ResponseTopic": text,
        "CorrelationData": st.binary(max_size=50),
        "SubscriptionIdentifier": st.integers(1, 268_435_455),
        "UserProperty": st.tuples(text, text),
    }
    for name in draw(st.lists(st.sampled_from(sorted(choices)), unique=True)):
        setattr(found, name, draw(choices[name]))
    return found


@given(topic=topics, payload=payloads, mid=st.just(0) | mids, found=properties(), data=st.data())
def test_a_publish_with_properties_is_read_without_them(
    *, topic: str, payload: bytes, mid: int, found: Properties, data: st.DataObject
) -> None:
    flags = {"retain": data.draw(st.booleans()), "dup": data.draw(st.booleans())}
    stream = Reference(Level.MQTT_5).pack(topic, payload, mid, found, **flags)
    reader = Reference(Level.MQTT_5)
    assert reader.read(stream)

    assert ours(stream, Level.MQTT_5) == told(reader.messages[0])
    assert ours(stream, Level.MQTT_5).payload == payload


@given(level=levels, flags=st.integers(0, 15), body=st.binary(max_size=40))
def test_whatever_paho_reads_as_a_publish_is_read_alike(level: Level, flags: int, body: bytes) -> None:
    stream = frame(PUBLISH | flags, body)
    reference = Reference(level)
    is_readable = reference.read(stream)
    try:
        found = ours(stream, level)
    except ValueError:
        # QoS 2 is never asked for; everything else that is refused here paho refuses, too.
        assert flags & 4 or not is_readable
    else:
        # paho looks at the properties, too, and at the length of a topic.
        assert not is_readable or found == told(reference.messages[0])


@given(mids, st.sampled_from(sorted(ReasonCode.names)), st.booleans())
def test_whatever_paho_reads_as_a_puback_is_read_alike(mid: int, code: int, has_properties: bool) -> None:  # noqa: FBT001
    reference = Reference(Level.MQTT_5)
    reference._out_messages[mid] = paho.MQTTMessage(mid)
    body = mid.to_bytes(2, "big") + bytes((code,)) + (b"\0" if has_properties else b"")
    is_known = any(PacketTypes.PUBACK in kinds for kinds in ReasonCode.names[code].values())

    assert reference.read(frame(0x40, body)) == is_known
    assert unpack_puback(body, Level.MQTT_5) == (mid, code)
    if is_known:
        assert reference.acknowledged == [(mid, code)]


@given(levels, mids)
def test_a_short_puback_is_read_alike(level: Level, mid: int) -> None:
    reference = Reference(level)
    reference._out_messages[mid] = paho.MQTTMessage(mid)

    assert reference.read(pack_puback(mid))
    assert reference.acknowledged == [unpack_puback(pack_puback(mid)[2:], level)] == [(mid, 0)]


@given(levels, st.binary(max_size=6))
def test_whatever_is_no_puback_to_us_is_none_to_paho(level: Level, body: bytes) -> None:
    reference = Reference(level)
    is_readable = reference.read(frame(0x40, body))
    try:
        unpack_puback(body, level)
    except ValueError:
        assert not is_readable


class Cutter(Reference):
    """Takes the packets that paho cuts out of a stream."""

    def __init__(self) -> None:
        super().__init__(Level.MQTT_5)
        self.packets: list[tuple[int, bytes]] = []

    def _packet_handle(self) -> MQTTErrorCode:
        self.packets.append((self._in_packet["command"], bytes(self._in_packet["packet"])))
        return MQTTErrorCode.MQTT_ERR_SUCCESS


@given(st.lists(st.binary(max_size=200)), st.data())
def test_a_stream_is_cut_into_packets_as_paho_cuts_it(parts: list[bytes], data: st.DataObject) -> None:
    """Well-formed packets and rubbish, in pieces of any size; after a fault nothing counts."""
    stream = b"".join(
        frame(0x30 + number % 0xC0, part) if data.draw(st.booleans()) else part
        for number, part in enumerate(parts)
    )
    cutter, buffer = Cutter(), PacketBuffer(1 << 28)
    cutter.arriving += stream.replace(b"\0", b"\1")  # to paho a first byte of 0 is no byte yet
    found: list[tuple[int, bytes]] = []
    is_refused = False
    rest = bytes(cutter.arriving)
    try:
        while rest:
            size = data.draw(st.integers(1, len(rest)))
            for packet in buffer.feed(rest[:size]):
                found.append(packet)  # noqa: PERF402 - what came before a fault counts
            rest = rest[size:]
    except ValueError:
        is_refused = True
    rc = MQTTErrorCode.MQTT_ERR_SUCCESS
    while cutter.arriving and rc is MQTTErrorCode.MQTT_ERR_SUCCESS:
        rc = cutter._packet_read()

    assert found == cutter.packets
    if rc is MQTTErrorCode.MQTT_ERR_PROTOCOL:
        assert is_refused
    elif is_refused:  # after four bytes of a length that goes on; paho waits for the fifth
        assert rc is MQTTErrorCode.MQTT_ERR_AGAIN
        assert cutter._in_packet["remaining_count"][3] >= 0x80
