"""Predictions that wait on disk, in a real file."""

from __future__ import annotations

import subprocess
import sys

import pytest

from atoll_agent.adapters.spool import DiskSpool
from atoll_contract.errors import Reason, StorageError
from atoll_contract.messages import Prediction, Quality, decode_prediction, encode_prediction

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
