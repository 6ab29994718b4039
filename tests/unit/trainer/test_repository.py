"""The signed repository on the trainer's disk, and its keys."""

from __future__ import annotations

import hashlib
import math
import re
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from support.releases import Trainer, make_bundle, utc_now

from atoll_contract.errors import ConfigError, DeviceError, StorageError
from atoll_contract.release import ReleaseTerms
from atoll_contract.topics import ChunkTopic, MetadataTopic
from atoll_trainer.keys import KeyName, KeyRing, create_key
from atoll_trainer.metadata import LIFETIME
from atoll_trainer.repository import Repository

NOW = datetime(2027, 1, 1, tzinfo=UTC)


@pytest.fixture
def trainer(tmp_path: Path) -> Trainer:
    """A trainer that has released nothing."""
    return Trainer.create(tmp_path / "trainer", NOW)


def metadata_files(trainer: Trainer) -> set[str]:
    return {path.name for path in (trainer.folder / "repository" / "metadata").iterdir()}


def last_versions(trainer: Trainer) -> dict[str, int]:
    """Return the newest version of each role, as the order of publishing names them."""
    metadata = trainer.repository.metadata
    roles = ("root", "trainer", "targets", "snapshot", "timestamp")
    return {role: metadata._roles[role].signed.version for role in roles}


# Making and loading


def test_a_new_repository_holds_version_1_of_every_role(trainer: Trainer) -> None:
    expected = {"1.root.json", "1.targets.json", "1.trainer.json", "1.snapshot.json", "timestamp.json"}

    assert metadata_files(trainer) == expected
    assert trainer.repository.root == trainer.root
    assert trainer.repository.releases("press") == []
    assert trainer.repository.next_release("press") == 1


def test_a_folder_without_a_repository_is_told(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ConfigError, match="atoll-trainer init"), Repository.locked(folder):
            pass


@pytest.mark.parametrize("name", ["1.root.json", "1.targets.json", "1.trainer.json", "timestamp.json"])
def test_a_repository_whose_making_was_broken_off_is_told(trainer: Trainer, name: str) -> None:
    (trainer.folder / "repository" / "metadata" / name).unlink()

    with pytest.raises(ConfigError, match="atoll-trainer init"):
        _ = trainer.repository


@pytest.mark.parametrize(
    "name", ["1.root.json", "1.targets.json", "1.trainer.json", "1.snapshot.json", "timestamp.json"]
)
@pytest.mark.parametrize("damage", ["cut", "edited"])
def test_a_damaged_file_is_found_out(trainer: Trainer, name: str, damage: str) -> None:
    path = trainer.folder / "repository" / "metadata" / name
    content = path.read_bytes()
    year = re.search(rb'"expires":"20(..)', content)
    assert year is not None
    path.write_bytes(content[:100] if damage == "cut" else content.replace(year[0], b'"expires":"2099'))

    with pytest.raises(StorageError, match="damaged"):
        _ = trainer.repository


def test_a_second_publisher_has_to_wait(trainer: Trainer) -> None:
    folder = trainer.folder / "repository"

    with (
        Repository.locked(folder),
        pytest.raises(StorageError, match="another publisher"),
        Repository.locked(folder, timeout_s=0.1),
    ):
        pass
    with Repository.locked(folder, timeout_s=0.1) as repository:
        assert repository.next_release("press") == 1


# Releases


def test_a_release_is_signed_with_its_terms(trainer: Trainer) -> None:
    terms = {"channel": "canary", "rollout_percent": 10, "rollout_salt": "salt", "max_delay_s": 60}

    trainer.sign(make_bundle(), NOW, **terms)

    expected = ReleaseTerms.decode({"model": "press", "release": 1, "chunk_size": 1024, **terms})
    assert trainer.repository.releases("press") == [expected]
    assert last_versions(trainer) == {"root": 1, "trainer": 2, "targets": 1, "snapshot": 2, "timestamp": 2}
    [target] = trainer.repository.metadata.trainer.targets.values()
    assert {type(value) for value in target.custom.values()} == {int, str}


def test_the_same_release_again_changes_nothing(trainer: Trainer) -> None:
    trainer.sign(make_bundle(), NOW)
    before = metadata_files(trainer), last_versions(trainer)

    repository = trainer.repository
    assert not repository.add(repository.releases("press")[0], make_bundle())
    assert not repository.commit(trainer.ring, NOW)

    assert (metadata_files(trainer), last_versions(trainer)) == before


def test_other_terms_for_the_same_bytes_are_signed_and_keep_the_chunk_size(trainer: Trainer) -> None:
    trainer.sign(make_bundle(), NOW, rollout_percent=10)

    trainer.sign(make_bundle(), NOW, rollout_percent=50, chunk_size=4096)

    [terms] = trainer.repository.releases("press")
    assert (terms.rollout_percent, terms.chunk_size) == (50, 1024)
    assert last_versions(trainer)["timestamp"] == 3


def test_a_number_is_never_given_to_other_bytes(trainer: Trainer) -> None:
    trainer.sign(make_bundle(), NOW)

    with pytest.raises(ConfigError, match=r"was given to other bytes.* next free is 2"):
        trainer.sign(make_bundle(size=6000), NOW)


def test_a_number_that_was_skipped_or_dropped_stays_unused(trainer: Trainer) -> None:
    for number in (1, 3, 4, 5, 6):
        trainer.sign(make_bundle(release=number), NOW)
    assert [terms.release for terms in trainer.repository.releases("press")] == [4, 5, 6]

    for number in (1, 2, 3):
        with pytest.raises(ConfigError, match="next free is 7") as caught:
            trainer.sign(make_bundle(release=number), NOW)
        assert "other bytes" not in str(caught.value)
    assert trainer.repository.next_release("press") == 7
    assert trainer.repository.next_release("pump") == 1


def test_each_model_keeps_three_releases_of_its_own(trainer: Trainer) -> None:
    for number in range(1, 6):
        trainer.sign(make_bundle("press", number), NOW)
        trainer.sign(make_bundle("pump", number), NOW)

    for model in ("press", "pump"):
        assert [terms.release for terms in trainer.repository.releases(model)] == [3, 4, 5]


def test_what_devices_run_and_go_back_to_stays_however_many_canaries_follow(trainer: Trainer) -> None:
    for number in (1, 2):
        trainer.sign(make_bundle(release=number), NOW)
    for number in range(3, 8):
        trainer.sign(make_bundle(release=number), NOW, channel="canary")
    assert numbers(trainer) == [1, 2, 5, 6, 7]

    trainer.sign(make_bundle(release=8), NOW, rollout_percent=99)
    assert numbers(trainer) == [1, 2, 5, 6, 7, 8]

    trainer.sign(make_bundle(release=9), NOW)
    assert numbers(trainer) == [2, 5, 6, 7, 8, 9]


def test_after_a_stable_release_there_is_one_to_go_back_to(trainer: Trainer) -> None:
    trainer.sign(make_bundle(release=2), NOW)
    for number in (3, 4):
        trainer.sign(make_bundle(release=number), NOW, channel="canary")
    trainer.sign(make_bundle(release=5), NOW)

    repository = trainer.repository
    repository.withdraw("press", 5, "drifts")

    assert [terms.release for terms in repository.releases("press") if terms.channel == "stable"] == [2]


def numbers(trainer: Trainer) -> list[int]:
    return [terms.release for terms in trainer.repository.releases("press")]


def test_what_is_dropped_is_told(trainer: Trainer) -> None:
    for number in (1, 2, 3):
        trainer.sign(make_bundle(release=number), NOW)

    dropped = trainer.repository.add(ReleaseTerms(model="press", release=4), make_bundle(release=4))

    assert [terms.release for terms in dropped] == [1]


def test_steps_stand_in_the_order_of_publishing(trainer: Trainer) -> None:
    bundle = make_bundle(size=3000)
    trainer.sign(bundle, NOW)
    trainer.rotate_root(NOW)

    steps = trainer.repository.steps()

    assert [step.name for step in steps] == [
        "press/1.atoll",
        "root",
        "trainer",
        "targets",
        "snapshot",
        "timestamp",
    ]
    assert b"".join(piece.read() for piece in steps[0].pieces) == bundle
    assert [piece.size_bytes for piece in steps[0].pieces[:-1]] == [1024] * (len(bundle) // 1024)
    names = [[piece.topic.rpartition("/")[2] for piece in step.pieces] for step in steps[1:]]
    assert names == [
        ["1.root.json", "2.root.json", "root.json"],
        ["2.trainer.json"],
        ["1.targets.json"],
        ["2.snapshot.json"],
        ["timestamp.json"],
    ]
    assert steps[1].pieces[2].read() == steps[1].pieces[1].read()


def test_what_was_replaced_long_ago_is_obsolete(trainer: Trainer) -> None:
    now = utc_now()  # files carry the time of this machine
    for number in range(1, 5):
        trainer.sign(make_bundle(release=number), NOW)
    repository = trainer.repository
    assert repository.obsolete(now - timedelta(days=1)) == []
    trainer.age(timedelta(days=2))
    trainer.sign(make_bundle(release=5), NOW)

    obsolete = trainer.repository.obsolete(now - timedelta(days=1))

    # Release 1 was dropped by 5.trainer.json two days ago; release 2 only now, by 6.trainer.json.
    first = make_bundle(release=1)
    sha256, chunks = hashlib.sha256(first).hexdigest(), math.ceil(len(first) / 1024)
    assert obsolete[0].path.name == f"{sha256}.atoll"
    assert obsolete[0].topics == tuple(str(ChunkTopic(sha256, number)) for number in range(chunks))
    expected = {f"{version}.{role}.json" for version in range(1, 5) for role in ("trainer", "snapshot")}
    assert {one.path.name for one in obsolete[1:]} == expected
    assert {topic for one in obsolete[1:] for topic in one.topics} == {
        str(MetadataTopic(name)) for name in expected
    }

    for one in obsolete:
        one.delete()
    assert trainer.repository.obsolete(now - timedelta(days=1)) == []
    assert [terms.release for terms in trainer.repository.releases("press")] == [3, 4, 5]


def test_a_bundle_that_no_metadata_ever_named_is_left_alone(trainer: Trainer) -> None:
    trainer.repository.add(ReleaseTerms(model="press", release=1), make_bundle())
    trainer.age(timedelta(days=2))

    assert trainer.repository.obsolete(utc_now()) == []


# Signing


@pytest.mark.parametrize("writes", range(5))
def test_a_crash_between_any_two_writes_is_completed_by_the_next_run(trainer: Trainer, writes: int) -> None:
    folder = trainer.folder / "repository"
    trainer.sign(make_bundle(release=1), NOW)
    before = trainer.folder / "before"
    shutil.copytree(folder, before)
    repository = trainer.sign(make_bundle(release=2), NOW)
    sha256 = repository.metadata.trainer.targets["press/2.atoll"].hashes["sha256"]
    in_order = [
        f"bundles/{sha256}.atoll",
        "metadata/3.trainer.json",
        "metadata/3.snapshot.json",
        "metadata/timestamp.json",
    ]
    # The state after so many writes, and the torn temporary file of the next one.
    for name in in_order[:writes]:
        shutil.copy(folder / name, before / name)
    (before / "metadata" / ".3.trainer.json.tmp").write_bytes(b"{")
    shutil.rmtree(folder)
    before.rename(folder)

    trainer.sign(make_bundle(release=2), NOW)

    assert [terms.release for terms in trainer.repository.releases("press")] == [1, 2]
    assert last_versions(trainer) == {"root": 1, "trainer": 3, "targets": 1, "snapshot": 3, "timestamp": 3}
    assert all(piece.read() for step in trainer.repository.steps() for piece in step.pieces)
    assert not trainer.repository.commit(trainer.ring, NOW)


def test_signatures_are_renewed_past_half_their_lifetime(trainer: Trainer) -> None:
    trainer.sign(make_bundle(), NOW)
    soon, late = (NOW + LIFETIME["timestamp"] / 2 + timedelta(days=sign) for sign in (-1, 1))

    assert not trainer.repository.commit(trainer.ring, soon)
    assert trainer.repository.commit(trainer.ring, late)
    assert last_versions(trainer) == {"root": 1, "trainer": 2, "targets": 1, "snapshot": 2, "timestamp": 3}

    # A renewed trainer role needs a new snapshot, and that a new timestamp.
    assert trainer.repository.commit(trainer.ring, NOW + LIFETIME["trainer"] / 2 + timedelta(days=1))
    assert last_versions(trainer) == {"root": 1, "trainer": 3, "targets": 1, "snapshot": 3, "timestamp": 4}


@pytest.mark.parametrize("now", [datetime(1970, 1, 2, tzinfo=UTC), NOW - timedelta(days=1)])
def test_a_clock_before_the_last_signature_signs_nothing(trainer: Trainer, now: datetime) -> None:
    trainer.sign(make_bundle(), NOW)
    before = metadata_files(trainer), last_versions(trainer)

    with pytest.raises(DeviceError, match="the clock of this machine"):
        trainer.repository.commit(trainer.ring, now, renews_timestamp=True)
    with pytest.raises(DeviceError, match="the clock of this machine"):
        trainer.rotate_root(now)

    assert (metadata_files(trainer), last_versions(trainer)) == before


def test_what_a_clock_that_was_ahead_has_signed_is_signed_anew_once_somebody_says_that_it_is_right(
    trainer: Trainer,
) -> None:
    trainer.sign(make_bundle(), NOW)
    trainer.sign(make_bundle(release=2), NOW + timedelta(days=10))  # all three roles
    before = last_versions(trainer)
    with pytest.raises(DeviceError, match="resign --clock-is-right"):
        trainer.repository.commit(trainer.ring, NOW)

    assert trainer.repository.commit(trainer.ring, NOW, renews_timestamp=True, is_clock_right=True)

    after = last_versions(trainer)
    for role in ("trainer", "snapshot", "timestamp"):
        assert after[role] == before[role] + 1
        assert trainer.repository.metadata.expires(role) == NOW + LIFETIME[role]
    repository = trainer.repository
    repository.withdraw("press", 2, "bad")
    assert repository.commit(trainer.ring, NOW + timedelta(minutes=5))


def test_an_expired_offline_signature_stops_publishing(trainer: Trainer) -> None:
    repository = trainer.repository
    late = repository.offline_expiries()["targets"] + timedelta(seconds=1)

    with pytest.raises(ConfigError, match="targets metadata expired"):
        repository.commit(trainer.ring, late)


def test_releases_that_fit_in_no_message_are_refused_before_they_are_signed(trainer: Trainer) -> None:
    repository = trainer.repository
    repository.add(ReleaseTerms(model="press", release=1), make_bundle())
    foretold = repository.metadata.size_bytes("trainer")

    with pytest.raises(ConfigError, match="withdraw models that nobody needs"):
        repository.require_room(foretold - 1)
    repository.require_room(foretold)

    repository.commit(trainer.ring, NOW)
    assert foretold - 300 < repository.metadata.path("trainer").stat().st_size <= foretold


@pytest.mark.parametrize("name", [KeyName.TRAINER, KeyName.ONLINE])
def test_without_a_key_that_devices_trust_nothing_is_signed(
    trainer: Trainer, tmp_path: Path, name: KeyName
) -> None:
    [path] = (trainer.folder / "keys").glob(f"{name}-*.pem")
    path.unlink()
    create_key(trainer.folder / "keys", name)
    repository = trainer.repository
    repository.add(ReleaseTerms(model="press", release=1), make_bundle())
    before = metadata_files(trainer)

    with pytest.raises(ConfigError, match=f"the {name} key is needed: {path.name} not found"):
        repository.commit(KeyRing((trainer.folder / "keys", tmp_path)), NOW)

    assert metadata_files(trainer) == before
