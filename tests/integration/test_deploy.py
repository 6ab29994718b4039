"""What deploy/ holds, as far as it can be looked at without a cluster, a registry or another machine."""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from support import brokers
from support.certificates import Authority
from support.releases import Trainer

from atoll_agent.settings import AgentSettings
from atoll_link.session import Broker, Session, wait_connected
from atoll_sim.demo.ports import free_port
from atoll_trainer.settings import TrainerSettings

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
CONTAINERS = sorted((ROOT / "deploy" / "containers").glob("*.Containerfile"))
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]


def resources(*files: str) -> list[dict]:
    return [item for file in files for item in yaml.safe_load_all((KUBERNETES / file).read_text())]


BASE = yaml.safe_load((KUBERNETES / "base" / "kustomization.yaml").read_text())
RESOURCES = resources(*[f"base/{file}" for file in BASE["resources"]])


def pods() -> list[tuple[str, str, dict]]:
    """Return namespace, name and the pod of everything that runs."""
    found = []
    for item in RESOURCES:
        spec = item.get("spec", {})
        spec = spec.get("jobTemplate", {}).get("spec", spec)
        if "template" in spec:
            found.append((item["metadata"]["namespace"], item["metadata"]["name"], spec["template"]["spec"]))
    return found


PODS = pytest.mark.parametrize(("namespace", "name", "pod"), pods(), ids=lambda value: str(value)[:20])


@PODS
def test_a_pod_is_nobody_s_root(namespace, name, pod):
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["runAsUser"] > 0
    assert pod["securityContext"]["seccompProfile"]["type"] == "RuntimeDefault"
    assert not pod["automountServiceAccountToken"]
    for container in [*pod["containers"], *pod.get("initContainers", [])]:
        context = container["securityContext"]
        assert not context["allowPrivilegeEscalation"]
        assert context["readOnlyRootFilesystem"]
        assert context["capabilities"]["drop"] == ["ALL"]
        assert {"requests", "limits"} == container["resources"].keys()
        # One init container hands the folder on the node over, and can do nothing else.
        assert ("add" in context["capabilities"]) == (container["name"] == "own")
        assert ("runAsUser" in context) == (container["name"] == "own")


@PODS
def test_what_a_pod_mounts_is_there_or_has_a_template(namespace, name, pod):
    given = {
        (item["kind"], item["metadata"]["namespace"], item["metadata"]["name"])
        for item in [*RESOURCES, *resources("secrets.template.yaml")]
        if "namespace" in item["metadata"]
    } | {("ConfigMap", item["namespace"], item["name"]) for item in BASE["configMapGenerator"]}
    for volume in pod["volumes"]:
        for kind, key, part in (
            ("ConfigMap", "configMap", "name"),
            ("Secret", "secret", "secretName"),
            ("PersistentVolumeClaim", "persistentVolumeClaim", "claimName"),
        ):
            if key in volume:
                assert (kind, namespace, volume[key][part]) in given
    mounted = {mount["name"] for container in pod["containers"] for mount in container["volumeMounts"]}
    claimed = {"data"} if name == "broker" else set()
    assert mounted == {volume["name"] for volume in pod["volumes"]} | claimed


def test_every_image_has_a_version_and_ours_is_the_present_one():
    tags = {image["name"]: image["newTag"] for image in BASE["images"]}
    used = {
        container["image"]
        for _, _, pod in pods()
        for container in [*pod["containers"], *pod.get("initContainers", [])]
    }

    assert used == tags.keys()
    assert tags["atoll-agent"] == tags["atoll-trainer"] == VERSION


def test_the_settings_in_the_cluster_are_right(monkeypatch):
    monkeypatch.setenv("ATOLL_AGENT__ID", "node-1")
    agent = AgentSettings.read(KUBERNETES / "base/agent/agent.toml")
    trainer = TrainerSettings.read(KUBERNETES / "base/trainer/trainer.toml")

    assert agent.agent.alive_file == trainer.trainer.alive_file == Path("/run/atoll/alive")
    assert agent.broker.host == trainer.broker.host == "broker.atoll.svc.cluster.local"


@pytest.mark.parametrize("name", ["agent", "trainer"])
def test_what_goes_on_for_ever_is_watched(name):
    [pod] = [pod for _, found, pod in pods() if found == name]
    [container] = pod["containers"]

    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert "/run/atoll/alive" in container[probe]["exec"]["command"][-1]
    assert "/run/atoll" in [mount["mountPath"] for mount in container["volumeMounts"]]


def test_the_broker_lets_no_network_in_that_holds_the_addresses_of_pods():
    policies = [item for item in RESOURCES if item["kind"] == "NetworkPolicy"]
    overlay = yaml.safe_load((KUBERNETES / "overlays/k3s/kustomization.yaml").read_text())
    [patch] = [patch["patch"] for patch in overlay["patches"] if patch["target"]["kind"] == "NetworkPolicy"]
    sources = [step["value"] for step in yaml.safe_load(patch)]

    assert len(policies) == 5
    assert "ipBlock" not in str(policies)
    [network] = [ipaddress.ip_network(source["ipBlock"]["cidr"]) for source in sources if "ipBlock" in source]
    for pods_or_services in ("10.42.0.0/16", "10.43.0.0/16"):
        assert not network.overlaps(ipaddress.ip_network(pods_or_services))


def test_the_closed_loop_takes_the_recorder_s_place():
    component = yaml.safe_load((KUBERNETES / "components/loop/kustomization.yaml").read_text())
    [patch] = component["patches"]
    [target] = [item for item in RESOURCES if item["kind"] == patch["target"]["kind"]]
    command, environment = yaml.safe_load(patch["patch"])
    container = target["spec"]["template"]["spec"]["containers"][0]

    assert target["metadata"]["name"] == patch["target"]["name"]
    assert (container["args"][0], command["value"]) == ("record", "run")
    assert environment["path"].endswith("/containers/0/env")
    assert "env" not in container


@pytest.mark.timeout(300)
def test_a_node_is_enrolled_once_and_again_for_another_root(tmp_path):
    [pod] = [pod for _, name, pod in pods() if name == "agent"]
    [enrol] = [one for one in pod["initContainers"] if one["name"] == "enrol"]
    state, trust = tmp_path / "state", tmp_path / "trust"
    trust.mkdir()
    state.mkdir()
    (state / "token").write_text("0123456789abcdef")  # killed half-way, by an older version
    (trust / "root.json").write_bytes(Trainer.create(tmp_path / "trainer").root)
    script = enrol["command"][-1]
    for there, here in (
        ("/var/lib/atoll", state),
        ("/etc/atoll/trust", trust),
        ("/etc/atoll/settings", KUBERNETES / "base/agent"),
    ):
        assert there in script
        script = script.replace(there, str(here))
    own = Path(sys.executable).parent
    environment = {"PATH": f"{own}:{os.environ['PATH']}", "ATOLL_AGENT__STATE_DIR": str(state)}

    def start() -> tuple[str, str, bytes]:
        ended = subprocess.run(
            ["sh", "-c", script], env=environment, check=True, capture_output=True, text=True, timeout=120
        )
        return ended.stdout, (state / "token").read_text(), (state / "root.json").read_bytes()

    said, token, root = start()
    assert said
    assert token == "0123456789abcdef"
    assert start() == ("", token, root)
    other = Trainer.create(tmp_path / "other").root
    (trust / "root.json").write_bytes(other)
    assert start() == (said, token, other)


def test_the_access_rules_in_the_cluster_are_those_that_are_tried():
    page = (ROOT / "docs/operate/trainer.md").read_text()

    assert f"```\n{(KUBERNETES / 'base/broker/acl').read_text()}```" in page


def test_the_broker_in_the_cluster_is_as_the_page_advises_and_writes_nothing_at_each_message():
    page = (ROOT / "docs/operate/mosquitto.md").read_text()
    block = re.search(r"atoll\.conf`:\n\n```\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    advised = [line for line in block[1].splitlines() if not line.startswith("#")]
    lines = (KUBERNETES / "base/broker/mosquitto.conf").read_text().splitlines()

    assert set(advised) <= set(lines)
    assert "autosave_interval 1" in lines
    assert not [line for line in lines if line.startswith("autosave_on_changes")]


def test_mosquitto_starts_with_the_configuration_of_the_cluster(tmp_path):
    program = brokers.require_mosquitto()
    authority = Authority(tmp_path / "authority")
    cert_file, key_file = authority.issue("broker")
    (tmp_path / "acl").write_text((KUBERNETES / "base/broker/acl").read_text())
    (tmp_path / "passwd").write_text("trainer:secret\n")
    passwords = shutil.which("mosquitto_passwd")
    if passwords is None:
        pytest.skip("mosquitto_passwd is not installed")
    subprocess.run([passwords, "-U", tmp_path / "passwd"], check=True, timeout=20)
    port = free_port()
    text = (KUBERNETES / "base/broker/mosquitto.conf").read_text()
    for there, here in (
        ("listener 8883", f"user root\nlistener {port} 127.0.0.1"),
        ("/etc/mosquitto/tls/tls.crt", cert_file),
        ("/etc/mosquitto/tls/tls.key", key_file),
        ("/etc/mosquitto/secret/passwd", tmp_path / "passwd"),
        ("/etc/mosquitto/config/acl", tmp_path / "acl"),
        ("/var/lib/mosquitto/", f"{tmp_path}/"),
    ):
        assert there in text
        text = text.replace(there, str(here))
    (tmp_path / "mosquitto.conf").write_text(text)
    (tmp_path / "password").write_text("secret")
    running = brokers.RunningBroker(
        "mosquitto", port, [program, "-c", str(tmp_path / "mosquitto.conf")], tmp_path
    )
    running.start()
    try:
        broker = Broker(
            "127.0.0.1",
            port,
            username="trainer",
            password_file=tmp_path / "password",
            tls=True,
            ca_file=authority.file,
        )
        session = Session(broker, "trainer-test")
        wait_connected(session, 20.0)
        session.close()
    finally:
        running.stop()


@pytest.mark.parametrize("path", CONTAINERS, ids=lambda path: path.stem)
def test_a_container_is_not_root_and_names_no_registry(path):
    lines = re.sub(r"\\\n", " ", path.read_text()).splitlines()
    words = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    images = [rest.split()[0] for word, rest in words if word == "FROM"]
    [user] = [rest for word, rest in words if word == "USER"]
    uid, gid = (int(part) for part in user.split(":"))

    assert uid > 0
    assert gid > 0
    assert all(re.fullmatch(r"[a-z]+:[\w.-]+", image) for image in images)
    assert f"-t atoll-{path.stem}:{VERSION} ." in path.read_text()


def builder():
    spec = importlib.util.spec_from_file_location("build", ROOT / "deploy" / "debian" / "build.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The Debian package without the Python packages, which come from far away."""
    if shutil.which("dpkg-deb") is None:
        pytest.skip("dpkg-deb is not installed")
    build = builder()
    if build.PYTHON not in build.DEBIAN:
        pytest.skip(f"no supported Debian has Python {build.PYTHON}")
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1730000000")
    made = []
    for number in (1, 2):
        tree, out = tmp_path / f"tree-{number}", tmp_path / f"out-{number}"
        out.mkdir()
        build.put_files(tree)
        made.append(build.put_together(tree, "arm64", out))
    first, second = made
    assert first.read_bytes() == second.read_bytes()
    return first


def test_a_debian_package_has_its_files_and_owns_no_settings(package, tmp_path):
    subprocess.run(["dpkg-deb", "-R", package, tmp_path / "in"], check=True)
    files = {
        str(path.relative_to(tmp_path / "in")) for path in (tmp_path / "in").rglob("*") if path.is_file()
    }
    listing = subprocess.run(["dpkg-deb", "-c", package], check=True, capture_output=True, text=True).stdout

    assert {
        "usr/lib/systemd/system/atoll-agent.service",
        "usr/lib/sysusers.d/atoll-agent.conf",
        "usr/lib/udev/rules.d/60-atoll-coral.rules",
        "usr/share/atoll/agent.toml",
        "etc/default/atoll-agent",
    } <= files
    assert not [file for file in files if file.startswith(("etc/atoll", "var/"))]
    assert (tmp_path / "in/DEBIAN/conffiles").read_text() == "/etc/default/atoll-agent\n"
    assert all(line.split()[1] == "root/root" for line in listing.splitlines())


@pytest.mark.parametrize("name", ["postinst", "prerm", "postrm"])
def test_a_maintainer_script_can_be_read_by_sh(name):
    script = ROOT / "deploy" / "debian" / name
    ended = subprocess.run(["sh", "-n", script], capture_output=True, text=True, check=False)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert script.read_text().startswith("#!/bin/sh\nset -e\n")


def test_an_installed_package_starts_its_service_whatever_was_before():
    """A version before is named also after a removal: there is nothing left then to try-restart."""
    script = (ROOT / "deploy/debian/postinst").read_text()

    assert "deb-systemd-invoke restart atoll-agent.service" in script
    assert "try-restart" not in script
