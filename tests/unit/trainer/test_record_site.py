from __future__ import annotations

from atoll_ingest.dialect import AtollDialect
from atoll_ingest.stream import Stream, TopicPattern
from atoll_trainer.record import Site


def test_the_recorder_takes_no_readings_from_the_agents_that_share_a_stream():
    shared = TopicPattern("$share/hall/plant/{device}/press")
    site = Site("site", (Stream("press", (shared,), AtollDialect(), {"x": None}),))

    assert site.filters[0] == "plant/+/press"
