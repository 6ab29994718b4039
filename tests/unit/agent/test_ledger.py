from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from atoll_agent.lane.ledger import Ledger
from atoll_link.session import Delivery


def delivery(number: int, *, is_duplicate: bool = False, connection: int = 1) -> Delivery:
    return Delivery("t", b"%d" % number, 1, number, is_duplicate, False, connection, 0.0, 0)


@given(st.permutations(range(12)), st.data())
def test_acknowledgements_leave_in_order_whatever_the_order_of_the_pubacks(order, data):
    ledger = Ledger()
    promised = data.draw(st.lists(st.integers(0, 2), min_size=6, max_size=6))
    mids = iter(range(1, 100))
    outstanding = []
    for number, count in enumerate(promised):
        entry = ledger.arrive(delivery(number))
        for _ in range(count):
            entry.outstanding += 1
            mid = next(mids)
            ledger.sent(entry, mid)
            outstanding.append(mid)

    left = [item.mid for item in ledger.due()]
    for index in order:
        if index < len(outstanding):
            ledger.settle(outstanding[index])
            left += [item.mid for item in ledger.due()]

    assert left == list(range(6))
    assert ledger.outstanding == ledger.waiting == 0


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.booleans()), max_size=60))
def test_each_reading_is_answered_once_over_any_number_of_reconnects(steps):
    """A model of a broker: it sends again, with DUP, what was not acknowledged."""
    ledger, answered, unacknowledged, connection = Ledger(), [], [], 1
    for number, (_, acknowledges, reconnects) in enumerate(steps):
        unacknowledged.append(number)
        if ledger.arrive(delivery(number, connection=connection)) is not None:
            answered.append(number)
        if acknowledges:
            # The acknowledgement leaves, and may be lost with the connection.
            ledger.due()
            if not reconnects:
                unacknowledged.clear()
        if reconnects:
            connection += 1
            ledger.reconnect(session_present=True)
            for again in unacknowledged:
                assert ledger.arrive(delivery(again, is_duplicate=True, connection=connection)) is None

    assert answered == list(range(len(steps)))


def test_after_a_lost_session_nothing_is_taken_for_a_redelivery():
    ledger = Ledger()
    ledger.arrive(delivery(1))

    ledger.reconnect(session_present=False)

    assert ledger.arrive(delivery(1, is_duplicate=True, connection=2)) is not None
