from __future__ import annotations

import pytest

from atoll_agent.supervisor.requests import REMEMBERED, Requests
from atoll_contract.errors import Reason, RequestRefusedError
from atoll_contract.requests import Request
from atoll_link.session import Delivery

NOW_MS = 1000.0


class Agent:
    """Takes requests of ``boss``; ``asked`` is what they asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, int | None]] = []
        self.requests = Requests("site", "pi", ["boss"], skip_delay=self._skip_delay)

    def _skip_delay(self, model, release) -> None:
        if model == "idle":
            raise RequestRefusedError("idle: no release waits", Reason.NOTHING_WAITS)
        self.asked.append((model, release))

    def take(
        self, payload=None, *, writer="boss", name="skip_delay", is_retained=False, number=1, **arguments
    ):
        if payload is None:
            payload = Request(
                id=f"t{number}", expires_ms=2000, arguments={"model": "wear"} | arguments
            ).encode()
        topic = f"atoll/v1/site/{writer}/request/pi/{name}"
        return self.requests.heed(Delivery(topic, payload, 1, 1, False, is_retained, 1, 0.0, 0), NOW_MS)


def test_what_a_trusted_writer_asks_is_done_and_answered():
    agent = Agent()

    topic, response = agent.take(release=8)

    assert agent.asked == [("wear", 8)]
    assert str(topic) == "atoll/v1/site/pi/response/boss/skip_delay"
    assert (response.id, response.done, response.reason) == ("t1", True, None)
    assert agent.requests.topic_filter == "atoll/v1/site/+/request/pi/+"


def test_a_request_that_comes_again_is_answered_again_and_not_done_again():
    agent = Agent()

    assert agent.take() == agent.take()
    assert agent.asked == [("wear", None)]


def test_no_more_responses_are_remembered_than_may_be():
    agent = Agent()

    for number in range(REMEMBERED + 1):
        agent.take(number=number)
    agent.take(number=0)

    assert len(agent.asked) == REMEMBERED + 2


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"name": "dance"}, Reason.UNKNOWN_REQUEST),
        ({"model": 3}, Reason.UNKNOWN_REQUEST),
        ({"release": "8"}, Reason.UNKNOWN_REQUEST),
        ({"release": 8.5}, Reason.UNKNOWN_REQUEST),
        ({"release": True}, Reason.UNKNOWN_REQUEST),
        ({"model": "idle"}, Reason.NOTHING_WAITS),
        ({"payload": Request(id="t", expires_ms=1000).encode()}, Reason.EXPIRED),
    ],
)
def test_what_cannot_be_done_is_refused_with_a_reason(options, reason):
    agent = Agent()

    _, response = agent.take(**options)

    assert (response.done, response.reason, agent.asked) == (False, reason, [])
    assert agent.requests.refusals == {reason: 1}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"writer": "stranger"}, Reason.UNTRUSTED_WRITER),
        ({"is_retained": True}, Reason.RETAINED),
        ({"payload": b"{"}, Reason.MALFORMED_PAYLOAD),
        ({"name": "no name"}, Reason.MALFORMED_TOPIC),
    ],
)
def test_what_is_no_request_of_a_trusted_writer_gets_no_answer_and_is_counted(options, reason):
    agent = Agent()

    assert agent.take(**options) is None
    assert (agent.requests.refusals, agent.asked) == ({reason: 1}, [])
