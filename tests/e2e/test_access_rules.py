"""The access rules of docs/operate are enough for every role, and for no more."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import brokers
from support.agents import AgentProcess, TrainerHome
from support.bundles import make_bundle
from support.spy import Spy

from atoll_contract.messages import SlotStatus, Status
from atoll_link.session import Broker, Published, Refused, Session, wait_connected

DOCS = Path(__file__).parents[2] / "docs" / "operate"
CLIENTS = ("trainer", "pi", "press-1", "press-2", "spy")


def block(page: str, begin: str, kind: str = "") -> str:
    """Return the block of ``page`` that begins like this."""
    pattern = rf"^```{kind}\n({re.escape(begin)}.*?)^```"
    return re.search(pattern, (DOCS / page).read_text(), re.MULTILINE | re.DOTALL)[1]


@pytest.fixture(params=["file", "dynamic-security"])
def guarded(request, tmp_path):
    """A broker with the rules, where everybody's password is their name, and the spy reads all."""
    if request.param == "file":
        (tmp_path / "acl").write_text(block("trainer.md", "user trainer") + "\nuser spy\ntopic read #\n")
        with brokers.mosquitto(tmp_path / "broker", f"acl_file {tmp_path / 'acl'}") as broker:
            yield broker
        return
    with dynamic_security(tmp_path) as (broker, ctrl):
        for line in block("mosquitto.md", "ctrl setDefault", "dynsec").splitlines():
            ctrl(line)
        for name in CLIENTS[1:4]:
            for line in block("mosquitto.md", "ctrl createRole device-pi", "dynsec-device").splitlines():
                # Order matters: the password first, it holds no device's id.
                ctrl(re.sub(r"\bpi\b", name, line.replace("PASSWORD", name)))
        ctrl("ctrl createClient trainer -p trainer")
        ctrl("ctrl addClientRole trainer trainer 10")
        ctrl("ctrl createRole spy")
        ctrl("ctrl addRoleACL spy subscribePattern # allow")
        ctrl("ctrl addRoleACL spy publishClientReceive # allow")
        ctrl("ctrl createClient spy -p spy")
        ctrl("ctrl addClientRole spy spy 10")
        yield broker


@contextmanager
def dynamic_security(folder):
    """Mosquitto with its plugin, and what carries out a line of the page."""
    program = shutil.which("mosquitto_ctrl")
    plugin = next(Path("/usr/lib").glob("*/mosquitto_dynamic_security.so"), None)
    if program is None or plugin is None:
        pytest.skip("mosquitto_ctrl or the plugin for dynamic security is not installed")
    file = folder / "dynamic-security.json"
    subprocess.run(
        [program, "dynsec", "init", file, "admin", "secret"],
        check=True,
        stdout=subprocess.DEVNULL,
        timeout=20,
    )
    lines = (f"plugin {plugin}", f"plugin_opt_config_file {file}", "allow_anonymous false")
    with brokers.mosquitto(folder / "broker", *lines) as broker:

        def ctrl(line: str) -> None:
            words = shlex.split(line, comments=False)
            if not words:
                return
            assert words[0] == "ctrl"
            options = ["-h", "127.0.0.1", "-p", str(broker.port), "-u", "admin", "-P", "secret"]
            subprocess.run([program, *options, "dynsec", *words[1:]], check=True, timeout=20)

        yield broker, ctrl


@pytest.fixture
def passwords(tmp_path) -> Path:
    """A folder with everybody's password."""
    folder = tmp_path / "passwords"
    folder.mkdir()
    for name in CLIENTS:
        (folder / name).write_text(name)
    return folder


class Client:
    """A client that has logged in under a name."""

    def __init__(self, port: int, name: str, passwords: Path) -> None:
        broker = Broker(host="127.0.0.1", port=port, username=name, password_file=passwords / name)
        self.session = Session(broker, f"{name}-test")
        wait_connected(self.session, 10)

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        number = self.session.publish(topic, payload, retain=retain)
        for _ in range(100):
            if any(isinstance(e, Published | Refused) and e.mid == number for e in self.session.step(0.1)):
                return
        raise AssertionError("no PUBACK")


@pytest.mark.timeout(240)
def test_each_role_can_do_its_work_and_nobody_the_works_of_others(guarded, passwords, tmp_path, monkeypatch):
    monkeypatch.setenv("ATOLL_BROKER__USERNAME", "trainer")
    monkeypatch.setenv("ATOLL_BROKER__PASSWORD_FILE", str(passwords / "trainer"))
    trainer = TrainerHome(tmp_path / "trainer", guarded.port)
    agent = AgentProcess(tmp_path / "agent", guarded.port, trainer.home / "root.json")
    device, intruder = (Client(guarded.port, name, passwords) for name in ("press-1", "press-2"))
    reading = b'{"time_ms":1,"values":{"x":3}}'
    with Spy(guarded.port, "#", username="spy", password_file=passwords / "spy") as spy:
        try:
            trainer.publish(make_bundle(release=1))
            agent.start(ATOLL_BROKER__USERNAME="pi", ATOLL_BROKER__PASSWORD_FILE=str(passwords / "pi"))
            spy.wait(lambda: spy.on("/slot/") and is_champion(spy.on("/slot/")[-1].payload), "a champion", 60)
            trainer.publish(make_bundle(release=2), "--wait")
            device.publish("atoll/v1/site/press-1/reading/press", reading)
            spy.wait(lambda: spy.on("/pi/prediction/press-1/"), "a prediction")
            for topic in (
                "atoll/v1/site/press-1/reading/press",
                "atoll/v1/site/pi/prediction/press-1/wear",
                "atoll/v1/site/pi/slot/wear",
                "atoll/v1/releases/metadata/timestamp.json",
                "atoll/v1/site/trainer/command/press-1/stop",
            ):
                intruder.publish(topic, b"forged", retain=True)
            device.publish("atoll/v1/site/press-1/label/press-1/wear", b'{"time_ms":1,"value":7}')
            device.publish("atoll/v1/site/press-1/reading/press", reading)
            spy.wait(lambda: len(spy.on("/pi/prediction/press-1/")) == 2, "a second prediction")
            spy.wait(lambda: counts(spy).get("labels") == 1, "the label", 30)
        finally:
            agent.close()
            device.session.close()
            intruder.session.close()

    assert not [item for item in spy.deliveries if item.payload == b"forged"]


def test_a_bridge_carries_releases_down_and_what_a_site_says_up(tmp_path):
    rules = tmp_path / "acl"
    rules.write_text(
        block("mosquitto.md", "user plant-a-pi") + "user trainer\ntopic readwrite #\nuser spy\ntopic read #\n"
    )
    with brokers.mosquitto(tmp_path / "central", f"acl_file {rules}") as central:
        text = block("mosquitto.md", "connection central", "bridge")
        lines = [
            line.replace("central.example.org:8883", f"127.0.0.1:{central.port}")
            for line in text.splitlines()
            if not line.startswith("bridge_cafile")
        ]
        with (
            brokers.mosquitto(tmp_path / "device", *lines) as device,
            Spy(central.port, "#", username="spy") as above,
            Spy(device.port, "#", client_id="below") as below,
        ):
            publish(central, "trainer", "atoll/v1/releases/metadata/timestamp.json", b"signed", retain=True)
            below.wait(lambda: below.on("timestamp.json"), "the release below")
            request = "atoll/v1/plant-a/dashboard/request/pi/skip_delay"
            publish(central, "trainer", request, b"a request")
            below.wait(lambda: below.on(request), "the request below")
            for topic in (
                "atoll/v1/plant-a/pi/status",
                "atoll/v1/plant-a/press-1/reading/press",
                "atoll/v1/plant-a/pi/response/dashboard/skip_delay",
                "atoll/v1/releases/metadata/root.json",
                "atoll/v1/plant-b/pi/status",
            ):
                publish(device, "pi", topic, b"from below")
            publish(device, "pi", "atoll/v1/plant-a/pi/prediction/press-1/wear", b"the last")
            above.wait(lambda: above.on("prediction"), "the prediction above")

    assert [item.topic for item in above.deliveries if item.payload == b"from below"] == [
        "atoll/v1/plant-a/pi/status",
        "atoll/v1/plant-a/press-1/reading/press",
        "atoll/v1/plant-a/pi/response/dashboard/skip_delay",
    ]


def publish(broker, username, topic, payload, *, retain=False):
    session = Session(Broker(host="127.0.0.1", port=broker.port, username=username), f"{username}-publishes")
    wait_connected(session, 10)
    number = session.publish(topic, payload, retain=retain)
    for _ in range(100):
        if any(isinstance(event, Published) and event.mid == number for event in session.step(0.1)):
            break
    session.close()


def counts(spy: Spy) -> dict[str, int]:
    return Status.decode(spy.on("/pi/status")[-1].payload).counts


def is_champion(payload: bytes) -> bool:
    return SlotStatus.decode(payload).champion is not None
