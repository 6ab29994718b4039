"""``atoll-agent doctor`` against a real Mosquitto with access rules."""

from __future__ import annotations

import json
import os
import re
import subprocess
import threading
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import brokers
from support.agents import AgentProcess, TrainerHome, command
from support.bundles import make_bundle
from support.spy import Spy

from atoll_contract.messages import Status
from atoll_link.fleet import Fleet
from atoll_link.session import Broker, Session, wait_connected
from atoll_sim.demo.ports import free_port

PAGE = Path(__file__).parents[2] / "docs" / "operate" / "trainer.md"
RULES = re.search(r"^```\n(user trainer.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)[1]
READ_READINGS = "pattern read atoll/v1/+/+/reading/#"
READ_OWN = "pattern read atoll/v1/+/%u/#"
WRITE_OWN = "pattern write atoll/v1/+/%u/#"
READ_RELEASES = "pattern read atoll/v1/releases/#"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """The root of trust of a trainer."""
    return TrainerHome(tmp_path_factory.mktemp("trainer"), 1).home / "root.json"


@contextmanager
def guarded(folder: Path, *without: str, options: tuple[str, ...] = ()):
    lines = [line for line in RULES.splitlines() if line not in without]
    assert len(lines) == len(RULES.splitlines()) - len(without)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "acl").write_text("\n".join([*lines, "user spy", "topic read #", ""]))
    with brokers.mosquitto(folder / "broker", f"acl_file {folder / 'acl'}", *options) as broker:
        yield broker


def doctor(agent: AgentProcess, *options: str, **environment: str):
    """Return the exit code and the findings by what was looked at."""
    done = subprocess.run(
        command("atoll-agent", "doctor", "--settings", str(agent.settings), "--json", *options),
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "ATOLL_BROKER__USERNAME": "pi", **environment},
    )
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)["findings"]
    return done.returncode, {finding["check"]: finding for finding in found}


@contextmanager
def publishing(port: int):
    """A device that publishes a reading again and again."""
    stopping = threading.Event()

    def work() -> None:
        session = Session(Broker(host="127.0.0.1", port=port, username="press-1"), "press-1")
        wait_connected(session, 10)
        while not stopping.is_set():
            session.publish("atoll/v1/site/press-1/reading/press", b'{"values":{"x":3}}', qos=0)
            session.step(0.05)
            stopping.wait(0.05)
        session.close()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def test_a_device_that_may_do_all_has_no_fault(root, tmp_path):
    with guarded(tmp_path) as broker, publishing(broker.port):
        agent = AgentProcess(tmp_path / "agent", broker.port, root)

        code, found = doctor(agent, "--bundle", str(tmp_path / "support.zip"), "--listen", "4")

    assert code == 0
    assert not [finding for finding in found.values() if finding["level"] == "fault"]
    for check in ("login", "broker", "read readings of press", "read labels for wear", "read requests"):
        assert found[check]["level"] == "ok"
    for check in ("write status and slots", "write drift", "write predictions of wear", "retain"):
        assert found[check]["level"] == "ok"
    assert found["read releases"]["level"] == "warning"  # nothing was published
    with zipfile.ZipFile(tmp_path / "support.zip") as archive:
        assert json.loads(archive.read("findings.json"))
    assert (tmp_path / "support.zip").stat().st_mode & 0o077 == 0


def test_a_missing_right_to_write_is_told_for_each_topic_with_the_rule_to_add(root, tmp_path):
    with guarded(tmp_path, WRITE_OWN) as broker:
        code, found = doctor(AgentProcess(tmp_path / "agent", broker.port, root), "--listen", "0.5")

    assert code == 4
    for check, topic in (
        ("write status and slots", "atoll/v1/site/pi/slot/doctor"),
        ("write drift", "atoll/v1/site/pi/drift/doctor"),
        ("write predictions of wear", "atoll/v1/site/pi/prediction/pi/wear"),
    ):
        assert found[check]["level"] == "fault"
        assert found[check]["detail"] == f"{topic}: Not authorized"
        assert found[check]["todo"] == f"add to the broker's rules: {WRITE_OWN}"


def test_what_is_granted_and_dropped_is_told_with_what_to_do(root, tmp_path):
    limit = "message_size_limit 20000"
    with guarded(tmp_path, READ_READINGS, READ_OWN, options=(limit,)) as broker, publishing(broker.port):
        code, found = doctor(AgentProcess(tmp_path / "agent", broker.port, root), "--listen", "1")

    assert code == 4
    readings = found["read readings of press"]
    assert readings["level"] == "fault"
    assert readings["detail"].startswith("atoll/v1/site/+/reading/press: granted, and what is published")
    assert readings["todo"] == f"add to the broker's rules: {READ_READINGS}"
    assert found["retain"]["level"] == "fault"
    assert "Packet too large (61,440 bytes, retained)" in found["retain"]["detail"]
    assert "message_size_limit" in found["retain"]["todo"]


def test_beside_a_running_agent_it_disturbs_nobody_and_knows_what_must_be_there(root, tmp_path, monkeypatch):
    monkeypatch.setenv("ATOLL_BROKER__USERNAME", "trainer")
    with guarded(tmp_path) as broker, Spy(broker.port, "#", username="spy") as spy:
        trainer = TrainerHome(tmp_path / "trainer", broker.port)
        agent = AgentProcess(tmp_path / "agent", broker.port, trainer.home / "root.json")
        trainer.publish(make_bundle(release=1))
        agent.start(ATOLL_BROKER__USERNAME="pi")
        try:
            spy.wait(
                lambda: [item for item in spy.on("/slot/wear") if b"champion" in item.payload], "champion", 60
            )
            before = statuses(spy)[-1]
            seen, heard = Fleet(), spy.on("/pi/")
            for item in heard:
                seen.take(item.topic, item.payload)
            [known] = seen.agents

            code, found = doctor(agent, "--listen", "1")

            for item in spy.on("/pi/")[len(heard) :]:
                seen.take(item.topic, item.payload)
                assert known.status is not None
                assert known.slots.keys() == {"wear"}
            count = len(spy.on("/prediction/"))
            with publishing(broker.port):
                spy.wait(lambda: len(spy.on("/prediction/")) > count + 2, "predictions")
            spy.wait(lambda: statuses(spy)[-1].counts["readings"] > 2, "the count of readings")
            after = statuses(spy)[-1]
        finally:
            agent.close()
    assert code == 0
    assert found["agent"]["detail"].startswith("is running, process ")
    assert found["read releases"]["level"] == "ok"
    assert "release 1; model.tflite is uncompiled" in found["model wear"]["detail"]
    assert (after.session, after.token, after.refusals) == (before.session, before.token, [])
    assert after.counts["connections"] == before.counts["connections"]
    assert "labels" not in after.counts
    assert "untrusted_writer" not in agent.log.read_text()
    assert "malformed" not in agent.log.read_text()

    with guarded(tmp_path / "again", READ_RELEASES) as broker:
        agent.settings.write_text(re.sub(r"port = \d+", f"port = {broker.port}", agent.settings.read_text()))

        code, found = doctor(agent, "--listen", "0.5")

    assert code == 4
    assert found["read releases"]["level"] == "fault"
    assert found["read releases"]["todo"] == f"add to the broker's rules: {READ_RELEASES}"


def statuses(spy: Spy) -> list[Status]:
    return [Status.decode(item.payload) for item in spy.on("/pi/status") if item.payload]


def test_a_wrong_password_is_a_fault_of_the_login_and_never_shown(root, tmp_path):
    (tmp_path / "passwords").write_text("")
    with brokers.mosquitto(
        tmp_path / "broker", "allow_anonymous false", f"password_file {tmp_path / 'passwords'}"
    ) as broker:
        agent = AgentProcess(tmp_path / "agent", broker.port, root)
        (tmp_path / "agent" / "pw").write_text("hunter2-hunter2")
        code, found = doctor(agent, ATOLL_BROKER__PASSWORD_FILE=str(tmp_path / "agent" / "pw"))

    assert code == 4
    assert found["login"]["level"] == "fault"
    assert "refused the connection" in found["login"]["detail"]
    assert "check the user name and broker.password_file" in found["login"]["todo"]
    assert "hunter2" not in json.dumps(found)


def test_without_a_broker_settings_or_enrolment_it_says_what_to_do(root, tmp_path):
    agent = AgentProcess(tmp_path / "agent", free_port(), root)
    (tmp_path / "agent" / "state" / "token").unlink()

    code, found = doctor(agent)

    assert code == 4
    assert found["network"]["level"] == "fault"
    assert "start the broker, check broker.port" in found["network"]["todo"]
    assert found["enrolment"]["level"] == "fault"
    assert "atoll-agent enrol --settings" in found["enrolment"]["todo"]
    agent.settings.write_text(agent.settings.read_text().replace("site =", "place ="))
    code, found = doctor(agent)
    assert code == 4
    assert found["settings"]["level"] == "fault"


def test_a_broker_with_the_older_version_is_tried_by_what_comes_back(root, tmp_path):
    with brokers.amqtt(tmp_path / "broker") as broker:
        code, found = doctor(AgentProcess(tmp_path / "agent", broker.port, root), "--listen", "3")

    assert code == 0
    assert "3.1.1" in found["login"]["detail"]
    assert found["write predictions of wear"]["level"] == "ok"
