"""Fixtures that several folders share."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from support import brokers
from support.brokers import RunningBroker

from atoll_sim.demo import ports
from atoll_trainer.publisher import Deadlines

# How long an example takes says more of the machine than of the code.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("many", settings.get_profile("untimed"), max_examples=1500)
settings.load_profile("untimed")

# Doctest collection would import it, and tflite-runtime crashes where TensorFlow was imported before it.
collect_ignore = ["support/make_models.py"]

# What takes longest starts first, so that no worker is left with much to do when the other has ended.
LONGEST = (
    "test_agent.py",
    "test_training.py",
    "test_loop.py",
    "test_search.py",
    "test_release_faults.py",
    "test_chaos.py",
    "test_trials.py",
    "test_rollout.py",
    "test_readme.py",
    "test_benchmarks.py",
    "test_publish_kills.py",
    "test_real_data.py",
    "test_demo.py",
    "test_dashboard.py",
    "test_doctor.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first, then whatever runs processes, then the rest."""

    def rank(item: pytest.Item) -> int:
        if item.path.name in LONGEST:
            return LONGEST.index(item.path.name)
        folders = item.path.parts
        return len(LONGEST) + (0 if "e2e" in folders else 1 if "integration" in folders else 2)

    items.sort(key=rank)


@pytest.fixture(scope="session", autouse=True)
def _publishers_look_briefly() -> Iterator[None]:
    """Let a publisher wait less for what an empty broker does not hold: hundreds of tests publish to one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("atoll_trainer.publisher.Deadlines", partial(Deadlines, look_s=1.0, probe_s=0.2))
        yield


@pytest.fixture(scope="session", autouse=True)
def _ports_of_ones_own() -> Iterator[None]:
    """Let workers draw ports from ranges of their own: another could use one between draw and use."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    with pytest.MonkeyPatch.context() as patch:
        if worker is not None:
            count = ports._COUNT // int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
            patch.setattr(ports, "_FIRST", ports._FIRST + int(worker.removeprefix("gw")) * count)
            patch.setattr(ports, "_COUNT", count)
        yield


@pytest.fixture(scope="module", autouse=True)
def _nothing_is_left_open() -> Iterator[None]:
    """Let what a file left open be found while it is known which file that was."""
    yield
    gc.collect()


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
