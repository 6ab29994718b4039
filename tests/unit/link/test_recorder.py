from __future__ import annotations

from atoll_contract.errors import PeerError, Reason
from atoll_contract.messages import Label, Reading, encode_reading
from atoll_ingest.dialect import AtollDialect
from atoll_ingest.pointer import PointerDialect
from atoll_ingest.stream import Stream, TopicPattern
from atoll_link.recorder import Site, rows_of
from atoll_link.session import Delivery


def test_the_recorder_takes_no_readings_from_the_agents_that_share_a_stream():
    shared = TopicPattern("$share/hall/plant/{device}/press")
    site = Site("site", (Stream("press", (shared,), AtollDialect(), {"x": None}),))

    assert site.filters[0] == "plant/+/press"


def test_what_one_stream_cannot_read_is_recorded_for_another():
    pattern = TopicPattern("zigbee2mqtt/{device}")
    climate = Stream("climate", (pattern,), PointerDialect({"temperature": ("temperature",)}), {})
    door = Stream("door", (pattern,), PointerDialect({"contact": ("contact",)}), {})
    site = Site("site", (climate, door))
    readers = {stream.name: stream.reader(10) for stream in site.streams}
    delivery = Delivery("zigbee2mqtt/front", b'{"contact":1}', 1, 1, False, False, 1, 1000.0, 0)

    rows, readings, refusals = rows_of(delivery, site, readers)

    assert [(row.name, row.device) for row in rows] == [("door", "front")]
    assert readings == 1
    assert [refusal.reason for refusal in refusals] == [Reason.MISSING_VALUE]


def test_a_capture_of_all_readings_trusts_no_more_than_the_recorder():
    site = Site("site", (), takes_all_ours=True)
    reading = encode_reading(Reading(values={"x": 1.0}, time_ms=1000.0))
    label = Label(value=1.0, time_ms=1000.0).encode()

    def told(topic: str, payload: bytes, *, is_retained: bool = False) -> str:
        delivery = Delivery(topic, payload, 1, 1, False, is_retained, 1, 1000.0, 0)
        try:
            rows, _, _ = rows_of(delivery, site, {})
        except PeerError as error:
            return error.reason.value
        return " ".join(f"{row.kind.value} {row.name} {row.device}" for row in rows)

    assert told("atoll/v1/site/press-1/reading/press", reading) == "reading press press-1"
    assert told("atoll/v1/site/press-1/reading/press", reading, is_retained=True) == "retained"
    assert told("atoll/v1/other/press-1/reading/press", reading) == "malformed_topic"
    assert told("atoll/v1/site/press-1/label/press-1/wear", label) == "label wear press-1"
    assert told("atoll/v1/site/evil/label/press-1/wear", label) == "untrusted_writer"
    assert "atoll/v1/site/+/reading/+" in site.filters
