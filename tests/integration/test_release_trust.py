"""What a device believes of the release topics, over real brokers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from support.brokers import RunningBroker
from support.releases import (
    Trainer,
    device,
    held,
    install,
    make_bundle,
    newest,
    put,
    put_metadata,
    refresh,
    topics_of,
    utc_now,
)
from tuf.api.metadata import TargetFile

from atoll_agent.adapters.clock import BUILD_TIME
from atoll_agent.rollout.release import Release
from atoll_contract.errors import (
    ConfigError,
    Reason,
    ReleaseForgedError,
    RepositoryUnavailableError,
)
from atoll_contract.release import MAX_ROOTS, ReleaseTerms
from atoll_contract.topics import MetadataTopic

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
FAR_AHEAD = datetime(2100, 1, 1, tzinfo=UTC)


def record_time(device: Path, content: bytes) -> None:
    """Write what the device takes for the last good time."""
    (device / "metadata").mkdir(parents=True)
    (device / "metadata" / "last-good-time").write_bytes(content)


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    """A trainer that has released nothing."""
    return Trainer.create(tmp_path / "trainer")


# Metadata


def test_nothing_published_is_no_repository(
    any_broker: RunningBroker, tmp_path: Path, trainer: Trainer
) -> None:
    with pytest.raises(RepositoryUnavailableError) as caught:
        refresh(any_broker, tmp_path / "device", trainer.root)
    assert caught.value.reason is Reason.NO_REPOSITORY


def test_metadata_of_other_keys_are_forged(
    any_broker: RunningBroker, tmp_path: Path, trainer: Trainer
) -> None:
    folder = tmp_path / "device"
    trainer.publish(any_broker, make_bundle())
    assert install(any_broker, folder, trainer.root) == make_bundle()
    attacker = Trainer.create(tmp_path / "attacker")
    attacker.sign(make_bundle(release=2))
    attacker.sign(make_bundle(release=3))
    attacker.push(any_broker)

    with pytest.raises(ReleaseForgedError):
        refresh(any_broker, folder, trainer.root)


def test_an_old_timestamp_is_a_forgery(any_broker: RunningBroker, tmp_path: Path, trainer: Trainer) -> None:
    folder = tmp_path / "device"
    trainer.publish(any_broker, make_bundle(release=1))
    old = held(any_broker, topics_of(trainer))
    trainer.publish(any_broker, make_bundle(release=2))
    assert newest(refresh(any_broker, folder, trainer.root)).release == 2

    put(any_broker, {topic: payload or b"" for topic, payload in old.items()})

    with pytest.raises(ReleaseForgedError):
        refresh(any_broker, folder, trainer.root)
    trainer.push(any_broker)
    assert newest(refresh(any_broker, folder, trainer.root)).release == 2


@pytest.mark.parametrize("payload", [b"{", b"[]", bytes(20_000), b'{"signed": {}, "signatures": []}'])
def test_a_timestamp_that_is_none_is_a_forgery(
    mosquitto_broker: RunningBroker, tmp_path: Path, trainer: Trainer, payload: bytes
) -> None:
    trainer.publish(mosquitto_broker, make_bundle())
    put(mosquitto_broker, {str(MetadataTopic("timestamp.json")): payload})

    with pytest.raises(ReleaseForgedError):
        refresh(mosquitto_broker, tmp_path / "device", trainer.root)


def test_a_snapshot_that_is_missing_is_waited_for(
    any_broker: RunningBroker, tmp_path: Path, trainer: Trainer
) -> None:
    trainer.publish(any_broker, make_bundle())
    [topic] = [topic for topic in topics_of(trainer) if topic.endswith(".snapshot.json")]
    put(any_broker, {topic: b""})

    with pytest.raises(RepositoryUnavailableError, match=r"snapshot\.json is absent"):
        refresh(any_broker, tmp_path / "device", trainer.root)

    trainer.push(any_broker)
    assert newest(refresh(any_broker, tmp_path / "device", trainer.root)).release == 1


def test_an_expired_timestamp_is_told_and_signed_anew_by_publishing_again(
    any_broker: RunningBroker, tmp_path: Path
) -> None:
    then = utc_now() - timedelta(days=31)
    trainer = Trainer.create(tmp_path / "trainer", then)
    trainer.publish(any_broker, make_bundle(), then)

    with pytest.raises(RepositoryUnavailableError) as caught:
        refresh(any_broker, tmp_path / "device", trainer.root)
    assert caught.value.reason is Reason.METADATA_EXPIRED

    trainer.publish(any_broker, make_bundle())
    assert newest(refresh(any_broker, tmp_path / "device", trainer.root)).release == 1


def test_a_root_that_was_rotated_three_times_while_the_device_was_away_is_followed(
    any_broker: RunningBroker, tmp_path: Path, trainer: Trainer
) -> None:
    folder = tmp_path / "device"
    trainer.publish(any_broker, make_bundle(release=1))
    assert newest(refresh(any_broker, folder, trainer.root)).release == 1
    for _ in range(3):
        trainer.rotate_root()
    trainer.publish(any_broker, make_bundle(release=2))

    for place in (folder, tmp_path / "fresh device"):
        assert newest(refresh(any_broker, place, trainer.root)).release == 2
        assert (place / "metadata" / "root_history" / "4.root.json").exists()


def test_a_root_hint_that_lies_costs_a_timeout_and_no_more(
    any_broker: RunningBroker, tmp_path: Path, trainer: Trainer
) -> None:
    trainer.publish(any_broker, make_bundle())
    put(any_broker, {str(MetadataTopic("root.json")): b'{"signed": {"version": 9}}'})

    assert newest(refresh(any_broker, tmp_path / "device", trainer.root)).release == 1


def test_the_next_root_of_an_attacker_is_a_forgery(
    any_broker: RunningBroker, tmp_path: Path, trainer: Trainer
) -> None:
    trainer.publish(any_broker, make_bundle())
    attacker = Trainer.create(tmp_path / "attacker")
    attacker.rotate_root()
    attacker.push(any_broker)

    with pytest.raises(ReleaseForgedError):
        refresh(any_broker, tmp_path / "device", trainer.root)


def test_a_trainer_that_was_left_nothing_offers_nothing(
    any_broker: RunningBroker, tmp_path: Path, trainer: Trainer
) -> None:
    trainer.publish(any_broker, make_bundle())
    assert newest(refresh(any_broker, tmp_path / "device", trainer.root)).release == 1
    trainer.withdraw_trainer()
    put_metadata(any_broker, trainer)

    # The role's file is still in the folder, with good signatures.
    assert refresh(any_broker, tmp_path / "device", trainer.root) == []
    assert (tmp_path / "device" / "metadata" / "trainer.json").exists()


@pytest.mark.timeout(300)
def test_a_device_follows_as_many_roots_as_the_trainer_signs(
    mosquitto_broker: RunningBroker, tmp_path: Path, trainer: Trainer
) -> None:
    while trainer.repository.metadata.root.version < MAX_ROOTS:
        trainer.rotate_root()
    trainer.publish(mosquitto_broker, make_bundle())

    for folder in ("device", "device", "fresh device"):
        assert [
            release.release for release in refresh(mosquitto_broker, tmp_path / folder, trainer.root)
        ] == [1]
    with pytest.raises(ConfigError, match="devices enrolled with the first follow no more"):
        trainer.rotate_root()


def test_terms_that_cannot_be_read_cost_only_their_own_release(
    mosquitto_broker: RunningBroker, tmp_path: Path, trainer: Trainer
) -> None:
    repository = trainer.sign(make_bundle(release=1))
    targets = repository.metadata.trainer.targets
    good = targets["press/1.atoll"]
    for name, custom in {
        "press/2.atoll": {"model": "press"},
        "press/3.atoll": {**good.custom, "release": 4},
        "press/5.atoll": {**good.custom, "release": 5, "rollout_percent": "many"},
        "press/6.atoll": None,
    }.items():
        extra = {} if custom is None else {"custom": custom}
        targets[name] = TargetFile(good.length, dict(good.hashes), name, extra)
    repository.commit(trainer.ring, utc_now())
    put_metadata(mosquitto_broker, trainer)

    with capture_logs() as logs, device(mosquitto_broker, tmp_path / "device", trainer.root) as view:
        releases = view.refresh()

        assert [release.release for release in releases] == [1]
        assert view.repository.skipped == 4
    skipped = [log["target"] for log in logs if log["event"] == "release.skipped"]
    assert sorted(skipped) == ["press/2.atoll", "press/3.atoll", "press/5.atoll", "press/6.atoll"]


# Clocks


def test_a_clock_before_this_version_was_built_does_not_revive_what_had_expired(
    mosquitto_broker: RunningBroker, tmp_path: Path
) -> None:
    then = BUILD_TIME - timedelta(days=31)
    trainer = Trainer.create(tmp_path / "trainer", then)
    trainer.publish(mosquitto_broker, make_bundle(), then)

    with pytest.raises(RepositoryUnavailableError) as caught:
        refresh(mosquitto_broker, tmp_path / "device", trainer.root, now=lambda: EPOCH)

    assert caught.value.reason is Reason.METADATA_EXPIRED


def test_expiry_is_judged_by_the_clock_that_is_given(mosquitto_broker: RunningBroker, tmp_path: Path) -> None:
    # Fails when python-tuf no longer looks at the private attribute that is set to the time.
    trainer = Trainer.create(tmp_path / "trainer", FAR_AHEAD)
    trainer.publish(mosquitto_broker, make_bundle(), FAR_AHEAD)

    def refresh_after(days: int) -> list[Release]:
        clock = FAR_AHEAD + timedelta(days=days)
        return refresh(mosquitto_broker, tmp_path / "device", trainer.root, now=lambda: clock)

    assert newest(refresh_after(29)).release == 1
    with pytest.raises(RepositoryUnavailableError) as caught:
        refresh_after(31)
    assert caught.value.reason is Reason.METADATA_EXPIRED


def test_a_clock_that_falls_back_does_not_revive_what_had_expired(
    mosquitto_broker: RunningBroker, tmp_path: Path
) -> None:
    #   +85 signed, good to +115      +120 last good refresh, of what was signed at +100
    folder = tmp_path / "device"
    trainer = Trainer.create(tmp_path / "trainer", FAR_AHEAD + timedelta(days=100))
    trainer.publish(mosquitto_broker, make_bundle(release=1), FAR_AHEAD + timedelta(days=100))
    late = FAR_AHEAD + timedelta(days=120)
    assert refresh(mosquitto_broker, folder, trainer.root, now=lambda: late)
    repository = trainer.repository
    repository.add(ReleaseTerms(model="press", release=2), make_bundle(release=2))
    for role in ("trainer", "snapshot", "timestamp"):  # a publisher that does not look at its clock
        repository.metadata._roles[role].signed.expires = FAR_AHEAD
    repository.commit(trainer.ring, FAR_AHEAD + timedelta(days=85))
    trainer.push(mosquitto_broker)

    with pytest.raises(RepositoryUnavailableError) as caught:
        refresh(mosquitto_broker, folder, trainer.root, now=lambda: EPOCH)

    assert caught.value.reason is Reason.METADATA_EXPIRED


@pytest.mark.parametrize("clock", [EPOCH, utc_now() + timedelta(days=31), FAR_AHEAD])
def test_a_device_whose_clock_is_not_set_still_gets_what_is_good(
    any_broker: RunningBroker, tmp_path: Path, clock: datetime
) -> None:
    trainer = Trainer.create(tmp_path / "trainer", BUILD_TIME)
    trainer.publish(any_broker, make_bundle(), BUILD_TIME)

    releases = refresh(
        any_broker, tmp_path / "device", trainer.root, now=lambda: clock, is_time_unsynced=True
    )

    assert newest(releases).release == 1


def test_a_clock_that_is_not_set_teaches_the_device_no_time(
    mosquitto_broker: RunningBroker, tmp_path: Path, trainer: Trainer
) -> None:
    folder = tmp_path / "device"
    trainer.publish(mosquitto_broker, make_bundle())

    refresh(mosquitto_broker, folder, trainer.root, now=lambda: FAR_AHEAD, is_time_unsynced=True)

    assert newest(refresh(mosquitto_broker, folder, trainer.root)).release == 1


def test_what_expired_before_the_last_good_time_stays_expired_without_a_clock(
    mosquitto_broker: RunningBroker, tmp_path: Path
) -> None:
    folder = tmp_path / "device"
    trainer = Trainer.create(tmp_path / "trainer", FAR_AHEAD)
    trainer.publish(mosquitto_broker, make_bundle(), FAR_AHEAD)
    late = FAR_AHEAD + timedelta(days=29)
    assert refresh(mosquitto_broker, folder, trainer.root, now=lambda: late)
    (folder / "metadata" / "last-good-time").write_text((late + timedelta(days=2)).isoformat())

    with pytest.raises(RepositoryUnavailableError) as caught:
        refresh(mosquitto_broker, folder, trainer.root, now=lambda: EPOCH, is_time_unsynced=True)

    assert caught.value.reason is Reason.METADATA_EXPIRED


def test_once_the_clock_is_set_expiry_is_judged_by_it_again(
    mosquitto_broker: RunningBroker, tmp_path: Path
) -> None:
    folder = tmp_path / "device"
    trainer = Trainer.create(tmp_path / "trainer", BUILD_TIME)
    trainer.publish(mosquitto_broker, make_bundle(), BUILD_TIME)
    late = BUILD_TIME + timedelta(days=31)
    assert refresh(mosquitto_broker, folder, trainer.root, now=lambda: late, is_time_unsynced=True)

    with pytest.raises(RepositoryUnavailableError) as caught:
        refresh(mosquitto_broker, folder, trainer.root, now=lambda: late)

    assert caught.value.reason is Reason.METADATA_EXPIRED


@pytest.mark.parametrize(
    "content", [b"", b"2030", b"\xff\x00", b"2100-01-01T00:00:00", b"9999-12-31T23:59:59"]
)
def test_a_damaged_record_of_the_time_is_ignored(
    mosquitto_broker: RunningBroker, tmp_path: Path, trainer: Trainer, content: bytes
) -> None:
    trainer.publish(mosquitto_broker, make_bundle())
    record_time(tmp_path / "device", content)

    assert newest(refresh(mosquitto_broker, tmp_path / "device", trainer.root)).release == 1


@pytest.mark.parametrize("offset", [b"+00:00", b"-23:59", b"+23:59"])
def test_a_whole_record_of_the_time_is_believed_to_the_end_of_the_calendar(
    mosquitto_broker: RunningBroker, tmp_path: Path, trainer: Trainer, offset: bytes
) -> None:
    trainer.publish(mosquitto_broker, make_bundle())
    record_time(tmp_path / "device", b"9999-12-31T23:59:59" + offset)

    with pytest.raises(RepositoryUnavailableError) as caught:
        refresh(mosquitto_broker, tmp_path / "device", trainer.root)
    assert caught.value.reason is Reason.METADATA_EXPIRED


def test_a_trusted_root_that_is_none_is_for_the_operator(
    mosquitto_broker: RunningBroker, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="enrol"):
        refresh(mosquitto_broker, tmp_path / "device", b"{}")
