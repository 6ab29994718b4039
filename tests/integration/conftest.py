"""Fixtures of several files: a broker that does what the test says, and Edge TPUs of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.opened import Opened
from support.scripted_broker import ScriptedBroker, scripted_broker

from atoll_link.session import Session

if TYPE_CHECKING:
    from support.edgetpus import TpuBench


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


@pytest.fixture
def make_bench(tmp_path: Path, monkeypatch) -> Iterator[Callable[..., TpuBench]]:
    """Benches for Edge TPUs, closed at the end."""
    from support.edgetpus import TpuBench  # it needs the schema of models, which other tests do not

    benches = []

    def make(*, plugged: bool = True, **care) -> TpuBench:
        bench = TpuBench(tmp_path, **care)
        monkeypatch.setenv("EDGETPU_STUB_CONTROL", str(bench.control))
        if plugged:
            bench.sysfs.plug_usb("1-1")
        benches.append(bench)
        return bench

    yield make
    for bench in benches:
        bench.tpus.close()
