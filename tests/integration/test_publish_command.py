"""``atoll-trainer init`` and ``publish`` as an operator runs them."""

from __future__ import annotations

import json
import os
import shutil
import stat
import time
from pathlib import Path

import pytest
from support.brokers import RunningBroker
from support.operator import Operator, atoll_trainer, atoll_trainer_process
from support.releases import make_bundle

from atoll_link.exits import Exit
from atoll_trainer.home import SYSTEM_HOME


@pytest.fixture
def operator(tmp_path: Path, mosquitto_broker: RunningBroker) -> Operator:
    """An operator who has done nothing yet."""
    return Operator(tmp_path, mosquitto_broker)


def test_a_new_home_publishes_to_devices_that_trust_its_root(operator: Operator) -> None:
    made = atoll_trainer("init", "--home", operator.home)
    assert made.returncode == Exit.SUCCESS, made.stderr
    [root_key] = (operator.home / "keys").glob("root-*.pem")
    assert str(root_key) in made.stdout
    assert stat.S_IMODE((operator.home / "keys").stat().st_mode) == 0o700

    published = operator.publish(1)
    assert published.returncode == Exit.SUCCESS, published.stderr
    assert "press release 1 is out" in published.stdout
    assert "nothing tells how good it is, so the gate let it pass\n" in published.stderr

    [release] = operator.seen_by_a_device()
    assert (release.model, release.release, release.channel, release.rollout_percent) == (
        "press",
        1,
        "stable",
        100,
    )
    assert release.rollout_salt


def test_the_summary_can_be_read_by_a_program(operator: Operator) -> None:
    atoll_trainer("init", "--home", operator.home)

    first = json.loads(operator.publish(1, "--json").stdout)
    again = json.loads(operator.publish(1, "--json").stdout)

    assert first["model"] == "press"
    assert first["release"] == 1
    assert first["topics_stored"] == first["topics"] > 0
    assert (again["topics_stored"], again["bytes_stored"]) == (0, 0)
    assert again["sha256"] == first["sha256"] == operator.seen_by_a_device()[0].sha256


def test_publishing_works_without_the_offline_keys_and_with_a_passphrase(operator: Operator) -> None:
    passphrase = operator.folder / "passphrase"
    passphrase.write_text("correct horse\n")
    made = atoll_trainer("init", "--home", operator.home, "--passphrase-file", passphrase)
    assert made.returncode == Exit.SUCCESS, made.stderr
    for name in ("root", "targets"):
        [path] = (operator.home / "keys").glob(f"{name}-*.pem")
        path.rename(operator.folder / path.name)

    refused = operator.publish(1)
    assert refused.returncode == Exit.SETTINGS
    assert "--passphrase-file" in refused.stderr

    published = operator.publish(1, "--passphrase-file", passphrase)
    assert published.returncode == Exit.SUCCESS, published.stderr
    assert [release.release for release in operator.seen_by_a_device()] == [1]


def test_the_same_command_again_keeps_the_terms_and_other_terms_are_left_to_promote(
    operator: Operator,
) -> None:
    atoll_trainer("init", "--home", operator.home)
    operator.publish(1, "--channel", "canary", "--percent", "10", "--max-delay", "30")

    assert operator.publish(1).returncode == Exit.SUCCESS
    refused = operator.publish(1, "--percent", "50")

    assert refused.returncode == Exit.SETTINGS
    assert "atoll-trainer promote" in refused.stderr
    [release] = operator.seen_by_a_device()
    assert (release.channel, release.rollout_percent, release.max_delay_s) == ("canary", 10, 30)


def test_a_home_that_is_there_is_not_touched(operator: Operator) -> None:
    atoll_trainer("init", "--home", operator.home)
    before = {path: path.read_bytes() for path in operator.home.rglob("*") if path.is_file()}

    again = atoll_trainer("init", "--home", operator.home)

    assert again.returncode == Exit.SETTINGS
    assert "exists" in again.stderr
    assert {path: path.read_bytes() for path in operator.home.rglob("*") if path.is_file()} == before


def test_a_demo_says_what_its_keys_are_worth(tmp_path: Path) -> None:
    made = atoll_trainer("init", "--demo", "--home", tmp_path / "home")

    assert made.returncode == Exit.SUCCESS
    assert "demonstration only" in made.stdout


def test_what_cannot_be_published_ends_with_the_right_status(operator: Operator) -> None:
    early = operator.publish(1)
    assert early.returncode == Exit.SETTINGS
    assert "atoll-trainer init" in early.stderr
    atoll_trainer("init", "--home", operator.home)

    wrong = operator.folder / "wrong.atoll"
    wrong.write_bytes(b"PK no bundle")
    refused = atoll_trainer("publish", "--settings", operator.settings, wrong)
    assert refused.returncode == Exit.FAILURE
    assert f"error: {wrong}: " in refused.stderr
    assert "[malformed_bundle]" in refused.stderr

    for options in (("--percent", "101"), ("--channel", "no/channel"), ("--max-delay", "-1")):
        assert operator.publish(1, *options).returncode == Exit.SETTINGS
    assert operator.publish(1, "--percent", "many").returncode == Exit.USAGE

    operator.broker.stop()
    alone = operator.publish(1)
    assert alone.returncode == Exit.FAILURE
    assert "[broker_unavailable]" in alone.stderr


def test_a_bundle_that_took_a_published_number_is_refused(operator: Operator) -> None:
    atoll_trainer("init", "--home", operator.home)
    operator.publish(1)
    other = operator.folder / "other.atoll"
    other.write_bytes(make_bundle(release=1, size=100))

    refused = atoll_trainer("publish", "--settings", operator.settings, other)

    assert refused.returncode == Exit.SETTINGS
    assert "next free is 2" in refused.stderr


def test_a_second_home_is_refused_before_anything_is_signed(operator: Operator) -> None:
    atoll_trainer("init", "--home", operator.home)
    operator.publish(1)
    other = operator.folder / "other"
    atoll_trainer("init", "--home", other)
    before = {path: path.read_bytes() for path in (other / "repository" / "metadata").iterdir()}

    refused = operator.publish(2, "--home", other)

    assert refused.returncode == Exit.SETTINGS
    assert "--replace-repository" in refused.stderr
    assert {path: path.read_bytes() for path in (other / "repository" / "metadata").iterdir()} == before
    assert [release.release for release in operator.seen_by_a_device()] == [1]

    replaced = operator.publish(2, "--home", other, "--replace-repository")
    assert replaced.returncode == Exit.SUCCESS, replaced.stderr


def test_a_home_restored_from_an_old_backup_is_refused(operator: Operator) -> None:
    atoll_trainer("init", "--home", operator.home)
    operator.publish(1)
    shutil.copytree(operator.home, operator.folder / "backup")
    operator.publish(2)

    refused = operator.publish(3, "--home", operator.folder / "backup", "--replace-repository")

    assert refused.returncode == Exit.SETTINGS
    assert "backup" in refused.stderr
    assert [release.release for release in operator.seen_by_a_device()] == [1, 2]


def test_a_password_file_that_cannot_be_read_ends_it_at_once(operator: Operator) -> None:
    atoll_trainer("init", "--home", operator.home)
    with operator.settings.open("a") as file:
        file.write('password_file = "no-such-file"\n')
    start = time.monotonic()

    refused = operator.publish(1)

    assert refused.returncode == Exit.SETTINGS
    assert "no-such-file" in refused.stderr
    assert time.monotonic() - start < 8  # a connection would be waited for longer


def test_a_home_below_a_file_is_told_without_a_traceback(operator: Operator) -> None:
    (operator.folder / "file").write_text("")

    made = atoll_trainer("init", "--home", operator.folder / "file" / "home")

    assert made.returncode == Exit.FAILURE
    assert made.stderr.startswith(f"error: {operator.folder / 'file'}")
    assert made.stderr.count("\n") == 1


def test_a_home_that_belongs_to_somebody_else_is_told_without_a_traceback(operator: Operator) -> None:
    atoll_trainer("init", "--home", operator.home)
    for folder, mode in ((operator.home / "repository", 0o500), (operator.home, 0o000)):
        folder.chmod(mode)
        if os.access(folder, os.W_OK):
            folder.chmod(0o700)
            pytest.skip("root may write everywhere")
        try:
            published = operator.publish(1)
            made = atoll_trainer("init", "--home", operator.home / "deeper")
        finally:
            folder.chmod(0o700)
        told = [published] if mode else [published, made]
        for one in told:
            assert one.returncode == Exit.FAILURE, one.stderr
            assert one.stderr.startswith(f"error: {operator.home}")
            assert one.stderr.endswith("Permission denied [storage]\n")


def test_every_command_looks_for_the_home_in_the_same_places(operator: Operator) -> None:
    if os.access(SYSTEM_HOME, os.W_OK):
        pytest.skip(f"{SYSTEM_HOME} is in use here")
    state = operator.folder / "state"
    operator.settings.write_text(operator.settings.read_text().replace('home = "home"\n', ""))
    bundle = operator.folder / "press-1.atoll"
    bundle.write_bytes(make_bundle())
    environment = {"XDG_STATE_HOME": str(state), "PATH": os.environ["PATH"]}

    made = atoll_trainer_process("init", environment=environment)
    published = atoll_trainer_process(
        *("publish", "--settings", operator.settings, bundle), environment=environment
    )

    assert made.returncode == Exit.SUCCESS, made.stderr
    assert published.returncode == Exit.SUCCESS, published.stderr
    assert (state / "atoll-trainer" / "repository" / "metadata" / "2.trainer.json").is_file()
