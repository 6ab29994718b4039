"""A short version of `make chaos-publish`: the trainer is killed at some packets and resumes each time."""

from __future__ import annotations

import importlib.util
import random
import sys
from pathlib import Path

import pytest
from support.brokers import require_mosquitto

CHAOS = Path(__file__).parents[2] / "chaos"


@pytest.fixture
def publish_kills(monkeypatch):
    """The program, as a module."""
    require_mosquitto()
    monkeypatch.syspath_prepend(str(CHAOS))
    spec = importlib.util.spec_from_file_location("publish_kills", CHAOS / "publish_kills.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "publish_kills", module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.timeout(300)
@pytest.mark.long
def test_a_trainer_that_is_killed_while_it_publishes_harms_nobody(publish_kills, tmp_path, capsys):
    status = publish_kills.kill_the_trainer(9, 7, tmp_path)

    told = capsys.readouterr().out
    assert status == 0, told
    assert "killed 9 times" in told
    assert "faults 0" in told


def test_the_proxy_cuts_the_stream_into_packets(publish_kills):
    proxy = sys.modules["killing_proxy"]
    source = random.Random(1)
    sizes = [0, 1, 127, 128, 16_383, 16_384]
    stream = b"".join(bytes([0x30]) + length_of(size) + source.randbytes(size) for size in sizes)

    found = []
    while stream:
        size = proxy.packet_size(stream)
        found.append(size)
        stream = stream[size:]

    assert found == [2, 3, 129, 131, 16_386, 16_388]
    assert proxy.packet_size(b"0") is proxy.packet_size(b"0\x80") is None


def length_of(size: int) -> bytes:
    encoded = b""
    while True:
        size, low = divmod(size, 128)
        encoded += bytes([low | (0x80 if size else 0)])
        if not size:
            return encoded
