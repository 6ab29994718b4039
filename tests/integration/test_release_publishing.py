"""Publishers that die, and brokers that forget or refuse."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from support import brokers
from support.brokers import RunningBroker
from support.releases import (
    SMALL_CHUNK,
    Trainer,
    broker_of,
    chunk_topics_of,
    device,
    held,
    install,
    make_bundle,
    newest,
    put,
    refresh,
    topics_of,
    utc_now,
)

from atoll_contract.errors import (
    BrokerUnavailableError,
    NotStoredError,
    Reason,
    RepositoryUnavailableError,
)
from atoll_trainer.publisher import Deadlines, Progress, Publisher


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    """A trainer that has released nothing."""
    return Trainer.create(tmp_path / "trainer")


class _DiedError(Exception):
    pass


@pytest.mark.parametrize(
    "last_step", ["press/2.atoll", "root", "trainer", "targets", "snapshot", "timestamp"]
)
def test_a_publisher_that_dies_after_a_step_harms_nobody_and_is_run_again(
    any_broker: RunningBroker, tmp_path: Path, trainer: Trainer, last_step: str
) -> None:
    first, second = make_bundle(release=1), make_bundle(release=2)
    trainer.publish(any_broker, first)
    assert install(any_broker, tmp_path / "device", trainer.root) == first
    trainer.sign(second)

    def die(progress: Progress) -> None:
        if progress.step == last_step:
            raise _DiedError

    with pytest.raises(_DiedError):
        trainer.push(any_broker, die)

    expected = second if last_step == "timestamp" else first
    for folder in (tmp_path / "device", tmp_path / "fresh device"):
        assert install(any_broker, folder, trainer.root) == expected

    trainer.publish(any_broker, second)
    for folder in (tmp_path / "device", tmp_path / "fresh device"):
        assert install(any_broker, folder, trainer.root) == second


def test_a_broker_that_lost_everything_is_filled_again(
    any_broker: RunningBroker, tmp_path: Path, trainer: Trainer
) -> None:
    bundle = make_bundle()
    trainer.publish(any_broker, bundle)
    assert install(any_broker, tmp_path / "device", trainer.root) == bundle
    put(any_broker, dict.fromkeys(topics_of(trainer), b""))
    with pytest.raises(RepositoryUnavailableError) as caught:
        refresh(any_broker, tmp_path / "device", trainer.root)
    assert caught.value.reason is Reason.NO_REPOSITORY

    trainer.publish(any_broker, bundle)

    for folder in (tmp_path / "device", tmp_path / "fresh device"):
        assert install(any_broker, folder, trainer.root) == bundle


def test_other_bundles_are_only_looked_at_by_their_last_chunk(
    mosquitto_broker: RunningBroker, trainer: Trainer
) -> None:
    trainer.publish(mosquitto_broker, make_bundle("press", 1))
    trainer.publish(mosquitto_broker, make_bundle("pump", 1))
    press = chunk_topics_of(trainer, "press/1.atoll")
    steps = trainer.repository.steps()

    put(mosquitto_broker, {press[0]: b""})
    with Publisher(broker_of(mosquitto_broker), "trainer") as publisher:
        assert publisher.push(steps, compare={"pump/1.atoll"}).topics_stored == 0
        assert publisher.push(steps, compare={"press/1.atoll"}).topics_stored == 1

    put(mosquitto_broker, {press[-1]: b""})
    with Publisher(broker_of(mosquitto_broker), "trainer") as publisher:
        assert publisher.push(steps, compare=set()).topics_stored == len(press)


def test_what_is_obsolete_leaves_the_broker_and_the_disk(
    any_broker: RunningBroker, tmp_path: Path, trainer: Trainer
) -> None:
    for number in range(1, 4):
        trainer.publish(any_broker, make_bundle(release=number))
    before = set(topics_of(trainer))
    trainer.publish(any_broker, make_bundle(release=4))
    trainer.age(timedelta(days=2))
    obsolete = trainer.repository.obsolete(utc_now() - timedelta(days=1))

    with Publisher(broker_of(any_broker), "trainer") as publisher:
        publisher.clear(obsolete)

    gone = before - set(topics_of(trainer))
    assert {topic for one in obsolete for topic in one.topics} >= gone
    assert not any(held(any_broker, list(gone)).values())
    assert not any(one.path.exists() for one in obsolete)
    assert trainer.push(any_broker).topics_stored == 0
    assert install(any_broker, tmp_path / "device", trainer.root) == make_bundle(release=4)


@pytest.mark.parametrize(
    ("line", "says"),
    [("message_size_limit 20000", "acknowledged"), ("max_packet_size 20000", "closes the connection")],
)
def test_a_broker_that_drops_large_messages_is_found_out(
    tmp_path: Path, trainer: Trainer, line: str, says: str
) -> None:
    trainer.sign(make_bundle(size=100_000), chunk_size=61_440)
    with (
        brokers.mosquitto(tmp_path / "broker", line) as broker,
        Publisher(broker_of(broker), "trainer", deadlines=Deadlines(read_back_s=2.0)) as publisher,
        pytest.raises(NotStoredError, match=says) as caught,
    ):
        publisher.push(trainer.repository.steps())
    assert chunk_topics_of(trainer, "press/1.atoll")[0] in caught.value.detail


def test_a_broker_whose_access_rules_drop_what_is_published_is_found_out(
    tmp_path: Path, trainer: Trainer
) -> None:
    trainer.sign(make_bundle())
    rules = tmp_path / "rules"
    rules.write_text("topic read atoll/v1/releases/#\n")
    with (
        brokers.mosquitto(tmp_path / "broker", f"acl_file {rules}") as broker,
        Publisher(broker_of(broker), "trainer", deadlines=Deadlines(read_back_s=2.0)) as publisher,
        pytest.raises(NotStoredError, match=r"may (read and )?write"),
    ):
        publisher.push(trainer.repository.steps())


def test_a_broker_that_goes_away_is_told_and_the_fetch_goes_on_later(
    tmp_path: Path, trainer: Trainer
) -> None:
    bundle = make_bundle(size=40 * SMALL_CHUNK)
    part = tmp_path / "bundle.part"
    lines = ("persistence true", f"persistence_location {tmp_path / 'broker'}/")
    with brokers.mosquitto(tmp_path / "broker", *lines) as broker:
        trainer.publish(broker, bundle)

        def stop_half_way(done: int, total: int) -> None:
            if done > total / 2:
                broker.stop()

        with device(broker, tmp_path / "device", trainer.root) as repository:
            release = newest(repository.refresh())
            with pytest.raises(BrokerUnavailableError):
                repository.fetch(release, part, stop_half_way)

        broker.start()
        seen: list[int] = []
        with device(broker, tmp_path / "device", trainer.root) as repository:
            repository.fetch(release, part, lambda done, _total: seen.append(done))

    assert part.read_bytes() == bundle
    assert seen[0] > len(bundle) / 2
