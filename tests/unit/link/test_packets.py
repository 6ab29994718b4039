"""The codec of PUBLISH and PUBACK, and the cutting of a byte stream into packets."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll_link.packets import (
    PUBACK,
    PacketBuffer,
    pack_puback,
    pack_publish,
    unpack_puback,
    unpack_publish,
)

topics = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=40)
mids = st.integers(0, 65_535)


def taken(buffer: PacketBuffer) -> list[tuple[int, bytes]]:
    packets = []
    while (packet := buffer.take()) is not None:
        packets.append(packet)
    return packets


def frame(first: int, body: bytes) -> bytes:
    """Spell a packet as the standard does, section 2.2.3."""
    length, encoded = len(body), bytearray()
    while True:
        byte = length % 128
        length //= 128
        encoded.append(byte | 128 if length else byte)
        if not length:
            return bytes((first,)) + bytes(encoded) + body


@given(topic=topics, payload=st.binary(max_size=400), mid=mids, retain=st.booleans(), dup=st.booleans())
def test_what_is_packed_is_unpacked_unchanged(
    *, topic: str, payload: bytes, mid: int, retain: bool, dup: bool
) -> None:
    buffer = PacketBuffer(1 << 20)
    buffer.feed(pack_publish(topic, payload, mid=mid, retain=retain, dup=dup))
    [(first, body)] = taken(buffer)
    found = unpack_publish(first, body)

    assert (found.topic, found.payload, found.mid) == (topic, payload, mid)
    assert found.qos == (1 if mid else 0)
    assert (found.is_retained, found.is_duplicate) == (retain, dup)


@pytest.mark.parametrize("size", [0, 1, 121, 122, 123, 16_376, 16_377, 16_378, 2_097_144, 2_097_145])
def test_lengths_around_each_limit_are_spelt_as_the_standard_says(size: int) -> None:
    body = b"\0\1a\0\7" + b"x" * size

    assert pack_publish("a", b"x" * size, mid=7) == frame(0x32, body)


@given(mids)
def test_an_acknowledgement_is_packed_and_unpacked(mid: int) -> None:
    buffer = PacketBuffer(100)
    buffer.feed(pack_puback(mid))

    [(first, body)] = taken(buffer)
    assert first == PUBACK
    assert unpack_puback(body) == mid


@given(
    st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=300)), max_size=12),
    st.lists(st.integers(1, 200), min_size=1),
    st.integers(5, 400),
)
def test_packets_come_out_alike_however_the_stream_is_split(
    packets: list[tuple[int, bytes]], splits: list[int], most: int
) -> None:
    stream = b"".join(frame(*packet) for packet in packets)
    buffer = PacketBuffer(most)
    found = []
    position = turn = 0
    while position < len(stream):
        size = splits[turn % len(splits)]
        turn += 1
        buffer.feed(stream[position : position + size])
        position += size
        found += taken(buffer)

    assert found == [(first, body[:most]) for first, body in packets]


def test_a_cut_packet_is_there_before_all_of_it_has_arrived_and_the_rest_is_skipped() -> None:
    buffer = PacketBuffer(4)
    whole = frame(0x30, b"abcdefgh")
    buffer.feed(whole[:7])
    assert taken(buffer) == [(0x30, b"abcd")]
    buffer.feed(whole[7:9])
    assert taken(buffer) == []
    buffer.feed(whole[9:] + frame(0x40, b"zz"))
    assert taken(buffer) == [(0x40, b"zz")]


def test_a_length_of_five_bytes_is_refused() -> None:
    buffer = PacketBuffer(100)
    buffer.feed(b"\x30\xff\xff\xff\xff")

    with pytest.raises(ValueError, match="four bytes"):
        buffer.take()


def test_a_cleared_buffer_starts_afresh_even_in_the_middle_of_a_cut_packet() -> None:
    buffer = PacketBuffer(2)
    buffer.feed(frame(0x30, b"abcdefgh")[:6])
    taken(buffer)
    buffer.clear()
    buffer.feed(frame(0x40, b"xy"))

    assert taken(buffer) == [(0x40, b"xy")]


@given(st.integers(0x30, 0x3F), st.binary(max_size=40))
def test_any_body_is_unpacked_or_refused(first: int, body: bytes) -> None:
    try:
        found = unpack_publish(first, body)
    except ValueError:
        return
    assert found.qos in {0, 1}
    assert body.endswith(found.payload)


@given(st.binary(max_size=5).filter(lambda body: len(body) != 2))
def test_an_acknowledgement_of_another_length_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="PUBACK"):
        unpack_puback(body)
