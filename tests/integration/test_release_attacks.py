"""What an attacker can do to the release topics who may write them, with and without stolen keys."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest
from securesystemslib.signer import CryptoSigner
from support.brokers import RunningBroker
from support.pen import Pen
from support.releases import (
    Trainer,
    chunk_topics_of,
    held,
    install,
    make_bundle,
    newest,
    put,
    refresh,
    topics_of,
    utc_now,
)
from tuf.api.metadata import Snapshot, TargetFile, Targets, Timestamp

from atoll_contract.errors import DigestMismatchError, Reason, ReleaseForgedError, RepositoryUnavailableError
from atoll_contract.release import TRAINER_ROLE
from atoll_trainer.keys import KeyName


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    """A trainer that has released nothing."""
    return Trainer.create(tmp_path / "trainer")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A device's folder."""
    return tmp_path / "device"


def replay(broker: RunningBroker, old: Mapping[str, bytes | None]) -> None:
    put(broker, {topic: payload for topic, payload in old.items() if payload})


def own_key(tmp_path: Path, name: KeyName) -> CryptoSigner:
    """A key of the attacker's own."""
    return Pen(Trainer.create(tmp_path / "attacker")).key(name)


# Without any key


def test_old_metadata_are_refused_also_when_the_device_has_lost_its_timestamp(
    any_broker: RunningBroker, folder: Path, trainer: Trainer
) -> None:
    trainer.publish(any_broker, make_bundle(release=1))
    old = held(any_broker, topics_of(trainer))
    trainer.publish(any_broker, make_bundle(release=2))
    assert newest(refresh(any_broker, folder, trainer.root)).release == 2
    (folder / "metadata" / "timestamp.json").unlink()

    replay(any_broker, old)

    with pytest.raises(ReleaseForgedError):
        refresh(any_broker, folder, trainer.root)


def test_a_device_that_has_lost_everything_believes_old_metadata_until_they_expire(
    any_broker: RunningBroker, folder: Path, trainer: Trainer
) -> None:
    trainer.publish(any_broker, make_bundle(release=1))
    old = held(any_broker, topics_of(trainer))
    trainer.publish(any_broker, make_bundle(release=2))
    replay(any_broker, old)

    assert newest(refresh(any_broker, folder, trainer.root)).release == 1
    with pytest.raises(RepositoryUnavailableError) as caught:
        refresh(any_broker, folder, trainer.root, now=lambda: utc_now() + timedelta(days=31))
    assert caught.value.reason is Reason.METADATA_EXPIRED


@pytest.mark.parametrize("role", [Snapshot.type, TRAINER_ROLE, Targets.type])
def test_an_old_file_under_a_new_name_is_refused_so_that_no_two_times_can_be_mixed(
    any_broker: RunningBroker, folder: Path, trainer: Trainer, role: str
) -> None:
    trainer.publish(any_broker, make_bundle("press", 1))
    before = Pen(trainer)
    old = held(any_broker, [before.topic(role)])[before.topic(role)]
    trainer.publish(any_broker, make_bundle("pump", 1))
    pen = Pen(trainer)
    pen.sign(Targets.type, pen.key(KeyName.TARGETS))
    pen.sign(Snapshot.type, pen.key(KeyName.ONLINE))
    pen.sign(Timestamp.type, pen.key(KeyName.ONLINE))
    good = {**held(any_broker, [pen.topic(role)]), **pen.topics}
    put(any_broker, {**pen.topics, pen.topic(role): old or b""})

    with pytest.raises(ReleaseForgedError):
        refresh(any_broker, folder, trainer.root)

    replay(any_broker, good)
    assert len(refresh(any_broker, folder, trainer.root)) == 2


def test_the_bytes_of_another_model_are_refused(
    any_broker: RunningBroker, folder: Path, trainer: Trainer
) -> None:
    trainer.publish(any_broker, make_bundle("press", 1))
    trainer.publish(any_broker, make_bundle("pump", 1))
    press, pump = (chunk_topics_of(trainer, f"{model}/1.atoll") for model in ("press", "pump"))
    other = held(any_broker, pump)
    put(any_broker, {mine: other[theirs] or b"" for mine, theirs in zip(press, pump, strict=False)})

    with pytest.raises(DigestMismatchError):
        install(any_broker, folder, trainer.root)

    trainer.push(any_broker)
    assert install(any_broker, folder, trainer.root) == make_bundle("press", 1)


# With stolen keys


def test_a_stolen_online_key_installs_nothing_and_is_revoked_by_a_new_root(
    any_broker: RunningBroker, tmp_path: Path, folder: Path, trainer: Trainer
) -> None:
    trainer.publish(any_broker, make_bundle(release=1))
    assert install(any_broker, folder, trainer.root) == make_bundle(release=1)
    stolen = Pen(trainer)
    key = stolen.key(KeyName.ONLINE)
    stolen.sign(TRAINER_ROLE, own_key(tmp_path, KeyName.TRAINER))
    stolen.sign(Snapshot.type, key)
    stolen.sign(Timestamp.type, key)
    put(any_broker, stolen.topics)

    with pytest.raises(ReleaseForgedError):
        refresh(any_broker, folder, trainer.root)

    honest = Pen(trainer)
    new = honest.rotate_online_key()
    honest.sign(Snapshot.type, new)
    honest.sign(Timestamp.type, new)
    put(any_broker, {stolen.topic(TRAINER_ROLE): b""})
    put(any_broker, honest.topics)
    assert newest(refresh(any_broker, folder, trainer.root)).release == 1


def test_versions_that_a_stolen_key_pushed_ahead_are_recovered_from_by_a_new_root(
    any_broker: RunningBroker, folder: Path, trainer: Trainer
) -> None:
    trainer.publish(any_broker, make_bundle(release=1))
    stolen = Pen(trainer)
    stolen.sign(Timestamp.type, stolen.key(KeyName.ONLINE), version=1_000_000)
    put(any_broker, stolen.topics)
    assert newest(refresh(any_broker, folder, trainer.root)).release == 1

    trainer.publish(any_broker, make_bundle(release=2))
    with pytest.raises(ReleaseForgedError):
        refresh(any_broker, folder, trainer.root)

    honest = Pen(trainer)
    new = honest.rotate_online_key()
    honest.sign(Snapshot.type, new)
    honest.sign(Timestamp.type, new)
    put(any_broker, honest.topics)
    assert newest(refresh(any_broker, folder, trainer.root)).release == 2


def test_a_stolen_trainer_key_signs_nothing_outside_its_paths_and_is_revoked_by_new_targets(
    any_broker: RunningBroker, tmp_path: Path, folder: Path, trainer: Trainer
) -> None:
    trainer.publish(any_broker, make_bundle(release=1))
    stolen = Pen(trainer)

    def sneak(role: Targets) -> None:
        good = role.targets["press/1.atoll"]
        for name in ("press.atoll", "a/press/2.atoll", "press/../2.atoll"):
            role.targets[name] = TargetFile(good.length, dict(good.hashes), name, {"custom": good.custom})

    stolen.sign(TRAINER_ROLE, stolen.key(KeyName.TRAINER), change=sneak)
    stolen.sign(Snapshot.type, stolen.key(KeyName.ONLINE))
    stolen.sign(Timestamp.type, stolen.key(KeyName.ONLINE))
    put(any_broker, stolen.topics)
    assert [release.release for release in refresh(any_broker, folder, trainer.root)] == [1]

    honest, new = stolen, own_key(tmp_path, KeyName.TRAINER)
    old = honest.key(KeyName.TRAINER)

    def swap(targets: Targets) -> None:
        targets.revoke_key(old.public_key.keyid, TRAINER_ROLE)
        targets.add_key(new.public_key, TRAINER_ROLE)

    honest.sign(Targets.type, honest.key(KeyName.TARGETS), change=swap)
    honest.sign(Snapshot.type, honest.key(KeyName.ONLINE))
    honest.sign(Timestamp.type, honest.key(KeyName.ONLINE))
    put(any_broker, honest.topics)
    with pytest.raises(ReleaseForgedError):  # what the old key signed counts no more
        refresh(any_broker, folder, trainer.root)

    honest.sign(TRAINER_ROLE, new)
    honest.sign(Snapshot.type, honest.key(KeyName.ONLINE))
    honest.sign(Timestamp.type, honest.key(KeyName.ONLINE))
    put(any_broker, honest.topics)
    assert [release.release for release in refresh(any_broker, folder, trainer.root)] == [1]


def test_a_root_in_between_that_is_missing_fails_closed_until_it_is_back(
    any_broker: RunningBroker, folder: Path, trainer: Trainer
) -> None:
    trainer.publish(any_broker, make_bundle())
    pen = Pen(trainer)
    new = pen.rotate_online_key()
    second = pen.topic("root")
    pen.sign("root", pen.key(KeyName.ROOT))
    pen.sign(Snapshot.type, new)
    pen.sign(Timestamp.type, new)
    put(any_broker, {**pen.topics, second: b""})

    with pytest.raises(ReleaseForgedError):
        refresh(any_broker, folder, trainer.root)

    put(any_broker, pen.topics)
    assert newest(refresh(any_broker, folder, trainer.root)).release == 1
