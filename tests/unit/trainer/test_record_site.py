from __future__ import annotations

from atoll_contract.errors import Reason
from atoll_ingest.dialect import AtollDialect
from atoll_ingest.pointer import PointerDialect
from atoll_ingest.stream import Stream, TopicPattern
from atoll_link.session import Delivery
from atoll_trainer.record import Site, rows_of


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
