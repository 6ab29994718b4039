"""Streams whose filters overlap, on real brokers: a message comes once."""

from __future__ import annotations

from support.brokers import RunningBroker
from support.sessions import connected, has, of_kind, step_until

from atoll_ingest.topic import TopicPattern, subscriptions_for
from atoll_link.session import Broker, Delivery, Published


def test_a_message_comes_once_though_several_filters_of_a_stream_match_it(any_broker: RunningBroker) -> None:
    """Mosquitto would send it once for all of them, others once for each."""
    patterns = [TopicPattern(topic) for topic in ("hall/{device}/state", "{line}/{device}/+", "{device}")]
    filters = subscriptions_for(patterns)
    broker = Broker("127.0.0.1", any_broker.port)
    topics = ["hall/press/state", "hall/press/other", "end"]

    with (
        connected(broker, "reader", *filters) as reader,
        connected(broker, "writer") as writer,
    ):
        for topic in topics:
            writer.publish(topic, b"1", qos=1)
        step_until(writer, has(Published, len(topics)))
        seen = step_until(reader, lambda events: any(one.topic == "end" for one in of_kind(Delivery, events)))

    assert sorted(one.topic for one in of_kind(Delivery, seen)) == sorted(topics)
