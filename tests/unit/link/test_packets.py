"""The cutting of a byte stream into packets, and packets that no broker should send."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from atoll_link.packets import (
    Level,
    PacketBuffer,
    PublishReader,
    unpack_puback,
)


def frame(first: int, body: bytes) -> bytes:
    """Spell a packet as the standard does, section 2.2.3."""
    length, encoded = len(body), bytearray()
    while True:
        byte = length % 128
        length //= 128
        encoded.append(byte | 128 if length else byte)
        if not length:
            return bytes((first,)) + bytes(encoded) + body


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
        found += buffer.feed(stream[position : position + size])
        position += size

    assert found == [(first, body[:most]) for first, body in packets]


def test_a_cut_packet_is_there_before_all_of_it_has_arrived_and_the_rest_is_skipped() -> None:
    buffer = PacketBuffer(4)
    whole = frame(0x30, b"abcdefgh")

    assert list(buffer.feed(whole[:7])) == [(0x30, b"abcd")]
    assert list(buffer.feed(whole[7:8])) == []
    assert list(buffer.feed(whole[8:9])) == []
    assert list(buffer.feed(whole[9:] + frame(0x40, b"zz"))) == [(0x40, b"zz")]


def test_a_long_packet_in_small_pieces_is_put_together_once() -> None:
    """A buffer that copies what it holds with each piece takes a minute for this."""
    buffer = PacketBuffer(1 << 23)
    whole = frame(0x30, b"x" * 4_000_000)
    started = time.process_time()
    found = [
        packet for start in range(0, len(whole), 100) for packet in buffer.feed(whole[start : start + 100])
    ]

    assert found == [(0x30, b"x" * 4_000_000)]
    assert time.process_time() - started < 5


def test_a_length_of_five_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="four bytes"):
        list(PacketBuffer(100).feed(b"\x30\xff\xff\xff\xff"))


@given(st.sampled_from(Level), st.integers(0x30, 0x3F), st.binary(max_size=40))
def test_any_body_is_unpacked_or_refused(level: Level, first: int, body: bytes) -> None:
    try:
        found = PublishReader(1, level, 1000).read(first, body)
    except ValueError:
        return
    assert found.qos in {0, 1}
    assert body.endswith(found.payload)


def test_properties_that_were_cut_off_leave_an_empty_payload_and_no_fault() -> None:
    """The packet can be acknowledged: refused, it would come again at each connect."""
    properties = b"\xe8\x07" + b"x" * 1000
    body = (b"\0\1a\0\7" + properties + b"payload")[:500]

    found = PublishReader(1, Level.MQTT_5, 500).read(0x32, body)
    assert (found.topic, found.mid, found.payload) == ("a", 7, b"")
    with pytest.raises(ValueError, match="cut short"):
        PublishReader(1, Level.MQTT_5, 1000).read(0x32, body)


@given(st.binary(max_size=5).filter(lambda body: len(body) != 2))
def test_an_old_acknowledgement_of_another_length_is_refused(body: bytes) -> None:
    with pytest.raises(ValueError, match="PUBACK"):
        unpack_puback(body, Level.MQTT_311)
