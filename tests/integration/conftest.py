"""Fixtures of the session's tests: a broker that does what the test says."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.opened import Opened
from support.scripted_broker import ScriptedBroker, scripted_broker

from atoll_link.session import Session


@pytest.fixture(params=[5, 4], ids=["MQTT 5", "MQTT 3.1.1"])
def peer(request: pytest.FixtureRequest) -> Iterator[ScriptedBroker]:
    """A scripted broker that nobody has connected to."""
    with scripted_broker(request.param) as broker:
        yield broker


@pytest.fixture
def sessions() -> Iterator[list[Session]]:
    """Sessions that are closed at the end, hard: the peer would not answer."""
    opened_by_test: list[Session] = []
    yield opened_by_test
    for session in opened_by_test:
        session.close(timeout_s=0.0)


@pytest.fixture
def opened(peer: ScriptedBroker, sessions: list[Session]) -> Opened:
    """A session that is connected to the peer."""
    return Opened(peer, sessions)
