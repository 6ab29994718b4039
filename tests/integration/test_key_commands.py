"""``atoll-trainer keys``: every device follows from old keys to new ones."""

from __future__ import annotations

import json
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from support.brokers import RunningBroker
from support.operator import Operator, atoll_trainer
from support.releases import Trainer, held, make_bundle, put, refresh, utc_now
from tuf.api.metadata import Timestamp

from atoll_contract.errors import AtollError, Reason
from atoll_contract.topics import MetadataTopic
from atoll_link.exits import Exit
from atoll_trainer.keys import KeyName, KeyRing, create_key
from atoll_trainer.publisher import Progress
from atoll_trainer.repository import Repository
from atoll_trainer.trust import admit, dismiss, sign_targets, trusted

ROOT_TOPICS = [str(MetadataTopic(name)) for name in ("2.root.json", "root.json")]


@pytest.fixture
def operator(tmp_path: Path, mosquitto_broker: RunningBroker) -> Operator:
    """An operator with one release, whose offline keys are on a medium."""
    operator = Operator.with_keys(tmp_path, mosquitto_broker)
    medium(operator).mkdir()
    for name in ("root", "targets"):
        [path] = (operator.home / "keys").glob(f"{name}-*.pem")
        path.rename(medium(operator) / path.name)
    assert operator.publish(1).returncode == Exit.SUCCESS
    return operator


def medium(operator: Operator) -> Path:
    return operator.folder / "medium"


def keys(operator: Operator, action: str, *options: str | Path):
    return operator.run(f"keys {action}", *options, "--keys", medium(operator))


def metadata(operator: Operator):
    return Repository.load(operator.home / "repository").metadata


def releases(operator: Operator, device: str = "device") -> list[int]:
    return [release.release for release in operator.seen_by_a_device(device)]


def roots(operator: Operator) -> int:
    return metadata(operator).root.version


# Looking


def test_the_list_says_where_each_key_is_and_when_each_role_runs_out(operator: Operator) -> None:
    here = json.loads(operator.run("keys list", "--json").stdout)
    with_medium = json.loads(keys(operator, "list", "--json").stdout)

    roles = {role["role"]: role for role in here["roles"]}
    assert [*roles] == ["root", "targets", "trainer", "snapshot", "timestamp"]
    assert {name: role["days_left"] for name, role in roles.items()} == {
        "root": 729,
        "targets": 179,
        "trainer": 59,
        "snapshot": 59,
        "timestamp": 29,
    }
    assert roles["root"]["keys"][0].endswith("(not here)")
    assert Path(roles["trainer"]["keys"][0]).is_file()
    assert Path(with_medium["roles"][0]["keys"][0]).parent == medium(operator)
    assert here["untrusted"] == []
    assert "must sign" in operator.run("keys list").stdout


# Rotating


@pytest.mark.parametrize("name", [*KeyName])
@pytest.mark.parametrize("options", [(), ("--stolen",)])
def test_devices_follow_a_new_key_and_the_old_one_is_worth_nothing(
    operator: Operator, name: KeyName, options: tuple[str, ...]
) -> None:
    [old] = trusted(metadata(operator), name)
    releases(operator)

    rotated = keys(operator, f"rotate {name}", *options, "--json")

    assert rotated.returncode == Exit.SUCCESS, rotated.stderr
    [new] = trusted(metadata(operator), name)
    assert new != old
    assert [Path(path).name for path in json.loads(rotated.stdout)["untrusted"]] == [f"{name}-{old[:8]}.pem"]
    offline = name in {KeyName.ROOT, KeyName.TARGETS}
    folder = medium(operator) if offline else operator.home / "keys"
    assert (folder / f"{name}-{new[:8]}.pem").is_file()
    assert (operator.home / "root.json").read_bytes() == metadata(operator).path("root").read_bytes()
    for folder in (medium(operator), operator.home / "keys"):
        for path in folder.glob(f"*-{old[:8]}.pem"):
            path.unlink()
    assert operator.publish(2).returncode == Exit.SUCCESS
    for device in ("device", "fresh device"):
        assert releases(operator, device) == [1, 2]


@pytest.mark.parametrize("name", [KeyName.ONLINE, KeyName.TARGETS, KeyName.TRAINER])
def test_a_device_that_looks_after_every_step_of_a_rotation_can_verify_what_it_sees(
    mosquitto_broker: RunningBroker, tmp_path: Path, name: KeyName
) -> None:
    trainer = Trainer.create(tmp_path / "trainer")
    trainer.publish(mosquitto_broker, make_bundle())
    look_after_each_step(trainer, mosquitto_broker, tmp_path)
    found = trainer.repository.metadata
    admit(found, trainer.ring, utc_now(), name, lambda: create_key(trainer.folder / "keys", name).public_key)
    if name is KeyName.TARGETS:
        sign_targets(found, trainer.ring, utc_now())

    bridge = look_after_each_step(trainer, mosquitto_broker, tmp_path)
    has_old = dismiss(trainer.repository.metadata, trainer.ring, utc_now(), name)
    final = look_after_each_step(trainer, mosquitto_broker, tmp_path)

    assert has_old is (name is not KeyName.TRAINER)
    assert bridge == final == []


def test_without_the_bridge_a_device_meets_what_it_cannot_verify(
    mosquitto_broker: RunningBroker, tmp_path: Path
) -> None:
    trainer = Trainer.create(tmp_path / "trainer")
    trainer.publish(mosquitto_broker, make_bundle())
    found = trainer.repository.metadata
    new = create_key(trainer.folder / "keys", KeyName.ONLINE).public_key
    admit(found, trainer.ring, utc_now(), KeyName.ONLINE, lambda: new)
    dismiss(found, trainer.ring, utc_now(), KeyName.ONLINE)

    faults = look_after_each_step(trainer, mosquitto_broker, tmp_path)

    assert {fault.reason for fault in faults} == {Reason.METADATA_FORGED}
    assert refresh(mosquitto_broker, tmp_path / "device", trainer.root)


def look_after_each_step(trainer: Trainer, broker: RunningBroker, folder: Path) -> list[AtollError]:
    """Sign and push what is due; return what devices could not verify in between, an old one and new ones."""
    faults = []

    def look(progress: Progress) -> None:
        for device in ("device", f"fresh device at {progress.topics_done}"):
            try:
                refresh(broker, folder / device, trainer.root)
            except AtollError as error:
                faults.append(error)

    trainer.repository.commit(trainer.ring, utc_now())
    trainer.push(broker, look)
    return faults


def test_an_interrupted_rotation_is_noticed_and_completed(operator: Operator) -> None:
    found = metadata(operator)
    new = create_key(operator.home / "keys", KeyName.ONLINE)
    ring = KeyRing((operator.home / "keys", medium(operator)))
    admit(found, ring, utc_now(), KeyName.ONLINE, lambda: new.public_key)  # and then it was killed

    between = operator.publish(2)
    rotated = keys(operator, "rotate online")

    assert between.returncode == rotated.returncode == Exit.SUCCESS, rotated.stderr
    assert trusted(metadata(operator), KeyName.ONLINE) == [new.public_key.keyid]
    assert releases(operator) == [1, 2]


def test_a_targets_key_whose_rotation_was_interrupted_stops_publishing_until_it_is_completed(
    operator: Operator,
) -> None:
    found = metadata(operator)
    new = create_key(medium(operator), KeyName.TARGETS)
    ring = KeyRing((medium(operator),))
    admit(found, ring, utc_now(), KeyName.TARGETS, lambda: new.public_key)

    refused = operator.publish(2)
    completed = keys(operator, "rotate targets")

    assert refused.returncode == Exit.SETTINGS
    assert "atoll-trainer keys rotate targets --keys DIR" in refused.stderr
    assert completed.returncode == Exit.SUCCESS, completed.stderr
    assert operator.publish(2).returncode == Exit.SUCCESS
    assert releases(operator) == [1, 2]


def test_a_thief_who_ran_the_versions_up_is_locked_out(operator: Operator) -> None:
    assert releases(operator) == [1]
    found = metadata(operator)
    ring = Trainer(operator.home).ring
    found.timestamp.version = 1_000_000
    online = ring.signer(KeyName.ONLINE, trusted(found, KeyName.ONLINE))
    stamp = found.path(Timestamp.type)
    ours = stamp.read_bytes()
    found.sign(Timestamp.type, [online], utc_now())
    put(operator.broker, {str(MetadataTopic("timestamp.json")): stamp.read_bytes()})
    stamp.write_bytes(ours)
    assert releases(operator) == [1]
    assert operator.publish(2).returncode == Exit.SETTINGS

    rotated = keys(operator, "rotate online", "--stolen")

    assert rotated.returncode == Exit.SUCCESS, rotated.stderr
    assert operator.publish(2).returncode == Exit.SUCCESS
    assert releases(operator) == [1, 2]


def test_a_thief_of_the_trainers_machine_is_locked_out_in_the_order_that_is_documented(
    operator: Operator,
) -> None:
    thief = Trainer(operator.folder / "thief")
    shutil.copytree(operator.home, thief.folder)
    thief.publish(operator.broker, make_bundle(release=2))
    assert releases(operator) == [1, 2]

    refused = operator.publish(3)
    first = keys(operator, "rotate trainer", "--stolen")
    second = keys(operator, "rotate online", "--stolen")

    assert refused.returncode == Exit.SETTINGS
    assert "atoll-trainer keys rotate online --stolen" in refused.stderr
    assert first.returncode == second.returncode == Exit.SUCCESS, first.stderr + second.stderr
    assert operator.publish(3).returncode == Exit.SUCCESS
    for device in ("device", "fresh device"):
        assert releases(operator, device) == [1, 3]


def test_an_old_backup_is_brought_back_by_a_new_online_key(operator: Operator) -> None:
    backup = operator.folder / "backup"
    shutil.copytree(operator.home, backup)
    operator.publish(2)
    assert releases(operator) == [1, 2]

    rotated = keys(operator, "rotate online", "--stolen", "--home", backup)

    assert rotated.returncode == Exit.SUCCESS, rotated.stderr
    assert operator.publish(3, "--home", backup).returncode == Exit.SUCCESS
    for device in ("device", "fresh device"):
        assert releases(operator, device) == [1, 3]


def test_the_log_level_may_stand_before_or_after_the_action(operator: Operator) -> None:
    quiet = keys(operator, "renew targets", "--log-level", "error")
    before = operator.run("keys --log-level error renew targets", "--keys", medium(operator))

    assert quiet.stderr == before.stderr == ""
    assert quiet.returncode == before.returncode == Exit.SUCCESS


def test_a_missing_offline_key_is_named_and_nothing_is_signed(operator: Operator) -> None:
    before = operator.versions()
    [old] = trusted(metadata(operator), KeyName.ROOT)

    without = operator.run("keys rotate online")
    unplugged = operator.run("keys rotate root", "--keys", operator.folder / "nowhere")

    assert without.returncode == unplugged.returncode == Exit.SETTINGS
    assert f"the root key is needed: root-{old[:8]}.pem not found in {operator.home / 'keys'};" in (
        without.stderr
    )
    assert f"{operator.home / 'keys'}, {operator.folder / 'nowhere'};" in unplugged.stderr
    assert operator.versions() == before
    assert json.loads(operator.run("keys list", "--json").stdout)["untrusted"] == []


@pytest.mark.parametrize(
    "action",
    ["rotate online", "rotate targets", "rotate root", "root --add 1", "renew root", "renew targets"],
)
def test_nothing_is_signed_before_all_keys_that_it_takes_are_open(operator: Operator, action: str) -> None:
    before = operator.versions()
    [trainer_key] = (operator.home / "keys").glob("trainer-*.pem")
    trainer_key.rename(operator.folder / trainer_key.name)

    refused = keys(operator, action)

    assert refused.returncode == Exit.SETTINGS
    assert f"the trainer key is needed: {trainer_key.name} not found" in refused.stderr
    assert operator.versions() == before
    assert json.loads(keys(operator, "list", "--json").stdout)["untrusted"] == []


def test_a_new_key_is_written_beside_the_one_that_it_replaces(operator: Operator) -> None:
    other = operator.folder / "other medium"
    other.mkdir()
    [root_key] = medium(operator).glob("root-*.pem")
    root_key.rename(other / root_key.name)

    for name in ("targets", "root"):
        assert keys(operator, f"rotate {name}", "--keys", other).returncode == Exit.SUCCESS

    assert len(list(medium(operator).glob("targets-*.pem"))) == 2
    assert len(list(other.glob("root-*.pem"))) == 2


def test_the_root_to_enrol_with_is_there_as_soon_as_it_is_signed(operator: Operator) -> None:
    found = metadata(operator)
    new = create_key(operator.home / "keys", KeyName.ONLINE)
    ring = KeyRing((operator.home / "keys", medium(operator)))
    admit(found, ring, utc_now(), KeyName.ONLINE, lambda: new.public_key)  # and then it was killed

    assert operator.run("resign").returncode == Exit.SUCCESS

    assert (operator.home / "root.json").read_bytes() == metadata(operator).path("root").read_bytes()


@pytest.mark.parametrize(
    ("action", "options", "count"), [("rotate root", ["--id"], 1), ("root", ["--add", "1"], 2)]
)
def test_root_keys_that_were_signed_and_not_published_are_published_and_no_others_made(
    operator: Operator, action: str, options: list[str], count: int
) -> None:
    [old] = trusted(metadata(operator), KeyName.ROOT)
    options = [*options, old[:8]] if options == ["--id"] else options
    held_before = held(operator.broker, ROOT_TOPICS)
    assert keys(operator, action, *options).returncode == Exit.SUCCESS
    put(
        operator.broker, {topic: payload or b"" for topic, payload in held_before.items()}
    )  # as if it had failed
    (operator.home / "root-out").write_text("1\n")
    signed = trusted(metadata(operator), KeyName.ROOT)

    again = keys(operator, action, *options)

    assert again.returncode == Exit.SUCCESS, again.stderr
    assert "was signed already" in again.stderr
    assert trusted(metadata(operator), KeyName.ROOT) == signed
    assert (roots(operator), len(signed)) == (2, count)
    assert all(held(operator.broker, ROOT_TOPICS).values())
    assert keys(operator, "root", "--add", "1").returncode == Exit.SUCCESS
    assert roots(operator) == 3
    assert releases(operator) == [1]


def test_root_keys_are_replaced_again_where_the_broker_has_lost_the_new_root(operator: Operator) -> None:
    assert keys(operator, "rotate", "root").returncode == Exit.SUCCESS
    put(operator.broker, dict.fromkeys(ROOT_TOPICS, b""))
    [replaced] = trusted(metadata(operator), KeyName.ROOT)

    again = keys(operator, "rotate", "root")

    assert again.returncode == Exit.SUCCESS, again.stderr
    assert trusted(metadata(operator), KeyName.ROOT) != [replaced]
    assert roots(operator) == 3


# Several root keys


def test_two_of_three_root_keys_sign_and_one_does_not(operator: Operator) -> None:
    grown = keys(operator, "root", "--add", "2", "--threshold", "2")
    assert grown.returncode == Exit.SUCCESS, grown.stderr
    keyids, threshold = metadata(operator).quorum("root")
    assert (len(keyids), threshold) == (3, 2)
    for keyid in keyids[:2]:
        (medium(operator) / f"root-{keyid[:8]}.pem").rename(operator.folder / f"root-{keyid[:8]}.pem")

    one = keys(operator, "renew root")
    other = operator.folder / "other medium"
    other.mkdir()
    (operator.folder / f"root-{keyids[0][:8]}.pem").rename(other / f"root-{keyids[0][:8]}.pem")
    two = keys(operator, "renew root", "--keys", other)
    which = keys(operator, "rotate root")
    gone = keys(operator, "root", "--remove", keyids[1][:8], "--keys", other)

    assert one.returncode == Exit.SETTINGS
    assert f"1 of root-{keyids[0][:8]}.pem, root-{keyids[1][:8]}.pem not found" in one.stderr
    assert two.returncode == Exit.SUCCESS, two.stderr
    assert "--id: which of the root keys" in which.stderr
    assert gone.returncode == Exit.SUCCESS, gone.stderr
    assert metadata(operator).quorum("root") == ([keyids[0], keyids[2]], 2)
    too_few = keys(operator, "root", "--remove", keyids[0][:8], "--keys", other)
    assert too_few.stderr.endswith("1 root keys of which 2 must sign: that cannot be\n")
    for device in ("device", "fresh device"):
        assert releases(operator, device) == [1]


# Renewing and passphrases


def test_offline_signatures_are_renewed_before_they_run_out(operator: Operator) -> None:
    before = operator.versions()

    renewed = keys(operator, "renew root targets")

    assert renewed.returncode == Exit.SUCCESS, renewed.stderr
    after = operator.versions()
    assert {role: after[role] - before[role] for role in after} == {
        "root": 1,
        "targets": 1,
        "trainer": 0,
        "snapshot": 1,
        "timestamp": 1,
    }
    assert metadata(operator).expires("targets") > utc_now() + timedelta(days=179)
    assert releases(operator) == [1]


def test_offline_keys_have_a_passphrase_of_their_own(tmp_path: Path, mosquitto_broker: RunningBroker) -> None:
    operator = Operator(tmp_path, mosquitto_broker)
    online, offline = tmp_path / "online", tmp_path / "offline"
    online.write_text("correct horse\n")
    offline.write_text("battery staple\n")
    made = atoll_trainer(
        *("init", "--home", operator.home, "--passphrase-file", online),
        *("--offline-passphrase-file", offline),
    )
    assert made.returncode == Exit.SUCCESS, made.stderr

    assert operator.publish(1, "--passphrase-file", online).returncode == Exit.SUCCESS
    refused = operator.run("keys rotate trainer", "--passphrase-file", online)
    assert "not opened by the passphrase given" in refused.stderr
    rotated = operator.run(
        *("keys rotate trainer", "--passphrase-file", offline, "--passphrase-file", online), "--json"
    )
    assert rotated.returncode == Exit.SUCCESS, rotated.stderr
    assert operator.publish(2).returncode == Exit.SETTINGS
    assert operator.publish(2, "--passphrase-file", online).returncode == Exit.SUCCESS
    for path in (operator.home / "keys").iterdir():
        assert b"ENCRYPTED" in path.read_bytes()


def test_a_new_key_is_opened_by_what_opened_the_old_one_or_by_what_is_asked_for(
    tmp_path: Path, mosquitto_broker: RunningBroker
) -> None:
    operator = Operator(tmp_path, mosquitto_broker)
    online, offline, new = tmp_path / "online", tmp_path / "offline", tmp_path / "new"
    for path in (online, offline, new):
        path.write_text(f"passphrase {path.name}\n")
    made = atoll_trainer(
        *("init", "--home", operator.home, "--passphrase-file", online),
        *("--offline-passphrase-file", offline),
    )
    assert made.returncode == Exit.SUCCESS, made.stderr
    both = ("--passphrase-file", online, "--passphrase-file", offline)

    alike = operator.run("keys rotate online", *both)
    assert alike.returncode == Exit.SUCCESS, alike.stderr
    assert operator.publish(1, "--passphrase-file", online).returncode == Exit.SUCCESS
    asked = operator.run("keys rotate online", *both, "--new-passphrase-file", new)
    assert asked.returncode == Exit.SUCCESS, asked.stderr
    assert operator.publish(2, "--passphrase-file", online).returncode == Exit.SETTINGS
    published = operator.publish(2, "--passphrase-file", online, "--passphrase-file", new)
    assert published.returncode == Exit.SUCCESS, published.stderr
