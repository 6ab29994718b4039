"""Kept messages, as a model with random publishing, acknowledging and reconnecting."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from atoll_link.events import Delivery, Refused
from atoll_link.limits import BrokerLimits
from atoll_link.outflow import MOST_IDS, Outflow
from atoll_link.packets import Level, PacketBuffer, PublishReader

MAX_INFLIGHT = 5
MAX_KEPT = 12


LEVEL = Level.MQTT_5
TOPIC = b"\0\1t"


def read(packets: Iterable[bytes]) -> list[Delivery]:
    buffer, reader = PacketBuffer(1000), PublishReader(1, LEVEL, 1000)
    return [reader.read(*packet) for sent in packets for packet in buffer.feed(sent)]


class OutflowModel(RuleBasedStateMachine):
    """The broker's view: a list of what it has been sent on this connection and not acknowledged."""

    def __init__(self) -> None:
        super().__init__()
        self.outflow = Outflow(MAX_INFLIGHT, MAX_KEPT)
        self.outflow.open(LEVEL, BrokerLimits(), session_present=False)
        self.next_number = 1
        self.kept: list[int] = []
        self.underway: dict[int, int] = {}
        self.first_mid: dict[int, int] = {}
        self.window = MAX_INFLIGHT

    @rule()
    def publish(self) -> None:
        assert self.outflow.has_room == (len(self.kept) < MAX_KEPT)
        if self.outflow.has_room:
            packet = self.outflow.publish(self.next_number, TOPIC, b"%d" % self.next_number, retain=False)
            self.kept.append(self.next_number)
            self.next_number += 1
            self.note([] if packet is None else [packet])

    @rule()
    def send(self) -> None:
        self.note(self.outflow.due())
        # Half a window is under way, if there is so much.
        assert len(self.underway) >= min(self.window // 2 + (self.window > 0), len(self.kept))

    def note(self, packets: Iterable[bytes]) -> None:
        for sent in read(packets):
            number = int(sent.payload)
            assert sent.qos == 1
            assert 1 <= sent.mid <= 65_535
            assert sent.mid not in self.underway
            assert sent.is_duplicate == (number in self.first_mid)
            assert self.first_mid.setdefault(number, sent.mid) == sent.mid
            self.underway[sent.mid] = number
        # In the order of publishing.
        assert list(self.underway.values()) == self.kept[: len(self.underway)]

    @precondition(lambda self: self.underway)
    @rule(data=st.data())
    def acknowledge(self, data: st.DataObject) -> None:
        mid = data.draw(st.sampled_from(sorted(self.underway)))
        number = self.underway.pop(mid)
        assert self.outflow.acknowledge(mid) == number
        assert self.outflow.acknowledge(mid) is None
        self.kept.remove(number)

    @rule()
    def disconnect(self) -> None:
        self.outflow.close()
        self.underway.clear()
        self.window = 0

    @precondition(lambda self: self.window == 0)
    @rule(allowed=st.integers(1, MAX_INFLIGHT + 1), session_present=st.booleans())
    def connect(self, *, allowed: int, session_present: bool) -> None:
        self.outflow.open(LEVEL, BrokerLimits(max_inflight=allowed), session_present=session_present)
        self.window = min(allowed, MAX_INFLIGHT)
        if not session_present:
            self.first_mid.clear()

    @invariant()
    def nothing_beyond_the_window(self) -> None:
        assert len(self.underway) <= MAX_INFLIGHT


OutflowModel.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestOutflow = OutflowModel.TestCase


def test_what_has_waited_leaves_half_a_window_at_a_time() -> None:
    outflow = Outflow(4, 100)
    outflow.open(LEVEL, BrokerLimits(), session_present=False)
    for number in range(10):
        outflow.publish(number, TOPIC, b"%d" % number, retain=False)
    left = []
    for mid in range(1, 7):
        outflow.acknowledge(mid)
        left.append([delivery.payload for delivery in read(outflow.due())])

    assert left == [[], [b"4", b"5"], [], [b"6", b"7"], [], [b"8", b"9"]]


def test_an_acknowledgement_of_nothing_is_none() -> None:
    assert Outflow(1, 1).acknowledge(7) is None


def test_packet_ids_go_round_without_zero_and_without_one_in_use() -> None:
    outflow = Outflow(2, 10)
    outflow.open(LEVEL, BrokerLimits(), session_present=False)
    [stuck] = read([outflow.publish(0, TOPIC, b"", retain=False) or b""])
    seen = []
    for number in range(1, 65_540):
        [sent] = read([outflow.publish(number, TOPIC, b"", retain=False) or b""])
        seen.append(sent.mid)
        assert outflow.acknowledge(sent.mid) == number

    assert stuck.mid not in seen
    assert 0 not in seen
    assert max(seen) == MOST_IDS
    assert len(set(seen)) == MOST_IDS - 1


@pytest.mark.parametrize(
    ("limits", "told"),
    [
        (BrokerLimits(max_packet_bytes=107), "108 bytes are more than the 107 that the broker takes"),
        (BrokerLimits(retains=False), "the broker retains nothing"),
        (BrokerLimits(takes_qos_1=False), "the broker takes QoS 0 only"),
    ],
)
@pytest.mark.parametrize("is_late", [False, True])
def test_what_the_broker_does_not_take_is_refused_and_forgotten(
    limits: BrokerLimits, told: str, *, is_late: bool
) -> None:
    outflow = Outflow(1, 10)
    if not is_late:
        outflow.open(LEVEL, limits, session_present=False)
    packet = outflow.publish(7, TOPIC, b"x" * 100, retain=True)
    if is_late:
        outflow.open(LEVEL, limits, session_present=False)

    assert packet is None
    assert list(outflow.due()) == []
    assert outflow.refused == [Refused(7, told)]
    assert outflow.acknowledge(1) is None


def test_what_the_broker_just_takes_is_sent() -> None:
    outflow = Outflow(1, 10)
    outflow.open(LEVEL, BrokerLimits(max_packet_bytes=108), session_present=False)
    packet = outflow.publish(7, TOPIC, b"x" * 100, retain=False)

    assert packet is not None
    assert len(packet) == 108


@pytest.mark.parametrize("max_inflight", [0, -1, 65_536])
def test_a_window_that_has_no_ids_is_refused(max_inflight: int) -> None:
    with pytest.raises(ValueError, match="max_inflight"):
        Outflow(max_inflight, 10)


def test_what_is_taken_back_is_not_sent_again_and_the_others_keep_their_ids() -> None:
    outflow = Outflow(2, 10)
    outflow.open(LEVEL, BrokerLimits(), session_present=False)
    for number in (1, 2, 3, 4):
        outflow.publish(number, TOPIC, b"%d" % number, retain=False)
    outflow.close()

    assert outflow.take_back({1, 3, 9}) == [(1, TOPIC, b"1"), (3, TOPIC, b"3")]

    outflow.open(LEVEL, BrokerLimits(), session_present=True)
    sent = read(outflow.due())
    assert [(one.payload, one.mid, one.is_duplicate) for one in sent] == [(b"2", 2, True), (b"4", 3, False)]


def test_what_is_taken_back_while_it_is_under_way_is_not_told_when_it_is_acknowledged() -> None:
    outflow = Outflow(2, 10)
    outflow.open(LEVEL, BrokerLimits(), session_present=False)
    outflow.publish(1, TOPIC, b"1", retain=False)

    assert outflow.take_back([1]) == [(1, TOPIC, b"1")]

    assert outflow.acknowledge(1) is None
    assert not outflow.holds_any
