"""Retained topics over real brokers."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from support import brokers
from support.brokers import RunningBroker
from support.releases import broker_of, put, topics
from support.scripted_broker import DISCONNECT, SUBSCRIBE, ScriptedBroker, scripted_broker

from atoll_contract.errors import BrokerUnavailableError, NotStoredError, Reason
from atoll_link.request import Request
from atoll_link.retained import Fetched, RetainedTopics, Wanted, open_topics
from atoll_link.session import Broker, Session, wait_connected


@pytest.fixture
def retained(any_broker: RunningBroker) -> Iterator[RetainedTopics]:
    """The retained topics of each kind of broker in turn."""
    with topics(any_broker) as found:
        yield found


def test_what_is_retained_is_fetched_and_what_is_absent_is_none(
    any_broker: RunningBroker, retained: RetainedTopics
) -> None:
    put(any_broker, {"a/1": b"one", "a/2": b"two"})

    assert retained.fetch("a/1", max_bytes=3, timeout_s=5) == b"one"
    started = time.monotonic()
    assert retained.fetch("a/3", max_bytes=3, timeout_s=0.3) is None
    assert time.monotonic() - started >= 0.3


def test_a_payload_longer_than_allowed_is_dropped(
    any_broker: RunningBroker, retained: RetainedTopics
) -> None:
    put(any_broker, {"a/1": b"long", "a/2": b"fits"})

    found = {one.topic: one for one in retained.fetch_many([Wanted("a/1", 3), Wanted("a/2", 4)], timeout_s=5)}

    assert found == {"a/1": Fetched("a/1", None, 4), "a/2": Fetched("a/2", b"fits", 4)}
    assert found["a/1"].is_oversized
    assert retained.fetch("a/1", max_bytes=3, timeout_s=5) is None


@contextmanager
def dripping(peer: ScriptedBroker, *, goes_on: bool) -> Iterator[RetainedTopics]:
    """A peer that answers a subscription with a message that takes two seconds, or stops half way."""
    session = Session(Broker("127.0.0.1", peer.port), "tested")
    peer.accept_session(session)
    wait_connected(session, 5)

    def drip() -> None:
        request = peer.read()
        peer.send(peer.suback(request, 1))
        message = peer.publish(b"a", b"x" * 1000, flags=1)
        for start in range(0, len(message) if goes_on else len(message) // 2, 25):
            peer.send(message[start : start + 25])
            time.sleep(0.05)  # the line is slow

    with ThreadPoolExecutor(1) as thread:
        dripping = thread.submit(drip)
        yield RetainedTopics(session)
        dripping.result(5)
    session.close(timeout_s=0.0)


def test_a_message_that_takes_longer_than_the_timeout_is_waited_for_while_it_grows() -> None:
    with scripted_broker() as peer, dripping(peer, goes_on=True) as retained:
        assert retained.fetch("a", max_bytes=1000, timeout_s=1.0) == b"x" * 1000


def test_a_message_that_stops_half_way_is_absent_after_the_timeout() -> None:
    with scripted_broker() as peer, dripping(peer, goes_on=False) as retained:
        started = time.monotonic()
        assert retained.fetch("a", max_bytes=1000, timeout_s=1.0) is None
        assert time.monotonic() - started < 30.0  # a message may take longer, as long as it grows


def test_many_topics_come_in_any_order_through_a_small_window(
    any_broker: RunningBroker, retained: RetainedTopics
) -> None:
    contents = {f"many/{number}": random.Random(number).randbytes(2000) for number in range(100)}
    put(any_broker, contents)

    found = {
        one.topic: one.payload
        for one in retained.fetch_many((Wanted(topic, 2000) for topic in contents), timeout_s=5, window=4)
    }

    assert found == contents


def test_absent_topics_do_not_stop_the_others(any_broker: RunningBroker, retained: RetainedTopics) -> None:
    put(any_broker, {f"some/{number}": b"x" for number in range(0, 30, 3)})

    found = list(retained.fetch_many([Wanted(f"some/{number}", 1) for number in range(30)], timeout_s=0.5))

    assert len(found) == 30
    assert {one.topic for one in found if one.payload} == {f"some/{number}" for number in range(0, 30, 3)}


def test_topics_that_were_not_asked_for_are_ignored(any_broker: RunningBroker) -> None:
    put(any_broker, {"noise/1": b"no", "a/1": b"one"})
    session = Session(broker_of(any_broker), "hand")
    session.subscribe("noise/#")
    with closing(session):
        wait_connected(session, 10)
        found = list(
            RetainedTopics(session).fetch_many([Wanted("a/1", 10), Wanted("a/2", 10)], timeout_s=0.5)
        )

    assert {one.topic: one.payload for one in found} == {"a/1": b"one", "a/2": None}


def test_a_caller_that_stops_early_leaves_no_subscription(
    any_broker: RunningBroker, retained: RetainedTopics
) -> None:
    put(any_broker, {f"some/{number}": b"x" for number in range(20)})

    with closing(
        retained.fetch_many([Wanted(f"some/{number}", 1) for number in range(20)], timeout_s=5)
    ) as found:
        next(found)

    assert retained._session._subscriptions.wanted == []


def test_reading_back_finds_what_is_missing_and_what_differs(
    any_broker: RunningBroker, retained: RetainedTopics
) -> None:
    put(any_broker, {"a/1": b"one", "a/2": b"two"})

    retained.require([("a/1", b"one"), ("a/2", b"two")], timeout_s=5)
    with pytest.raises(NotStoredError, match=r"a/3 .* holds nothing"):
        retained.require([("a/1", b"one"), ("a/3", b"three")], timeout_s=0.5)
    with pytest.raises(NotStoredError, match=r"a/2 .* holds 3 other bytes"):
        retained.require([("a/2", b"owt")], timeout_s=0.5)


def test_what_is_published_but_not_kept_does_not_pass_for_retained(
    any_broker: RunningBroker, retained: RetainedTopics
) -> None:
    other = Session(broker_of(any_broker), "other")
    with closing(other):
        wait_connected(other, 10)
        retained._session.subscribe("a/1")
        retained._session.step(0.5)
        other.publish("a/1", b"one")  # not retained
        deadline = time.monotonic() + 5
        while not other.step(0.1):
            assert time.monotonic() < deadline

        with pytest.raises(NotStoredError, match="holds nothing"):
            retained.require([("a/1", b"one")], timeout_s=0.5)


def test_a_broker_that_went_away_is_not_an_absent_topic(
    any_broker: RunningBroker, retained: RetainedTopics
) -> None:
    any_broker.stop()

    with pytest.raises(BrokerUnavailableError):
        retained.fetch("a/1", max_bytes=1, timeout_s=1)
    with pytest.raises(BrokerUnavailableError, match="a/1 was not acknowledged"):
        retained.put_many([("a/1", b"one")], timeout_s=1)


def test_a_subscription_without_an_answer_is_not_an_absent_topic() -> None:
    with scripted_broker() as broker:
        session = Session(Broker(host="127.0.0.1", port=broker.port), "hand", connack_timeout_s=1.0)
        with closing(session):
            broker.accept_session(session)
            wait_connected(session, 5)

            with pytest.raises(BrokerUnavailableError, match=r"SUBSCRIBE was not answered|answer CONNECT"):
                RetainedTopics(session).fetch("a/1", max_bytes=1, timeout_s=0.3)
            broker.hang_up()


def test_a_subscription_that_is_confirmed_late_is_waited_for() -> None:
    with scripted_broker() as broker:
        session = Session(Broker(host="127.0.0.1", port=broker.port), "hand")
        with closing(session):
            broker.accept_session(session)
            wait_connected(session, 5)
            request = Request(session, 0.1, only_retained=False)
            request.ask(Wanted("a/1", 3))
            assert request.step() == []
            assert request.step() == []  # the timeout is over

            broker.send(broker.suback(broker.read(), 1) + broker.publish(b"a/1", b"one", flags=1))
            assert request.step() == [Fetched("a/1", b"one", 3)]
            broker.hang_up()


def test_a_connection_on_which_nothing_is_answered_is_made_anew() -> None:
    with scripted_broker() as broker, ThreadPoolExecutor(1) as pool:

        def serve() -> None:
            broker.accept_session()
            broker.wait_for_hang_up()  # nothing was answered: the client gives up
            broker.accept_session()
            while (request := broker.read()).kind != DISCONNECT:
                if request.kind == SUBSCRIBE:
                    broker.send(broker.suback(request, 1))
                    broker.send(broker.publish(b"a/1", b"one", flags=1))
            broker.hang_up()

        served = pool.submit(serve)
        address = Broker(host="127.0.0.1", port=broker.port)
        with open_topics(address, "hand", "witness", timeout_s=1.0) as retained:
            assert retained.fetch("a/1", max_bytes=3, timeout_s=1) == b"one"
        served.result(5)


def test_a_broker_that_never_answers_is_told() -> None:
    with scripted_broker() as broker, ThreadPoolExecutor(1) as pool:

        def serve() -> None:
            for _ in range(3):
                broker.accept_session()
                broker.wait_for_hang_up()

        served = pool.submit(serve)
        address = Broker(host="127.0.0.1", port=broker.port)
        with (
            pytest.raises(BrokerUnavailableError, match="does not answer on them"),
            open_topics(address, "hand", "witness", timeout_s=0.6),
        ):
            pass
        served.result(5)


def test_what_a_broker_closes_the_connection_for_is_not_sent_again() -> None:
    with scripted_broker() as broker, ThreadPoolExecutor(1) as pool:

        def serve() -> list[bytes]:
            for _ in range(4):
                broker.accept_session()
                assert broker.read().payload == b"large"
            broker.accept_session()
            sent = []
            while (request := broker.read()).kind != DISCONNECT:
                sent.append(request.payload)
                broker.send(broker.puback(request.mid))
            broker.hang_up()
            return sent

        served = pool.submit(serve)
        with closing(Session(Broker(host="127.0.0.1", port=broker.port), "hand")) as session:
            wait_connected(session, 5)
            with pytest.raises(NotStoredError, match="closes the connection"):
                RetainedTopics(session).put_many([("a/1", b"large")], timeout_s=20)
            RetainedTopics(session).put_many([("a/2", b"small")], timeout_s=20)
        assert served.result(5) == [b"small"]


def test_a_restart_of_the_broker_in_between_is_lived_through(tmp_path: Path) -> None:
    lines = ("persistence true", f"persistence_location {tmp_path / 'broker'}/")
    with brokers.mosquitto(tmp_path / "broker", *lines) as broker:
        contents = {f"many/{number}": b"x" * 1000 for number in range(50)}
        put(broker, contents)
        with topics(broker) as retained:
            found = retained.fetch_many([Wanted(topic, 1000) for topic in contents], timeout_s=10)
            first = next(found)

            broker.stop()
            broker.start()

            assert {first.topic, *(one.topic for one in found if one.payload)} == set(contents)
            retained.put_many([("a/1", b"one")], timeout_s=10)
            retained.require([("a/1", b"one")], timeout_s=10)


def test_a_subscription_that_the_broker_refuses_is_told(tmp_path: Path) -> None:
    plugin = next(Path("/usr").glob("lib*/**/mosquitto_dynamic_security.so"), None)
    if plugin is None:
        pytest.skip("mosquitto's dynamic security plugin is not installed")
    config = tmp_path / "security.json"
    config.write_text(
        '{"defaultACLAccess": {"publishClientSend": true, "publishClientReceive": true, "subscribe": false}}'
    )
    lines = (f"plugin {plugin}", f"plugin_opt_config_file {config}")
    with (
        brokers.mosquitto(tmp_path / "broker", *lines) as broker,
        topics(broker) as retained,
        pytest.raises(BrokerUnavailableError, match="a/1 cannot be read") as caught,
    ):
        retained.fetch("a/1", max_bytes=1, timeout_s=5)
    assert caught.value.reason is Reason.BROKER_REFUSED
