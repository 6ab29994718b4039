"""Predictions that wait on disk, in a real file."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace

import pytest
from structlog.testing import capture_logs

from atoll_agent.adapters.spool import DiskSpool, marked
from atoll_agent.compose import _spool
from atoll_agent.settings import SpoolTable
from atoll_contract.errors import Reason, StorageError
from atoll_contract.messages import (
    MAX_PAYLOAD_BYTES,
    Prediction,
    Quality,
    decode_prediction,
    encode_prediction,
)

TOPIC = "atoll/v1/site/pi/prediction/press-1/wear"
MANY = 64 * 1024 * 1024


def prediction(seq, **more) -> bytes:
    return encode_prediction(Prediction(time_ms=1.0, value=2.0, release=1, latency_ms=0.5, seq=seq, **more))


def opened(folder, max_bytes=MANY) -> DiskSpool:
    spool = DiskSpool(folder / "spool.db", max_bytes)
    spool.open()
    return spool


def numbers(spool) -> list[int]:
    return [decode_prediction(one.payload).seq for one in spool.oldest(1000).result(10)]


def test_what_is_kept_is_there_after_a_restart_oldest_first_and_says_that_it_is_late(tmp_path):
    spool = opened(tmp_path)
    spool.keep([(TOPIC, prediction(1)), (TOPIC, prediction(2, quality=[Quality.GAP]))]).result(10)
    spool.keep([(TOPIC, prediction(3))]).result(10)
    spool.close()

    spool = opened(tmp_path)
    found = spool.oldest(2).result(10)

    assert spool.state.rows == 3
    assert [one.topic for one in found] == [TOPIC, TOPIC]
    assert [decode_prediction(one.payload).seq for one in found] == [1, 2]
    assert decode_prediction(found[1].payload).quality == [Quality.GAP, Quality.REPLAYED]
    spool.drop(found[-1].number).result(10)
    assert numbers(spool) == [3]
    spool.close()


def test_the_oldest_go_when_there_are_too_many_and_are_counted(tmp_path):
    spool = opened(tmp_path, max_bytes=10_000)

    for start in range(0, 400, 100):
        spool.keep([(TOPIC, prediction(start + number)) for number in range(100)]).result(10)

    left = numbers(spool)
    assert left == list(range(400 - len(left), 400))
    assert 40 < len(left) < 100
    assert spool.state.lost == 400 - len(left)
    assert spool.state.size_bytes <= 10_000
    spool.close()


def test_a_number_is_never_used_again(tmp_path):
    spool = opened(tmp_path)
    spool.keep([(TOPIC, prediction(1))]).result(10)
    [first] = spool.oldest(9).result(10)
    spool.drop(first.number).result(10)

    spool.keep([(TOPIC, prediction(2))]).result(10)
    spool.drop(first.number).result(10)

    assert numbers(spool) == [2]
    spool.close()


def test_what_is_on_its_way_is_not_lost_for_others(tmp_path):
    spool = opened(tmp_path, max_bytes=10_000)
    spool.keep([(TOPIC, prediction(number)) for number in range(30)]).result(10)
    batch = spool.oldest(10).result(10)

    for start in range(30, 430, 100):
        spool.keep([(TOPIC, prediction(start + number)) for number in range(100)]).result(10)

    assert numbers(spool)[:10] == list(range(10))
    assert numbers(spool)[10:] == list(range(430 - spool.state.rows + 10, 430))
    assert spool.state.lost == 430 - spool.state.rows
    spool.drop(batch[-1].number).result(10)
    assert spool.state.rows == len(numbers(spool)) == 420 - spool.state.lost
    spool.close()


def test_what_there_is_is_counted_once_and_not_at_every_commit(tmp_path):
    spool = opened(tmp_path)
    asked = []
    spool._connection.set_trace_callback(asked.append)

    for number in range(5):
        spool.keep([(TOPIC, prediction(number))]).result(10)
    spool.drop(spool.oldest(2).result(10)[-1].number).result(10)

    assert [query for query in asked if "sum(size)" in query and "WHERE number <=" not in query] == []
    found = (spool.state.rows, spool.state.size_bytes)
    spool.close()
    spool = opened(tmp_path)
    assert found == (spool.state.rows, spool.state.size_bytes) == (3, found[1])
    spool.close()


def test_a_file_that_is_damaged_meanwhile_is_counted_as_lost_and_what_comes_after_stays(tmp_path):
    spool = opened(tmp_path)
    spool.keep([(TOPIC, prediction(number)) for number in range(600)]).result(10)
    [*_, last] = spool.oldest(100).result(10)
    spool._thread.submit(spool._shut).result(10)
    with (tmp_path / "spool.db").open("r+b") as file:
        file.write(b"\xff" * 4096)

    spool.keep([(TOPIC, prediction(number)) for number in range(50)]).result(10)
    spool.drop(last.number).result(10)

    assert spool.state.lost == 600
    assert numbers(spool) == list(range(50))
    assert spool.state.rows == 50
    spool.close()


def test_a_prediction_of_any_size_says_that_it_is_late():
    large = prediction(1, output={"path": [0.5] * 100_000})

    assert len(large) > MAX_PAYLOAD_BYTES
    assert b'"replayed"' in marked(large)


@pytest.mark.parametrize("damage", [b"no database at all", b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_damaged_file_is_set_aside_and_another_one_takes_its_place(tmp_path, damage):
    (tmp_path / "spool.db").write_bytes(damage)
    spool = opened(tmp_path)

    spool.keep([(TOPIC, prediction(1))]).result(10)

    assert numbers(spool) == [1]
    assert (tmp_path / "spool.damaged").read_bytes() == damage
    spool.close()


def test_what_was_kept_outlasts_a_kill(tmp_path):
    code = f"""
import os, pathlib, sys
sys.path[:0] = {sys.path!r}
from atoll_agent.adapters.spool import DiskSpool
spool = DiskSpool(pathlib.Path({str(tmp_path)!r}) / "spool.db", 10**6)
spool.keep([({TOPIC!r}, {prediction(7)!r})]).result(10)
os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == -9

    spool = opened(tmp_path)
    assert numbers(spool) == [7]
    spool.close()


def test_a_disk_that_fails_is_told(tmp_path):
    (tmp_path / "spool.db").mkdir()
    spool = opened(tmp_path)

    with pytest.raises(StorageError) as told:
        spool.keep([(TOPIC, prediction(1))]).result(10)

    assert told.value.reason is Reason.STORAGE
    assert "spool.db" in str(spool.state.fault)
    (tmp_path / "spool.db").rmdir()
    spool.keep([(TOPIC, prediction(1))]).result(10)
    assert spool.state.fault is None
    spool.close()


def test_a_spool_that_is_switched_off_says_what_waits_in_it(tmp_path):
    spool = opened(tmp_path)
    spool.keep([(TOPIC, prediction(1))]).result(10)
    spool.close()
    settings, store = SimpleNamespace(spool=SpoolTable()), SimpleNamespace(folder=tmp_path)

    with capture_logs() as logs:
        assert _spool(settings, store) is None

    assert [(event["event"], event["predictions"]) for event in logs] == [("spool.left", 1)]
