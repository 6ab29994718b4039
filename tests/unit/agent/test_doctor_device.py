from __future__ import annotations

import argparse
import io
import json
import os
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support import edgetpu_stub
from support.sysfs import Sysfs

from atoll_agent.adapters.store import StateStore
from atoll_agent.commands.doctor import configure, run
from atoll_agent.doctor.accelerators import look_at_edgetpu
from atoll_agent.doctor.device import look_at_device
from atoll_agent.doctor.finding import Finding, Level, fault
from atoll_agent.doctor.rights import Wishes, is_match, uses_of
from atoll_agent.doctor.state import look_at_state, running_pid
from atoll_agent.doctor.support import Blot, support_bundle
from atoll_infer.runtime import choose_runtime
from atoll_ingest.dialect import AtollDialect
from atoll_ingest.stream import Stream, TopicPattern

PI_5 = "Raspberry Pi 5 Model B Rev 1.0"


@pytest.fixture
def tree(tmp_path):
    return Sysfs(tmp_path)


def board(tree: Sysfs, model: str = PI_5, throttled: str | None = None, temp: int = 50_000) -> Path:
    tree._write(tree.root / "firmware" / "devicetree" / "base", {"model": f"{model}\0"})
    tree._write(tree.root / "class" / "thermal" / "thermal_zone0", {"type": "cpu-thermal", "temp": str(temp)})
    if throttled is not None:
        tree._write(tree.root / "devices" / "platform" / "soc" / "soc:firmware", {"get_throttled": throttled})
    return tree.root


def of(findings: list[Finding], check: str) -> Finding:
    (found,) = (finding for finding in findings if finding.check == check)
    return found


def device_findings(root: Path, folder: Path, trust="trusted", size=1024, **options) -> list[Finding]:
    return look_at_device(folder, trust, size, root, **options)


@pytest.mark.parametrize(
    ("throttled", "level", "words"),
    [
        ("0", Level.OK, "never too low"),
        ("50005", Level.FAULT, "too low now (0x50005)"),
        ("50000", Level.WARNING, "too low since the start"),
        ("20002", Level.WARNING, "lowered now"),
        ("80000", Level.WARNING, "lowered at times since the start"),
    ],
)
def test_the_power_of_a_raspberry_pi_is_told_from_its_firmware(tree, tmp_path, throttled, level, words):
    found = of(device_findings(board(tree, throttled=throttled), tmp_path), "power")

    assert found.level is level
    assert words in found.detail
    assert bool(found.todo) is (level is not Level.OK)


def test_other_boards_are_not_asked_for_their_power(tree, tmp_path):
    checks = [found.check for found in device_findings(board(tree, "Some board"), tmp_path)]

    assert checks == ["device", "clock", "disk", "heat"]


def test_a_hot_processor_is_a_warning(tree, tmp_path):
    found = of(device_findings(board(tree, temp=84_500), tmp_path), "heat")

    assert found.level is Level.WARNING
    assert "cpu-thermal is at 84 °C" in found.detail


@pytest.mark.parametrize(
    ("now", "trust", "level"),
    [
        (datetime(1970, 1, 1, tzinfo=UTC), "trusted", Level.FAULT),
        (datetime(2027, 1, 1, tzinfo=UTC), "trusted", Level.OK),
        (datetime(2027, 1, 1, tzinfo=UTC), "untrusted", Level.WARNING),
    ],
)
def test_a_clock_that_cannot_be_right_is_a_fault(tree, tmp_path, now, trust, level):
    assert of(device_findings(tree.root, tmp_path, trust, now=now), "clock").level is level


def test_a_disk_without_room_for_two_bundles_is_a_warning(tree, tmp_path):
    size = os.statvfs(tmp_path).f_blocks * os.statvfs(tmp_path).f_frsize

    assert of(device_findings(tree.root, tmp_path), "disk").level is Level.OK
    assert of(device_findings(tree.root, tmp_path, size=size), "disk").level is Level.WARNING


def edgetpu_findings(tree: Sysfs, *, library="libmissing.so", is_demanded=False, page_bytes=4096, **options):
    runtimes = [choose_runtime().runtime]
    options |= {"is_demanded": is_demanded, "page_bytes": page_bytes}
    return look_at_edgetpu(tree.root, library, runtimes, **options)


def test_without_an_edge_tpu_the_cpu_answers_unless_one_is_demanded(tree):
    (found,) = edgetpu_findings(tree)
    assert found.level is Level.OK

    missing, library = edgetpu_findings(tree, is_demanded=True)
    assert missing.level is library.level is Level.FAULT
    assert "libmissing.so" in library.detail


def test_both_ids_of_a_stick_are_known_and_a_slow_port_is_told(tree):
    fresh = tree.plug_usb("1-1", has_firmware=False)
    slow = tree.plug_usb("1-2")
    (tree.root / "bus" / "usb" / "devices" / "1-2" / "speed").write_text("480\n")

    findings = edgetpu_findings(tree)

    assert of(findings, f"edgetpu {fresh}").level is Level.OK
    assert "1a6e:089a" in of(findings, f"edgetpu {fresh}").detail
    assert of(findings, f"edgetpu {slow}").level is Level.WARNING
    assert "USB 3 port" in of(findings, f"edgetpu {slow}").todo


def test_a_stick_whose_node_is_missing_is_a_fault(tree):
    path = tree.plug_usb("1-1", node=False)

    found = of(edgetpu_findings(tree), f"edgetpu {path}")

    assert found.level is Level.FAULT
    assert "is missing here" in found.detail
    assert "a container needs the folder" in found.todo


def test_a_device_that_the_settings_name_and_that_is_not_there_is_a_fault(tree):
    path = tree.plug_pci(0, temp="50000")

    findings = edgetpu_findings(tree, wanted=[path, "/dev/apex_1"])

    assert of(findings, f"edgetpu {path}").level is Level.OK
    missing = of(findings, "edgetpu /dev/apex_1")
    assert missing.level is Level.FAULT
    assert missing.detail.endswith("is not there; found: /dev/apex_0")
    (only,) = edgetpu_findings(Sysfs(tree.root / "empty"), wanted=["/dev/apex_1"])
    assert only.level is Level.FAULT


def test_a_device_that_libedgetpu_does_not_find_is_a_warning(tree, monkeypatch):
    monkeypatch.setenv("EDGETPU_STUB_DEVICES", "usb:/sys/bus/usb/devices/1-1")
    library = str(edgetpu_stub.build())
    tree.plug_usb("1-1")
    assert of(edgetpu_findings(tree, library=library), "libedgetpu").level is Level.OK

    path = tree.plug_usb("1-2")

    found = of(edgetpu_findings(tree, library=library), "libedgetpu")
    assert found.level is Level.WARNING
    assert f"finds /sys/bus/usb/devices/1-1, and not {path}" in found.detail


def test_the_tree_that_the_settings_name_is_looked_at(tree, tmp_path):
    path = tree.plug_usb("1-1")
    settings = tmp_path / "agent.toml"
    settings.write_text(f'{SETTINGS}[edgetpu]\nsysfs_root = "{tree.root}"\n')
    (tmp_path / "pw").touch()
    parser = argparse.ArgumentParser()
    configure(parser)
    arguments = parser.parse_args(["--settings", str(settings), "--offline", "--bundle", str(tmp_path / "b")])

    run(arguments)

    with zipfile.ZipFile(tmp_path / "b") as archive:
        checks = [finding["check"] for finding in json.loads(archive.read("findings.json"))]
        assert json.loads(archive.read("system.json"))["edgetpus"][0]["path"] == path
    assert f"edgetpu {path}" in checks


def test_large_pages_are_a_fault_under_a_module_on_pcie_only(tree):
    board(tree)
    tree.plug_usb("1-1")
    assert not [found for found in edgetpu_findings(tree, page_bytes=16_384) if found.check == "pages"]

    tree.plug_pci(0, temp="50000")

    found = of(edgetpu_findings(tree, page_bytes=16_384), "pages")
    assert found.level is Level.FAULT
    assert "kernel=kernel8.img" in found.todo


def test_a_module_without_its_driver_is_a_fault(tree):
    tree._write(
        tree.root / "bus" / "pci" / "devices" / "0000:01:00.0", {"vendor": "0x1ac1", "device": "0x089a"}
    )

    found = of(edgetpu_findings(tree), "edgetpu 0000:01:00.0")

    assert found.level is Level.FAULT
    assert "modprobe apex" in found.todo


def test_a_hot_module_is_a_warning(tree):
    path = tree.plug_pci(0, temp="91000")

    assert of(edgetpu_findings(tree), f"edgetpu {path}").level is Level.WARNING


def test_enrolment_and_a_running_agent_are_told_and_nothing_is_locked(tmp_path):
    findings, identity = look_at_state(tmp_path / "absent", tmp_path / "agent.toml")
    assert identity is None
    assert of(findings, "enrolment").level is Level.FAULT
    assert "atoll-agent enrol --settings" in of(findings, "enrolment").todo

    folder = tmp_path / "state"
    StateStore(folder).enrol(b"{}")
    findings, identity = look_at_state(folder, tmp_path / "agent.toml")
    assert [found.level for found in findings] == [Level.OK] * 3
    assert running_pid(folder) is None

    StateStore(folder).lock()  # which the look before has not prevented
    assert running_pid(folder) == os.getpid()
    assert sorted(path.name for path in folder.iterdir()) == [
        "bundles",
        "metadata",
        "root.json",
        "slots",
        "token",
    ]


SETTINGS = """
[agent]
id = "pi"
site = "site"
state_dir = "state"
[broker]
host = "127.0.0.1"
password_file = "pw"   # was: password = "correct-horse", token=abcd1234
"""


def test_a_support_bundle_holds_no_secret(tmp_path):
    settings = tmp_path / "agent.toml"
    settings.write_text(SETTINGS)
    (tmp_path / "pw").write_text("hunter2-hunter2\n")
    token = StateStore(tmp_path / "state").enrol(b"{}").token
    slots = tmp_path / "state" / "slots"
    slots.mkdir()
    (slots / "wear.json").write_text('{"detail": "mqtt://pi:geheim@broker refused hunter2-hunter2"}')

    content = support_bundle(
        [fault("login", f"{token} hunter2-hunter2", "")], settings, tmp_path, "no-such-unit"
    )

    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = {name: archive.read(name).decode() for name in archive.namelist()}
    assert {
        "findings.json",
        "settings/agent.toml",
        "state/slots/wear.json",
        "state/files.txt",
    } <= members.keys()
    everything = "\n".join(members.values())
    for secret in ("hunter2", token, "correct-horse", "geheim", "abcd1234"):
        assert secret not in everything
    assert 'password_file = "pw"' in members["settings/agent.toml"]
    assert "mqtt://***@broker refused ***" in members["state/slots/wear.json"]
    assert "token" in members["state/files.txt"]  # that it is there, and how it may be read


def test_a_private_key_is_blotted_out_wherever_it_stands():
    text = "before\n-----BEGIN EC PRIVATE KEY-----\nMHcCAQEE\n-----END EC PRIVATE KEY-----\nafter"

    assert Blot([])(text) == "before\n***\nafter"
    assert Blot([])("-----BEGIN PRIVATE KEY-----\nMHcC") == "***"


@pytest.mark.parametrize(
    ("topic_filter", "topic", "expected"),
    [
        ("a/+/c", "a/b/c", True),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("a/+", "a/b/c", False),
        ("a/b", "a", False),
        ("#", "a/b", True),
    ],
)
def test_filters_match_as_in_mqtt(topic_filter, topic, expected):
    assert is_match(topic_filter, topic) is expected


def test_no_shared_group_is_joined_and_nothing_is_published_on_foreign_topics():
    patterns = (
        TopicPattern("$share/hall/atoll/v1/site/{device}/reading/press"),
        TopicPattern("zigbee/{device}"),
    )
    stream = Stream("press", patterns, AtollDialect(), {"x": None})

    wishes = Wishes(["hot"], ["stop"], ["lamp/${device}/set"], "homeassistant")
    uses = uses_of("site", "pi", [stream], ["wear"], wishes, has_releases=False)

    assert [read.topic_filter for read in uses.reads[:2]] == ["atoll/v1/site/+/reading/press", "zigbee/+"]
    assert uses.reads[1].marker is None
    written = [write.topic for write in uses.writes] + [read.marker[0] for read in uses.reads if read.marker]
    (outside,) = [topic for topic in [*written, uses.spare] if not topic.startswith("atoll/v1/site/pi/")]
    assert (
        outside == "homeassistant/device/atoll_site_pi/doctor"
    )  # and not .../config, which Home Assistant reads
    assert uses.untried == ("lamp/${device}/set",)
    known = {"atoll/v1/site/pi/status", "atoll/v1/site/pi/slot/wear", "atoll/v1/site/pi/drift/wear"}
    assert not known & set(written)  # an empty message withdraws what is there
    assert {"atoll/v1/site/pi/slot/doctor", "atoll/v1/site/pi/drift/doctor"} <= set(written)
    assert {"atoll/v1/site/pi/decision/pi/hot", "atoll/v1/site/pi/command/pi/stop"} <= set(written)
