"""Packets on their way to the socket, written in any pieces."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from atoll_link.outbox import Outbox

packets = st.lists(st.tuples(st.binary(min_size=1, max_size=20), st.booleans()), max_size=30)


@given(packets, st.data())
def test_all_is_written_in_order_and_each_number_told_with_its_last_byte(
    queued: list[tuple[bytes, bool]], data: st.DataObject
) -> None:
    outbox = Outbox()
    ends: dict[int, int] = {}
    stream = written = b""
    told: list[int] = []
    waiting = list(enumerate(queued, 1))
    while waiting or outbox.size:
        for number, (packet, has_number) in waiting[
            : (count := data.draw(st.integers(min(1, len(waiting)), 5)))
        ]:
            outbox.put(packet, number if has_number else 0)
            stream += packet
            if has_number:
                ends[number] = len(stream)
        del waiting[:count]
        assert outbox.head() == stream[len(written) :]
        size = data.draw(st.integers(0 if waiting else 1, outbox.size))
        written += bytes(outbox.head())[:size]
        told += outbox.drop(size)
        assert outbox.size == len(stream) - len(written)
        assert told == [number for number, end in ends.items() if end <= len(written)]

    assert written == stream


def test_the_head_is_bounded_and_grows_only_at_its_end() -> None:
    """TLS and WebSocket want to be handed the same bytes again when they could not write them."""
    outbox = Outbox()
    for _ in range(3):
        outbox.put(b"x" * 100_000)
    first = bytes(outbox.head())
    outbox.put(b"y" * 1_000_000)

    assert len(first) <= 300_000
    assert bytes(outbox.head()).startswith(first)
    written = 0
    while outbox.size:
        size = len(outbox.head())
        assert size <= 262_144
        written += size
        outbox.drop(size)
    assert written == 1_300_000
