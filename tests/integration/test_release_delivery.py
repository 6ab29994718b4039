"""A release from the trainer's disk to a device's, over real brokers, and what can happen to its bytes."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.brokers import RunningBroker, select_pause
from support.releases import (
    SMALL_CHUNK,
    Device,
    Trainer,
    chunk_topics_of,
    device,
    install,
    make_bundle,
    newest,
    put,
    refresh,
    topics_of,
)

from atoll_agent.adapters import part as part_module
from atoll_agent.adapters.part import Part
from atoll_agent.rollout.release import Release
from atoll_contract.errors import (
    BundleRejectedError,
    DigestMismatchError,
    Reason,
    RepositoryUnavailableError,
    StorageError,
)


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    """A trainer that has released nothing."""
    return Trainer.create(tmp_path / "trainer")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 8 MB of its own; skips where none can be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "none", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("no disk can be mounted here: needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def stored(bundle: Path) -> set[int]:
    """The chunks that are noted to be there."""
    journal = bundle.with_suffix(".part.chunks")
    text = journal.read_text() if journal.exists() else ""
    return {int(line) for line in text.splitlines() if line.isdecimal()}


def record(view: Device, release: Release, bundle: Path) -> set[int]:
    """Fetch to the end and return the chunks that were fetched for it."""
    before = stored(bundle)
    seen: set[int] = set()
    assert view.fetch(release, bundle, lambda _done, _total: seen.update(stored(bundle) - before))
    return seen


@contextmanager
def child_of(request: dict[str, Any]) -> Iterator[subprocess.Popen[bytes]]:
    """The fetching child as a process of its own."""
    process = subprocess.Popen([sys.executable, "-m", "atoll_agent.children.fetch"], stdin=subprocess.PIPE)
    try:
        process.stdin.write(json.dumps(request).encode() + b"\n")
        process.stdin.close()
        yield process
    finally:
        process.kill()
        process.wait(10)


def wait_for(fact: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not fact():
        assert time.monotonic() < deadline
        select_pause(0.001)


# Without faults


def test_a_device_installs_the_first_release_then_an_update_then_sees_no_change(
    any_broker: RunningBroker, tmp_path: Path, trainer: Trainer
) -> None:
    first, second = make_bundle(release=1), make_bundle(release=2)
    folder = tmp_path / "device"

    trainer.publish(any_broker, first)
    assert install(any_broker, folder, trainer.root) == first

    trainer.publish(any_broker, second)
    assert install(any_broker, folder, trainer.root) == second

    releases = refresh(any_broker, folder, trainer.root)
    assert [release.release for release in releases] == [1, 2]
    assert refresh(any_broker, folder, trainer.root) == releases


def test_terms_come_back_as_they_were_signed(
    any_broker: RunningBroker, tmp_path: Path, trainer: Trainer
) -> None:
    bundle = make_bundle()
    trainer.publish(
        any_broker,
        bundle,
        channel="canary",
        rollout_percent=25,
        rollout_salt="a1b2",
        max_delay_s=600,
        chunk_size=2048,
    )

    [release] = refresh(any_broker, tmp_path / "device", trainer.root)

    assert (release.model, release.release, release.length) == ("press", 1, len(bundle))
    assert (release.channel, release.rollout_percent, release.rollout_salt) == ("canary", 25, "a1b2")
    assert (release.max_delay_s, release.chunk_size) == (600, 2048)


def test_a_second_push_stores_nothing(any_broker: RunningBroker, trainer: Trainer) -> None:
    trainer.publish(any_broker, make_bundle())

    summary = trainer.push(any_broker)

    assert summary.topics == len(topics_of(trainer))
    assert (summary.topics_stored, summary.bytes_stored) == (0, 0)


def test_models_are_updated_independently(
    any_broker: RunningBroker, tmp_path: Path, trainer: Trainer
) -> None:
    folder = tmp_path / "device"
    trainer.publish(any_broker, make_bundle("press", 1))
    trainer.publish(any_broker, make_bundle("pump", 4))
    assert install(any_broker, folder, trainer.root) == make_bundle("press", 1)

    trainer.publish(any_broker, make_bundle("pump", 5))

    releases = refresh(any_broker, folder, trainer.root)
    assert newest(releases, "press").release == 1
    assert newest(releases, "pump").release == 5


# Bundles


def test_a_tampered_chunk_is_refused_and_repaired_by_publishing_again(
    any_broker: RunningBroker, tmp_path: Path, trainer: Trainer
) -> None:
    bundle = make_bundle()
    trainer.publish(any_broker, bundle)
    topic = chunk_topics_of(trainer, "press/1.atoll")[2]
    put(any_broker, {topic: bytes(SMALL_CHUNK)})

    with capture_logs() as logs, pytest.raises(DigestMismatchError, match="are not the bytes of"):
        install(any_broker, tmp_path / "device", trainer.root)
    # All of it once more, since nobody can tell which chunk it is; then no more.
    assert [log["event"] for log in logs] == ["bundle.refetched"]
    assert not list((tmp_path / "device").glob("bundle.*"))

    assert trainer.push(any_broker).topics_stored == 1
    assert install(any_broker, tmp_path / "device", trainer.root) == bundle


@pytest.mark.parametrize("size", [10, SMALL_CHUNK + 1, 200_000])
def test_a_chunk_of_the_wrong_size_is_refused_and_costs_no_other_chunk(
    any_broker: RunningBroker, tmp_path: Path, trainer: Trainer, size: int
) -> None:
    bundle = make_bundle(size=20 * SMALL_CHUNK)
    trainer.publish(any_broker, bundle)
    topic = chunk_topics_of(trainer, "press/1.atoll")[12]
    put(any_broker, {topic: bytes(size)})
    path = tmp_path / "bundle.atoll"
    with device(any_broker, tmp_path / "device", trainer.root) as view:
        release = newest(view.refresh())
        with pytest.raises(DigestMismatchError, match=re.escape(topic)):
            view.fetch(release, path)
        kept = stored(path)

        trainer.push(any_broker)
        fetched = record(view, release, path)

    assert len(kept) >= 8
    assert path.read_bytes() == bundle
    assert not kept & fetched


def test_a_fetch_goes_on_where_a_missing_chunk_broke_it_off(
    any_broker: RunningBroker, tmp_path: Path, trainer: Trainer
) -> None:
    bundle = make_bundle(size=20 * SMALL_CHUNK)
    trainer.publish(any_broker, bundle)
    topic = chunk_topics_of(trainer, "press/1.atoll")[12]
    put(any_broker, {topic: b""})
    path = tmp_path / "bundle.atoll"
    with device(any_broker, tmp_path / "device", trainer.root) as repository:
        release = newest(repository.refresh())
        with pytest.raises(RepositoryUnavailableError, match=re.escape(topic)) as caught:
            repository.fetch(release, path)
    assert caught.value.reason is Reason.MISSING_CHUNK

    trainer.push(any_broker)
    seen: list[int] = []
    with device(any_broker, tmp_path / "device", trainer.root) as repository:
        repository.fetch(release, path, lambda done, _total: seen.append(done))

    assert path.read_bytes() == bundle
    assert seen[0] > 10 * SMALL_CHUNK
    assert seen[-1] == len(bundle)


def test_a_turn_ends_a_fetch_and_the_next_goes_on_there(
    any_broker: RunningBroker, tmp_path: Path, trainer: Trainer
) -> None:
    bundle = make_bundle(size=40 * SMALL_CHUNK)
    trainer.publish(any_broker, bundle)
    path = tmp_path / "bundle.atoll"
    seen: list[int] = []
    with device(any_broker, tmp_path / "device", trainer.root) as view:
        release = newest(view.refresh())
        turns = 1
        while not view.fetch(release, path, lambda done, _total: seen.append(done), turn_s=0.002):
            turns += 1

    assert turns > 2
    assert path.read_bytes() == bundle
    assert seen == sorted(seen)
    assert len(seen) == len(chunk_topics_of(trainer, "press/1.atoll"))


def test_a_fetch_that_is_killed_again_and_again_fetches_nothing_twice(
    any_broker: RunningBroker, tmp_path: Path, trainer: Trainer
) -> None:
    bundle = make_bundle(size=60 * SMALL_CHUNK)
    trainer.publish(any_broker, bundle)
    path = tmp_path / "bundle.atoll"
    with device(any_broker, tmp_path / "device", trainer.root) as view:
        release = newest(view.refresh())
    request = {
        "broker": {"host": "127.0.0.1", "port": any_broker.port},
        "client_id": "fetch",
        "release": asdict(release),
        "path": str(path),
        "max_bytes": 10**6,
        "turn_s": 60,
    }
    stored_at_kills: list[set[int]] = []
    for after in (5, 20, 40):
        with child_of(request) as process:
            wait_for(lambda after=after: len(stored(path)) >= after or path.exists())
            process.kill()
            process.wait(10)
        stored_at_kills.append(stored(path))

    with device(any_broker, tmp_path / "device", trainer.root) as view:
        fetched = record(view, release, path)

    assert stored_at_kills[0] <= stored_at_kills[1] <= stored_at_kills[2]
    assert not fetched & stored_at_kills[-1]
    assert path.read_bytes() == bundle


def test_a_bundle_larger_than_the_device_takes_is_refused_before_a_byte_is_fetched(
    mosquitto_broker: RunningBroker, tmp_path: Path, trainer: Trainer
) -> None:
    trainer.publish(mosquitto_broker, make_bundle())
    with device(mosquitto_broker, tmp_path / "device", trainer.root) as view:
        release = newest(view.refresh())
        with pytest.raises(BundleRejectedError, match="max_bundle_bytes") as caught:
            view.fetch(release, tmp_path / "bundle.atoll", max_bytes=release.length - 1)

    assert caught.value.reason is Reason.TOO_LARGE
    assert not list(tmp_path.glob("bundle.*"))


def test_a_disk_that_is_full_is_told_and_takes_the_bundle_once_there_is_room(
    mosquitto_broker: RunningBroker, tmp_path: Path, trainer: Trainer, small_disk: Path
) -> None:
    bundle = make_bundle(size=2_000_000)
    trainer.publish(mosquitto_broker, bundle, chunk_size=60_000)
    filler = small_disk / "filler"
    filler.write_bytes(bytes(5_000_000))
    with device(mosquitto_broker, tmp_path / "device", trainer.root) as view:
        release = newest(view.refresh())
        with pytest.raises(StorageError) as caught:
            view.fetch(release, small_disk / "bundle.atoll")
        assert [path.name for path in small_disk.iterdir()] == ["filler"]
        filler.unlink()
        assert view.fetch(release, small_disk / "bundle.atoll")

    assert caught.value.reason is Reason.NO_SPACE
    assert (small_disk / "bundle.atoll").read_bytes() == bundle


def test_a_disk_that_another_fills_at_that_moment_is_told(
    mosquitto_broker: RunningBroker,
    tmp_path: Path,
    trainer: Trainer,
    small_disk: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    trainer.publish(mosquitto_broker, make_bundle(size=2_000_000), chunk_size=60_000)
    (small_disk / "filler").write_bytes(bytes(7_000_000))
    monkeypatch.setattr(part_module, "_SPARE_BYTES", -(10**9))  # as if there had been room a moment ago

    with device(mosquitto_broker, tmp_path / "device", trainer.root) as view:
        release = newest(view.refresh())
        with pytest.raises(StorageError) as caught:
            view.fetch(release, small_disk / "bundle.atoll")

    assert caught.value.reason is Reason.NO_SPACE
    assert [path.name for path in small_disk.iterdir()] == ["filler"]


def test_chunks_that_a_power_cut_took_back_are_fetched_again_without_blame(
    mosquitto_broker: RunningBroker, tmp_path: Path, trainer: Trainer
) -> None:
    bundle = make_bundle(size=20 * SMALL_CHUNK)
    trainer.publish(mosquitto_broker, bundle)
    path = tmp_path / "bundle.atoll"
    with device(mosquitto_broker, tmp_path / "device", trainer.root) as repository:
        release = newest(repository.refresh())
        # The journal says that chunks 0 to 2 are on disk; the disk has zeros.
        with Part(path, release) as part:
            for number in range(3):
                part.write(number, bytes(SMALL_CHUNK))

        assert repository.fetch(release, path)

    assert path.read_bytes() == bundle
    assert [file.name for file in tmp_path.glob("bundle.*")] == ["bundle.atoll"]


def test_the_release_before_stays_available(
    any_broker: RunningBroker, tmp_path: Path, trainer: Trainer
) -> None:
    for number in range(1, 5):
        trainer.publish(any_broker, make_bundle(release=number))
    path = tmp_path / "bundle.atoll"

    with device(any_broker, tmp_path / "device", trainer.root) as repository:
        releases = repository.refresh()
        assert [release.release for release in releases] == [2, 3, 4]
        repository.fetch(releases[1], path)

    assert path.read_bytes() == make_bundle(release=3)


@pytest.mark.parametrize("child", ["refresh", "fetch"])
def test_a_child_that_runs_no_model_loads_nothing_for_it(child):
    """Seconds and much memory on a small device, at each release."""
    told = subprocess.run(
        [sys.executable, "-c", f"import atoll_agent.children.{child}, sys; print(*sys.modules)"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert not {"numpy", "jmespath", "atoll_infer", "atoll_agent.decisions"} & set(told.stdout.split())
