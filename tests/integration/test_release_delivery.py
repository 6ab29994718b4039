"""A release from the trainer's disk to a device's, over real brokers, and what can happen to its bytes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from support.brokers import RunningBroker
from support.releases import (
    SMALL_CHUNK,
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

from atoll_contract.errors import (
    DigestMismatchError,
    Reason,
    RepositoryUnavailableError,
)


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    """A trainer that has released nothing."""
    return Trainer.create(tmp_path / "trainer")


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

    with pytest.raises(DigestMismatchError):
        install(any_broker, tmp_path / "device", trainer.root)
    assert not list((tmp_path / "device").glob("bundle.*"))

    assert trainer.push(any_broker).topics_stored == 1
    assert install(any_broker, tmp_path / "device", trainer.root) == bundle


@pytest.mark.parametrize("size", [10, SMALL_CHUNK + 1, 200_000])
def test_a_chunk_of_the_wrong_size_is_refused(
    any_broker: RunningBroker, tmp_path: Path, trainer: Trainer, size: int
) -> None:
    trainer.publish(any_broker, make_bundle())
    topic = chunk_topics_of(trainer, "press/1.atoll")[2]
    put(any_broker, {topic: bytes(size)})

    with pytest.raises(DigestMismatchError, match=re.escape(topic)):
        install(any_broker, tmp_path / "device", trainer.root)
    assert not list((tmp_path / "device").glob("bundle.*"))


def test_a_fetch_goes_on_where_a_missing_chunk_broke_it_off(
    any_broker: RunningBroker, tmp_path: Path, trainer: Trainer
) -> None:
    bundle = make_bundle(size=20 * SMALL_CHUNK)
    trainer.publish(any_broker, bundle)
    topic = chunk_topics_of(trainer, "press/1.atoll")[12]
    put(any_broker, {topic: b""})
    part = tmp_path / "bundle.part"
    with device(any_broker, tmp_path / "device", trainer.root) as repository:
        release = newest(repository.refresh())
        with pytest.raises(RepositoryUnavailableError, match=re.escape(topic)) as caught:
            repository.fetch(release, part)
    assert caught.value.reason is Reason.MISSING_CHUNK

    trainer.push(any_broker)
    seen: list[int] = []
    with device(any_broker, tmp_path / "device", trainer.root) as repository:
        repository.fetch(release, part, lambda done, _total: seen.append(done))

    assert part.read_bytes() == bundle
    assert seen[0] > 10 * SMALL_CHUNK
    assert seen[-1] == len(bundle)


def test_chunks_that_a_power_cut_took_back_are_fetched_again_without_blame(
    mosquitto_broker: RunningBroker, tmp_path: Path, trainer: Trainer
) -> None:
    bundle = make_bundle(size=20 * SMALL_CHUNK)
    trainer.publish(mosquitto_broker, bundle)
    part = tmp_path / "bundle.part"
    with device(mosquitto_broker, tmp_path / "device", trainer.root) as repository:
        release = newest(repository.refresh())
        record = tmp_path / "bundle.part.chunks"
        # The record says that chunks 0 to 2 are there; the disk has zeros.
        record.write_text(f"{release.sha256} {release.length} {release.chunk_size}\n0\n1\n2\n")
        part.write_bytes(bytes(release.length))

        repository.fetch(release, part)

    assert part.read_bytes() == bundle
    assert not record.exists()


def test_the_release_before_stays_available(
    any_broker: RunningBroker, tmp_path: Path, trainer: Trainer
) -> None:
    for number in range(1, 5):
        trainer.publish(any_broker, make_bundle(release=number))
    part = tmp_path / "bundle.part"

    with device(any_broker, tmp_path / "device", trainer.root) as repository:
        releases = repository.refresh()
        assert [release.release for release in releases] == [2, 3, 4]
        repository.fetch(releases[1], part)

    assert part.read_bytes() == make_bundle(release=3)
