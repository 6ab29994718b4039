"""Requests that take a while."""

from __future__ import annotations

from atoll_contract.errors import Reason, RequestRefusedError
from atoll_contract.requests import Request
from atoll_link.events import Delivery
from atoll_link.request_desk import Order, RequestDesk


class Slow:
    """Obeys later."""

    def __init__(self) -> None:
        self.orders: list[Order] = []
        self.desk = RequestDesk("site", "trainer", ["boss"], self._obey)

    def _obey(self, order: Order) -> bool:
        self.orders.append(order)
        return False

    def ask(self, number: int = 1):
        payload = Request(id=f"t{number}", expires_ms=2000.0).encode()
        topic = "atoll/v1/site/boss/request/trainer/promote"
        return self.desk.heed(Delivery(topic, payload, 1, 1, False, False, 1, 0.0, 0), 1000.0)


def test_a_request_that_takes_a_while_is_answered_at_its_end_and_done_once():
    slow = Slow()

    assert slow.ask() is None
    assert slow.ask() is None
    topic, response = slow.desk.finish(slow.orders[0], 1500.0)

    assert len(slow.orders) == 1
    assert str(topic) == "atoll/v1/site/trainer/response/boss/promote"
    assert (response.id, response.done, response.time_ms) == ("t1", True, 1500.0)
    assert slow.ask() == (topic, response)
    assert slow.desk.obeyed == 1


def test_a_request_that_fails_later_is_told_why():
    slow = Slow()
    slow.ask()
    _, response = slow.desk.finish(slow.orders[0], 1500.0, RequestRefusedError("no such release"))

    assert (response.done, response.reason, response.detail) == (
        False,
        Reason.UNKNOWN_REQUEST,
        "no such release",
    )
    assert slow.desk.refusals == {Reason.UNKNOWN_REQUEST: 1}
