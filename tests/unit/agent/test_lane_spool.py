from __future__ import annotations

from concurrent.futures import Future

from support.lanes import TOPIC, Bench, lane_plan, predictor

from atoll_agent.adapters.store import KeptWindows
from atoll_agent.lane.spill import BATCH
from atoll_agent.ports import Kept, SpoolState, Stored
from atoll_contract.errors import StorageError
from atoll_link.session import Refused


class ListSpool:
    """Implements ``ports.Spool`` in memory; ``fails`` as a disk does, ``is_hidden`` as one never read."""

    def __init__(self, *stored: bytes) -> None:
        self.stored = [Stored(number, "t", payload) for number, payload in enumerate(stored, 1)]
        self.fails = self.is_hidden = False
        self.is_closed = False
        self._last = len(stored)

    @property
    def state(self) -> SpoolState:
        return SpoolState(
            rows=0 if self.is_hidden else len(self.stored), fault="full" if self.fails else None
        )

    def keep(self, predictions):
        return self._done(lambda: [self._put(*one) for one in predictions])

    def oldest(self, most):
        return self._done(lambda: self.stored[:most])

    def drop(self, last):
        self.stored = [one for one in self.stored if one.number > last]
        return self._done(lambda: None)

    def close(self):
        self.is_closed = True

    def _put(self, topic, payload):
        self._last += 1
        self.stored.append(Stored(self._last, topic, payload))

    def _done(self, work) -> Future:
        done = Future()
        if self.fails:
            done.set_exception(StorageError("full"))
        else:
            done.set_result(work())
        return done


def times(spool: ListSpool) -> list[bytes]:
    return [one.payload.split(b",")[0] for one in spool.stored]


def reading(time_ms: int) -> bytes:
    return b'{"time_ms":%d,"values":{"x":3}}' % time_ms


def test_what_the_broker_did_not_acknowledge_goes_to_disk_and_its_reading_is_acknowledged():
    spool = ListSpool()
    bench = Bench(predictor(), spool=spool)
    bench.deliver(reading(1), mid=1)
    bench.deliver(reading(2), mid=2)
    bench.wire.puback(1)
    bench.turn()

    bench.wire.disconnect()
    bench.turn()
    bench.turn()
    assert times(spool) == [b'{"time_ms":2.0']
    assert bench.counts()["predictions_spooled"] == 1

    # The broker sends the reading again: it has its place, and no second answer.
    bench.wire.connect(session_present=True)
    bench.deliver(reading(2), mid=2, is_duplicate=True)
    assert bench.acknowledged[-1] == 2
    assert bench.counts()["redelivered"] == 1


def test_a_short_absence_of_the_broker_writes_nothing():
    spool = ListSpool()
    bench = Bench(predictor(), spool=spool, spool_after_s=60.0)
    bench.deliver(reading(1))

    bench.wire.disconnect()
    bench.turn()
    bench.turn()

    assert spool.stored == []
    assert len(bench.wire.sent) == 1


def test_what_waits_on_disk_follows_what_is_live_and_leaves_once_acknowledged():
    spool = ListSpool(b"old-1", b"old-2")
    bench = Bench(predictor(), spool=spool)
    bench.deliver(reading(1))
    bench.turn()

    sent = [payload for _, _, payload in bench.wire.sent]
    assert sent[-2:] == [b"old-1", b"old-2"]
    assert bench.wire.qos == [1, 1, 1]
    assert len(spool.stored) == 2
    bench.wire.puback(*[mid for mid, _, _ in bench.wire.sent])
    bench.turn()
    bench.turn()
    assert spool.stored == []
    assert bench.counts()["predictions_replayed"] == 2


def test_what_comes_from_disk_is_not_written_again_when_the_broker_leaves_meanwhile():
    spool = ListSpool(b"old")
    bench = Bench(predictor(), spool=spool)
    bench.turn()
    bench.turn()
    assert [payload for _, _, payload in bench.wire.sent] == [b"old"]

    bench.wire.disconnect()
    bench.turn()
    bench.turn()

    assert len(spool.stored) == 1
    bench.wire.connect(session_present=True)
    bench.wire.puback(1)
    bench.turn()
    bench.turn()
    assert spool.stored == []


def test_a_disk_that_fails_holds_the_reading_back_and_loses_no_prediction():
    spool = ListSpool()
    bench = Bench(predictor(), spool=spool)
    bench.deliver(reading(1))
    spool.fails = True

    bench.wire.disconnect()
    bench.turn()
    bench.turn()
    assert bench.acknowledged == []
    assert bench.counts()["spool_faults"] == 1
    assert bench.lane.report.spool_fault == "full"

    bench.wire.connect(session_present=True)
    bench.turn()
    bench.turn()
    assert [prediction["time_ms"] for prediction in bench.predictions] == [1]


def test_a_stop_brings_to_disk_what_was_not_delivered():
    spool = ListSpool()
    bench = Bench(predictor(), spool=spool, spool_after_s=60.0)
    bench.deliver(reading(1))
    bench.wire.disconnect()
    bench.turn()

    bench.lane.stop()
    bench.lane.run()

    assert times(spool) == [b'{"time_ms":1.0']
    assert spool.is_closed


def test_what_the_broker_may_take_later_stays_on_disk_and_what_it_never_takes_leaves_it_uncounted():
    spool = ListSpool(b"old-1", b"old-2", b"old-3")
    bench = Bench(predictor(), spool=spool)
    bench.turn()
    bench.turn()
    bench.wire.puback(1)
    bench.wire.events += [Refused(2, "Not authorized"), Refused(3, "Quota exceeded", is_passing=True)]
    bench.wire.sent.clear()

    for _ in range(4):
        bench.turn()

    assert [one.payload for one in spool.stored] == [b"old-3"]
    assert bench.wire.sent == []  # not at once
    assert bench.counts()["predictions_replayed"] == 1
    bench.lane._replay._put_off_s = 0.0
    for _ in range(3):
        bench.turn()
    assert [payload for _, _, payload in bench.wire.sent] == [b"old-3"]


def test_a_disk_that_could_not_be_read_at_the_start_is_asked_again():
    spool = ListSpool(b"old")
    spool.is_hidden = spool.fails = True
    bench = Bench(predictor(), spool=spool)
    bench.turn()
    assert bench.wire.sent == []

    spool.is_hidden = spool.fails = False
    bench.lane._replay._retry_s = 0.0
    for _ in range(3):
        bench.turn()

    assert [payload for _, _, payload in bench.wire.sent] == [b"old"]


def test_what_waits_on_disk_leaves_though_live_predictions_are_always_on_their_way():
    spool = ListSpool(b"old")
    spool.is_hidden = True
    bench = Bench(predictor(), spool=spool)
    for number in range(2 * BATCH):
        bench.wire.deliver(TOPIC, reading(number), mid=number + 1)
    bench.turn()
    spool.is_hidden = False

    for _ in range(3):
        bench.turn()

    assert bench.wire.sent[-1][2] == b"old"


def test_a_stop_keeps_windows_only_with_the_acknowledgement_of_what_is_on_disk(tmp_path, monkeypatch):
    monkeypatch.setattr("atoll_agent.lane.lane._STOP_AFTER_S", 0.0)
    store = KeptWindows(tmp_path)
    mean = predictor(file="mean12_float", length=12)
    bench = Bench(mean, spool=ListSpool(), windows=store)
    for number in range(12):
        bench.deliver(reading(number), mid=number + 1)
    assert bench.acknowledged == list(range(1, 12))

    bench.lane.stop()
    bench.lane.run()

    assert bench.acknowledged[-1] == 12
    assert store.take("wear", Kept.WINDOWS) is not None


def test_a_stop_keeps_no_windows_of_readings_that_come_again(tmp_path, monkeypatch):
    monkeypatch.setattr("atoll_agent.lane.lane._STOP_AFTER_S", 0.0)
    store, spool = KeptWindows(tmp_path), ListSpool()
    bench = Bench(predictor(file="mean12_float", length=12), spool=spool, windows=store)
    for number in range(12):
        bench.deliver(reading(number), mid=number + 1)
    spool.fails = True

    bench.lane.stop()
    bench.lane.run()

    assert 12 not in bench.acknowledged
    assert store.take("wear", Kept.WINDOWS) is None


def test_a_stream_that_is_removed_while_the_broker_is_away_leaves_its_predictions_on_disk(monkeypatch):
    monkeypatch.setattr("atoll_agent.lane.lane._STOP_AFTER_S", 0.0)
    spool = ListSpool()
    bench = Bench(predictor(), spool=spool, spool_after_s=60.0)
    bench.deliver(reading(1))
    bench.wire.disconnect()
    bench.turn()

    bench.lane.change(lane_plan(models=()), ())
    bench.turn()

    assert bench.waiter.ended == ["press"]
    assert times(spool) == [b'{"time_ms":1.0']
    assert bench.counts()["predictions_lost"] == 0
