"""promote, withdraw, republish and resign, as an operator runs them and as devices see them."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
from support.brokers import RunningBroker, select_pause
from support.bundles import make_bundle as real_bundle
from support.operator import PROGRAM, Operator
from support.releases import Trainer, held, put, topics, topics_of

from atoll_contract.bundle import Bundle
from atoll_contract.topics import MetadataTopic
from atoll_link.exits import Exit
from atoll_trainer.dataset import Examples, Split
from atoll_trainer.runs import Run


@pytest.fixture
def operator(tmp_path: Path, mosquitto_broker: RunningBroker) -> Operator:
    """An operator with keys, who has released nothing."""
    return Operator.with_keys(tmp_path, mosquitto_broker)


# promote


def test_promote_changes_what_it_is_given_and_nothing_else(operator: Operator) -> None:
    operator.publish(1, "--channel", "canary", "--percent", "10", "--max-delay", "30")
    [before] = operator.seen_by_a_device()

    promoted = operator.run("promote", "press", "1", "--percent", "50")
    assert promoted.returncode == Exit.SUCCESS, promoted.stderr
    [wider] = operator.seen_by_a_device()
    operator.run("promote", "press", "1", "--channel", "stable", "--percent", "100", "--max-delay", "0")
    [stable] = operator.seen_by_a_device()

    assert (wider.channel, wider.rollout_percent, wider.max_delay_s) == ("canary", 50, 30)
    assert (stable.channel, stable.rollout_percent, stable.max_delay_s) == ("stable", 100, 0)
    assert before.rollout_salt == wider.rollout_salt == stable.rollout_salt
    devices = [f"pump-{number}" for number in range(500)]
    chosen = [{name for name in devices if terms.includes(name)} for terms in (before, wider, stable)]
    assert chosen[0] < chosen[1] < chosen[2] == set(devices)
    assert 25 <= len(chosen[0]) <= 75


def test_what_is_not_there_cannot_be_promoted(operator: Operator) -> None:
    operator.publish(1)

    missing = operator.run("promote", "press", "7", "--percent", "50")
    wrong = operator.run("promote", "press", "1", "--percent", "500")

    assert missing.returncode == wrong.returncode == Exit.SETTINGS
    assert missing.stderr == "release 7 of press is not available; available: 1\n"
    assert "--percent" in wrong.stderr
    assert operator.run("promote", "no/model", "1").returncode == Exit.USAGE


# withdraw


def test_a_withdrawn_release_sends_devices_back_and_says_why(operator: Operator) -> None:
    operator.publish(1)
    operator.publish(2)

    withdrawn = operator.run("withdraw", "press", "2", "--why", "drifts above 60 °C")
    again = operator.run("withdraw", "press", "2", "--why", "another reason")

    assert withdrawn.returncode == again.returncode == Exit.SUCCESS, withdrawn.stderr
    assert [release.release for release in operator.seen_by_a_device()] == [1]
    promoted = operator.run("promote", "press", "2", "--percent", "10")
    assert "was withdrawn (drifts above 60 °C)" in promoted.stderr
    anew = operator.publish(2)
    assert anew.returncode == Exit.SETTINGS
    assert "was withdrawn (drifts above 60 °C), and no number comes back" in anew.stderr
    assert operator.publish(3).returncode == Exit.SUCCESS


def test_a_withdrawal_needs_a_reason(operator: Operator) -> None:
    operator.publish(1)

    assert operator.run("withdraw", "press", "1").returncode == Exit.USAGE
    assert operator.run("withdraw", "press", "1", "--why", "").returncode == Exit.USAGE
    assert operator.run("withdraw", "press", "9", "--why", "gone").returncode == Exit.SETTINGS


# republish


def test_republish_brings_the_same_bytes_back_without_any_key(
    tmp_path: Path, any_broker: RunningBroker
) -> None:
    operator = Operator.with_keys(tmp_path, any_broker)
    for number in (1, 2):
        operator.publish(number)
    names = topics_of(Trainer(operator.home))
    before = held(any_broker, names)
    assert all(before.values())
    any_broker.stop()
    any_broker.start()
    assert not any(held(any_broker, names).values())
    (operator.home / "keys").rename(tmp_path / "keys")

    republished = operator.run("republish", "--json")

    assert republished.returncode == Exit.SUCCESS, republished.stderr
    assert json.loads(republished.stdout)["topics_stored"] == len(names)
    assert held(any_broker, names) == before
    assert [release.release for release in operator.seen_by_a_device()] == [1, 2]
    assert json.loads(operator.run("republish", "--json").stdout)["topics_stored"] == 0


def test_republish_mends_single_chunks_and_leaves_what_was_interrupted_to_resign(
    operator: Operator,
) -> None:
    operator.publish(1)
    trainer = Trainer(operator.home)
    names = topics_of(trainer)
    put(operator.broker, {names[0]: b"other bytes"})

    assert json.loads(operator.run("republish", "--json").stdout)["topics_stored"] == 1

    metadata = operator.home / "repository" / "metadata"
    (metadata / "2.snapshot.json").unlink()  # as a kill between two signatures leaves it
    refused = operator.run("republish")
    assert refused.returncode == Exit.SETTINGS
    assert "atoll-trainer resign" in refused.stderr


# resign


def test_resign_renews_the_timestamp_alone_until_others_are_due(operator: Operator) -> None:
    operator.publish(1)
    before = operator.versions()

    resigned = operator.run("resign")

    assert resigned.returncode == Exit.SUCCESS, resigned.stderr
    assert operator.versions() == before | {"timestamp": before["timestamp"] + 1}
    assert [release.release for release in operator.seen_by_a_device()] == [1]


def test_a_home_restored_from_before_the_last_resign_goes_on_and_says_so(operator: Operator) -> None:
    operator.publish(1)
    backup = operator.folder / "backup"
    shutil.copytree(operator.home, backup)
    operator.run("resign")

    resigned = operator.run("resign", "--home", backup)

    assert resigned.returncode == Exit.SUCCESS, resigned.stderr
    assert "timestamp.adopted" in resigned.stderr
    assert [release.release for release in operator.seen_by_a_device()] == [1]


def test_resign_completes_what_was_interrupted_and_says_so(operator: Operator) -> None:
    operator.publish(1)
    Trainer(operator.home).sign(operator.bundle(2).read_bytes())  # signed and not pushed

    resigned = operator.run("resign")

    assert resigned.returncode == Exit.SUCCESS
    assert "publication.unfinished" in resigned.stderr
    assert [release.release for release in operator.seen_by_a_device()] == [1, 2]


def test_resign_goes_on_over_outages_and_forged_topics_until_it_is_told_to_stop(operator: Operator) -> None:
    operator.publish(1)
    topic = str(MetadataTopic("timestamp.json"))

    def version() -> int:
        payload = held(operator.broker, [topic])[topic]
        return int(json.loads(payload or b"{}").get("signed", {"version": 0})["version"])

    first = version()
    operator.broker.stop()
    command = [*PROGRAM, "resign", "--every", "1s", "--settings", str(operator.settings)]
    log = operator.folder / "resign.log"
    with log.open("wb") as file:
        process = subprocess.Popen(command, stderr=file)
    try:
        wait_for(lambda: "metadata.unsigned" in log.read_text(), "the outage to be told")
        operator.broker.start()
        wait_for(lambda: version() > first + 1, "two signatures")
        stranger = Trainer.create(operator.folder / "stranger")
        roots = {str(MetadataTopic(name)): stranger.root for name in ("1.root.json", "root.json")}
        own = held(operator.broker, list(roots))

        def is_told() -> bool:
            # Each time anew: a signature that was under way may have come after it.
            with topics(operator.broker) as retained:
                retained.put_many({**roots, topic: b"{}"}.items(), timeout_s=10)
            return "another repository" in log.read_text()

        wait_for(is_told, "the forgery to be told")
        put(operator.broker, {name: payload or b"" for name, payload in own.items()})
        last = Trainer(operator.home).repository.metadata.timestamp.version
        wait_for(lambda: version() > last, "a signature after the forgery")
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def wait_for(fact, what: str, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not fact():
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {what}"
        select_pause(0.1)


# Clearing


def test_what_nobody_needs_is_cleared_a_day_later_and_three_releases_stay(operator: Operator) -> None:
    for number in range(1, 5):
        operator.publish(number)
    trainer = Trainer(operator.home)
    old_files = {path.name for path in (operator.home / "repository" / "metadata").glob("*.trainer.json")}
    trainer.age(timedelta(days=2))

    operator.publish(5)

    kept = {path.name for path in (operator.home / "repository" / "metadata").glob("*.trainer.json")}
    assert kept - old_files == {"6.trainer.json"}
    assert "5.trainer.json" in kept  # replaced just now: a device may be reading it
    gone = old_files - kept
    assert gone == {f"{number}.trainer.json" for number in range(1, 5)}
    assert not any(held(operator.broker, [str(MetadataTopic(name)) for name in gone]).values())
    assert all(held(operator.broker, topics_of(trainer)).values())
    assert [release.release for release in operator.seen_by_a_device()] == [3, 4, 5]


# The gate


def test_the_gate_refuses_what_is_no_better_than_a_naive_guess(operator: Operator) -> None:
    bad = {"float_mae": 3.0, "naive_mae": 3.0}

    refused = operator.publish(1, metrics=bad)

    assert refused.returncode == Exit.GATE_REFUSED
    assert "its mean absolute error 3 is no better than a naive guess (3)" in refused.stderr
    assert list((operator.home / "repository" / "bundles").iterdir()) == []
    assert operator.publish(1, metrics={"float_mae": 2.9, "naive_mae": 3.0}).returncode == Exit.SUCCESS
    assert operator.publish(2, "--no-gate", metrics=bad).returncode == Exit.SUCCESS
    assert operator.publish(2).returncode == Exit.SETTINGS  # other bytes
    assert [release.release for release in operator.seen_by_a_device()] == [1, 2]


def test_a_damaged_bundle_of_the_champion_stops_no_release_that_is_not_compared_with_it(
    operator: Operator,
) -> None:
    operator.publish(1)
    [stored] = (operator.home / "repository" / "bundles").iterdir()
    stored.write_bytes(b"damaged")

    published = operator.publish(2)

    assert published.returncode == Exit.SUCCESS, published.stderr
    assert [release.release for release in operator.seen_by_a_device()] == [1, 2]


@pytest.mark.parametrize("text", ["nan", "-0.1", "inf", "much"])
def test_a_share_by_which_nothing_can_be_worse_is_refused(operator: Operator, text: str) -> None:
    assert operator.publish(1, f"--worse-by={text}").returncode == Exit.USAGE


def test_the_gate_holds_a_release_against_the_champion_on_the_windows_of_a_run(operator: Operator) -> None:
    good, bad = (
        real_bundle(release=number, file=file) for number, file in ((1, "linear_float"), (2, "triple_float"))
    )
    canary = real_bundle(release=3, file="triple_float")
    run = Run(operator.folder / "run")
    run.folder.mkdir()
    windows = np.array([case.samples for case in good.golden.cases], dtype=np.float32)
    targets = np.array([case.output[0] for case in good.golden.cases], dtype=np.float64)
    examples = Examples(windows, targets, np.arange(len(targets), dtype=np.float64))
    run.write_split(Split(examples, examples, examples))

    def publish(bundle: Bundle, *options: str | Path) -> int:
        path = operator.folder / f"wear-{bundle.manifest.release}.atoll"
        path.write_bytes(bundle.pack())
        return operator.run("publish", path, "--run", run.folder, *options).returncode

    assert publish(good) == Exit.SUCCESS
    [stored] = (operator.home / "repository" / "bundles").iterdir()
    stored.write_bytes(b"damaged")  # and mended before it is compared
    assert publish(bad) == Exit.GATE_REFUSED
    assert stored.read_bytes() == good.pack()
    assert publish(bad, "--percent", "10", "--no-gate") == Exit.SUCCESS
    # A release that is for some only is not the champion.
    assert publish(canary) == Exit.GATE_REFUSED
