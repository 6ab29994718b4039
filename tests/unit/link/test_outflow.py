"""Kept messages, as a model with random publishing, acknowledging and reconnecting."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from atoll_link.outflow import Outflow
from atoll_link.packets import PacketBuffer, Publish, unpack_publish

MAX_INFLIGHT = 3
MAX_KEPT = 8


def publishes(outflow: Outflow) -> list[Publish]:
    buffer = PacketBuffer(1000)
    for packet in outflow.due():
        buffer.feed(packet)
    found = []
    while (packet_ := buffer.take()) is not None:
        found.append(unpack_publish(*packet_))
    return found


class OutflowModel(RuleBasedStateMachine):
    """The broker's view: a list of what it has been sent on this connection and not acknowledged."""

    def __init__(self) -> None:
        super().__init__()
        self.outflow = Outflow(MAX_INFLIGHT, MAX_KEPT)
        self.next_number = 1
        self.kept: list[int] = []
        self.underway: dict[int, int] = {}
        self.first_mid: dict[int, int] = {}

    @rule()
    def publish(self) -> None:
        assert self.outflow.has_room == (len(self.kept) < MAX_KEPT)
        if self.outflow.has_room:
            self.outflow.keep(self.next_number, "t", b"%d" % self.next_number, retain=False)
            self.kept.append(self.next_number)
            self.next_number += 1

    @rule()
    def send(self) -> None:
        for sent in publishes(self.outflow):
            number = int(sent.payload)
            assert sent.qos == 1
            assert 1 <= sent.mid <= 65_535
            assert sent.mid not in self.underway
            assert sent.is_duplicate == (number in self.first_mid)
            assert self.first_mid.setdefault(number, sent.mid) == sent.mid
            self.underway[sent.mid] = number
        # All that may be under way is, and in the order of publishing.
        assert list(self.underway.values()) == self.kept[: len(self.underway)]
        assert len(self.underway) == min(MAX_INFLIGHT, len(self.kept))

    @precondition(lambda self: self.underway)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        mid = data.draw(st.sampled_from(sorted(self.underway)))
        number = self.underway.pop(mid)
        assert self.outflow.acknowledge(mid) == number
        assert self.outflow.acknowledge(mid) is None
        self.kept.remove(number)

    @rule()
    def reconnect(self) -> None:
        self.outflow.start_over()
        self.underway.clear()

    @invariant()
    def nothing_beyond_the_window(self) -> None:
        assert len(self.underway) <= MAX_INFLIGHT


OutflowModel.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestOutflow = OutflowModel.TestCase


def test_an_acknowledgement_of_nothing_is_none() -> None:
    assert Outflow(1, 1).acknowledge(7) is None


def test_packet_ids_go_round_without_zero_and_without_one_in_use() -> None:
    outflow = Outflow(2, 10)
    outflow.keep(0, "t", b"", retain=False)
    [stuck] = publishes(outflow)
    seen = []
    for number in range(1, 65_540):
        outflow.keep(number, "t", b"", retain=False)
        [sent] = publishes(outflow)
        seen.append(sent.mid)
        assert outflow.acknowledge(sent.mid) == number

    assert stuck.mid not in seen
    assert 0 not in seen
    assert max(seen) == 65_535
    assert len(set(seen)) == 65_534


@pytest.mark.parametrize("max_inflight", [0, -1, 65_536])
def test_a_window_that_has_no_ids_is_refused(max_inflight: int) -> None:
    with pytest.raises(ValueError, match="max_inflight"):
        Outflow(max_inflight, 10)
