from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.climbs import World

from atoll_agent.supervisor import activation
from atoll_agent.supervisor.backoff import Backoff


@pytest.fixture
def world(tmp_path: Path, monkeypatch) -> Iterator[World]:
    monkeypatch.setattr(activation, "_POLL_S", 0.001)
    with asyncio.Runner() as loop:
        yield World(tmp_path / "state", loop)


@pytest.fixture
def soon(monkeypatch) -> None:
    """What failed is tried again soon."""
    monkeypatch.setattr(Backoff, "next_s", lambda _self, _cap_s: 0.01)


@pytest.fixture
def never(monkeypatch) -> None:
    """What failed is not tried again before the test is over."""
    monkeypatch.setattr(Backoff, "next_s", lambda _self, _cap_s: 3600.0)
