"""Fixtures that several folders share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from support import brokers
from support.brokers import RunningBroker

# How long an example takes says more of the machine than of the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")

# Doctest collection would import it, and tflite-runtime crashes where TensorFlow was imported before it.
collect_ignore = ["support/make_models.py"]


@pytest.fixture
def mosquitto_broker(tmp_path: Path) -> Iterator[RunningBroker]:
    """A Mosquitto of one's own; skips where none is installed."""
    with brokers.mosquitto(tmp_path / "broker") as broker:
        yield broker


@pytest.fixture(params=["mosquitto", "amqtt"])
def any_broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RunningBroker]:
    """Each kind of broker in turn."""
    run = brokers.mosquitto if request.param == "mosquitto" else brokers.amqtt
    with run(tmp_path / "broker") as broker:
        yield broker


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data; skips without ATOLL_DATA."""
    folder = os.environ.get("ATOLL_DATA")
    if not folder:
        pytest.skip("ATOLL_DATA is not set: no real data")
    return Path(folder)
