"""Publishers that die, and brokers that forget or refuse."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from support import brokers
from support.brokers import RunningBroker
from support.releases import (
    EAGER,
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
    ConfigError,
    NotStoredError,
    Reason,
    RepositoryUnavailableError,
    StorageError,
)
from atoll_contract.topics import MetadataTopic
from atoll_sim.demo.ports import free_port
from atoll_trainer.lineage import require_own_past
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
    [("message_size_limit 20000", "too large"), ("max_packet_size 20000", "more than the 20000")],
)
def test_a_broker_that_drops_large_messages_is_found_out(
    tmp_path: Path, trainer: Trainer, line: str, says: str
) -> None:
    trainer.sign(make_bundle(size=100_000), chunk_size=61_440)
    with (
        brokers.mosquitto(tmp_path / "broker", line) as broker,
        Publisher(broker_of(broker), "trainer", deadlines=Deadlines(read_back_s=2.0)) as publisher,
    ):
        [(bundle, detail)] = publisher.push(trainer.repository.steps()).not_kept.items()
    assert bundle == "press/1.atoll"
    assert says in detail
    assert chunk_topics_of(trainer, "press/1.atoll")[0] in detail


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


def test_a_broker_that_does_not_forget_is_found_out_and_no_file_is_deleted(
    tmp_path: Path, trainer: Trainer
) -> None:
    folder, port = tmp_path / "broker", free_port()
    lines = ("persistence true", f"persistence_location {folder}/")
    with brokers.mosquitto(folder, *lines, port=port) as broker:
        trainer.publish(broker, make_bundle(release=1))
        trainer.publish(broker, make_bundle(release=2))
    trainer.age(timedelta(days=2))
    obsolete = trainer.repository.obsolete(utc_now())
    rules = tmp_path / "rules"
    rules.write_text("topic read atoll/v1/releases/#\n")

    with (
        brokers.mosquitto(folder, *lines, f"acl_file {rules}", port=port) as broker,
        Publisher(broker_of(broker), "trainer", deadlines=EAGER) as publisher,
        pytest.raises(NotStoredError, match="Not authorized"),
    ):
        publisher.clear(obsolete)

    assert all(one.path.exists() for one in obsolete)


def test_a_broker_that_goes_away_is_told_and_the_fetch_goes_on_later(
    tmp_path: Path, trainer: Trainer
) -> None:
    bundle = make_bundle(size=40 * SMALL_CHUNK)
    path = tmp_path / "bundle.atoll"
    lines = ("persistence true", f"persistence_location {tmp_path / 'broker'}/")
    with brokers.mosquitto(tmp_path / "broker", *lines) as broker:
        trainer.publish(broker, bundle)

        def stop_half_way(done: int, total: int) -> None:
            if done > total / 2:
                broker.stop()

        with device(broker, tmp_path / "device", trainer.root) as repository:
            release = newest(repository.refresh())
            with pytest.raises(BrokerUnavailableError):
                repository.fetch(release, path, stop_half_way)

        broker.start()
        seen: list[int] = []
        with device(broker, tmp_path / "device", trainer.root) as repository:
            repository.fetch(release, path, lambda done, _total: seen.append(done))

    assert path.read_bytes() == bundle
    assert seen[0] > len(bundle) / 2


# Bundles that the disk lost


def bundle_file(trainer: Trainer, target: str) -> Path:
    [step] = [step for step in trainer.repository.steps() if step.name == target]
    return step.pieces[0].path


@pytest.mark.parametrize("place", [0, 1500, -1])
def test_damaged_bytes_are_never_put_over_good_ones(
    mosquitto_broker: RunningBroker, trainer: Trainer, place: int
) -> None:
    first, second = make_bundle(release=1), make_bundle(release=2)
    trainer.publish(mosquitto_broker, first)
    path = bundle_file(trainer, "press/1.atoll")
    damaged = bytearray(first)
    damaged[place] ^= 1
    path.write_bytes(damaged)

    trainer.publish(mosquitto_broker, second)

    found = held(mosquitto_broker, chunk_topics_of(trainer, "press/1.atoll"))
    assert b"".join(payload or b"" for payload in found.values()) == first
    assert path.read_bytes() == first


def test_a_bundle_that_only_the_broker_still_has_is_got_back(
    any_broker: RunningBroker, trainer: Trainer
) -> None:
    first = make_bundle(release=1)
    trainer.publish(any_broker, first)
    path = bundle_file(trainer, "press/1.atoll")
    path.unlink()

    trainer.publish(any_broker, make_bundle(release=2))

    assert path.read_bytes() == first


@pytest.mark.parametrize("loss", ["damaged", "missing"])
def test_a_bundle_that_nobody_has_whole_is_named_before_anything_is_put(
    mosquitto_broker: RunningBroker, tmp_path: Path, trainer: Trainer, loss: str
) -> None:
    first = make_bundle(release=1)
    trainer.publish(mosquitto_broker, first)
    path = bundle_file(trainer, "press/1.atoll")
    topics = chunk_topics_of(trainer, "press/1.atoll")
    put(mosquitto_broker, {topics[0]: b"", topics[-1]: b""})
    if loss == "damaged":
        path.write_bytes(b"\0" + first[1:])
    else:
        path.unlink()

    with pytest.raises(StorageError, match="publish it again: atoll-trainer publish FILE") as caught:
        trainer.publish(mosquitto_broker, make_bundle(release=2))

    assert "press/1.atoll" in caught.value.detail
    assert str(path) in caught.value.detail
    assert not any(held(mosquitto_broker, chunk_topics_of(trainer, "press/2.atoll")).values())
    trainer.publish(mosquitto_broker, first)
    assert install(mosquitto_broker, tmp_path / "device", trainer.root) == make_bundle(release=2)


# Brokers that hold something else


def check(broker: RunningBroker, trainer: Trainer, *, may_replace: bool = False) -> None:
    with Publisher(broker_of(broker), "trainer", deadlines=EAGER) as publisher:
        require_own_past(trainer.folder / "repository" / "metadata", publisher.fetch, may_replace=may_replace)


def test_an_empty_broker_and_one_that_is_behind_may_be_published_to(
    any_broker: RunningBroker, trainer: Trainer
) -> None:
    check(any_broker, trainer)
    trainer.publish(any_broker, make_bundle(release=1))
    check(any_broker, trainer)
    trainer.rotate_root()
    trainer.sign(make_bundle(release=2))
    check(any_broker, trainer)


def test_a_repository_from_an_old_backup_is_refused(
    any_broker: RunningBroker, tmp_path: Path, trainer: Trainer
) -> None:
    trainer.publish(any_broker, make_bundle(release=1))
    backup = Trainer(tmp_path / "backup")
    shutil.copytree(trainer.folder, backup.folder)
    trainer.publish(any_broker, make_bundle(release=2))

    for may_replace in (False, True):
        with pytest.raises(ConfigError, match="backup"):
            check(any_broker, backup, may_replace=may_replace)
    check(any_broker, trainer)

    # Another history that has caught up is no better.
    backup.sign(make_bundle(release=2, size=100))
    with pytest.raises(ConfigError, match="backup"):
        check(any_broker, backup)


def test_a_backup_from_before_the_timestamp_was_signed_anew_goes_on(
    any_broker: RunningBroker, tmp_path: Path, trainer: Trainer
) -> None:
    trainer.publish(any_broker, make_bundle(release=1))
    backup = Trainer(tmp_path / "backup")
    shutil.copytree(trainer.folder, backup.folder)
    for _ in range(2):
        trainer.repository.commit(trainer.ring, utc_now(), renews_timestamp=True)
    trainer.push(any_broker)
    assert refresh(any_broker, tmp_path / "device", trainer.root)

    check(any_broker, backup)

    assert backup.repository.metadata.version("timestamp") == trainer.repository.metadata.version("timestamp")
    backup.publish(any_broker, make_bundle(release=2))
    assert install(any_broker, tmp_path / "device", trainer.root) == make_bundle(release=2)


def test_a_repository_from_before_a_new_root_is_refused(
    mosquitto_broker: RunningBroker, tmp_path: Path, trainer: Trainer
) -> None:
    trainer.publish(mosquitto_broker, make_bundle(release=1))
    backup = Trainer(tmp_path / "backup")
    shutil.copytree(trainer.folder, backup.folder)
    trainer.rotate_root()
    trainer.push(mosquitto_broker)

    with pytest.raises(ConfigError, match="backup"):
        check(mosquitto_broker, backup)


def test_another_repository_is_only_replaced_on_purpose(
    any_broker: RunningBroker, tmp_path: Path, trainer: Trainer
) -> None:
    trainer.publish(any_broker, make_bundle(release=1))
    trainer.publish(any_broker, make_bundle(release=2))
    stranger = Trainer.create(tmp_path / "stranger")

    with pytest.raises(ConfigError, match="--replace-repository"):
        check(any_broker, stranger)

    check(any_broker, stranger, may_replace=True)
    stranger.publish(any_broker, make_bundle(release=1))
    check(any_broker, stranger)
    assert install(any_broker, tmp_path / "device", stranger.root) == make_bundle(release=1)


def test_a_root_that_anybody_has_put_there_is_mended_and_hides_no_old_backup(
    mosquitto_broker: RunningBroker, tmp_path: Path, trainer: Trainer
) -> None:
    trainer.publish(mosquitto_broker, make_bundle(release=1))
    backup = Trainer(tmp_path / "backup")
    shutil.copytree(trainer.folder, backup.folder)
    trainer.publish(mosquitto_broker, make_bundle(release=2))
    stranger = Trainer.create(tmp_path / "stranger")
    put(mosquitto_broker, {str(MetadataTopic("1.root.json")): stranger.root})

    with pytest.raises(ConfigError, match="backup"):
        check(mosquitto_broker, backup, may_replace=True)
    check(mosquitto_broker, trainer)

    assert trainer.push(mosquitto_broker).topics_stored == 1
    stranger.push(mosquitto_broker)
    with pytest.raises(ConfigError, match="somebody has tampered"):
        check(mosquitto_broker, trainer)


@pytest.mark.parametrize("name", ["1.root.json", "root.json", "timestamp.json"])
def test_what_no_key_of_ours_signed_is_mended_and_refuses_nothing(
    mosquitto_broker: RunningBroker, tmp_path: Path, trainer: Trainer, name: str
) -> None:
    trainer.publish(mosquitto_broker, make_bundle(release=1))
    forged = b"{}"
    if name == "timestamp.json":
        stranger = Trainer.create(tmp_path / "stranger")
        stranger.sign(make_bundle(release=1))
        forged = stranger.sign(make_bundle(release=2)).steps()[-1].pieces[0].read()
    put(mosquitto_broker, {str(MetadataTopic(name)): forged})

    check(mosquitto_broker, trainer)

    assert trainer.push(mosquitto_broker).topics_stored == 1
