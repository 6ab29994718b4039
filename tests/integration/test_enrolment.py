"""Many devices from one table, and one device by hand."""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path

import pytest
from support.releases import Trainer

from atoll_agent.cli import main
from atoll_link.exits import Exit

TEMPLATE = """\
# Shared by the fleet.
[agent]
id = "anybody"  # replaced
site = "plant-a"
state_dir = "state"

[broker]
host = "broker.lan"
ca_file = "certificates/ca.pem"

[[stream]]
name = "press"
values = { x = {} }
"""


class Desk:
    """Where somebody enrols a fleet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.template = folder / "fleet.toml"
        self.template.write_text(TEMPLATE)
        (folder / "certificates").mkdir()
        (folder / "certificates" / "ca.pem").write_text("certificate")
        self.root = folder / "root.json"
        self.root.write_bytes(Trainer.create(folder / "trainer").root)
        self.devices = folder / "devices.csv"
        self.out = folder / "devices"

    def enrol(self, table: str, *options: str) -> int:
        self.devices.write_text(table)
        where = ["--devices", str(self.devices), "--out", str(self.out)]
        arguments = ["--settings", str(self.template), "--root", str(self.root)]
        return main(["enrol", *arguments, *where, *options])

    def settings(self, device: str) -> dict:
        return tomllib.loads((self.out / device / "agent.toml").read_text())

    def files(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.out)): path.read_bytes()
            for path in self.out.rglob("*")
            if path.is_file()
        }


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.fixture
def plain_desk(desk) -> Desk:
    desk.template.write_text(TEMPLATE.replace("ca_file", "# ca_file"))
    return desk


TABLE = "id,site,password\npi-7,plant-b,horse\npi-8,,\n"


def test_each_device_gets_a_folder_with_what_the_table_says_of_it(desk, capsys):
    desk.template.write_text(TEMPLATE.replace('host = "broker.lan"', 'host = "broker.lan"\ntls = true'))

    assert desk.enrol(TABLE) == 0

    assert "made" in capsys.readouterr().out
    assert desk.settings("pi-7")["agent"] == {"id": "pi-7", "site": "plant-b", "state_dir": "state"}
    assert desk.settings("pi-8")["agent"]["site"] == "plant-a"
    assert desk.settings("pi-7")["broker"]["password_file"] == "state/password"
    assert "password_file" not in desk.settings("pi-8")["broker"]
    assert "# Shared by the fleet." in (desk.out / "pi-7" / "agent.toml").read_text()
    assert (desk.out / "pi-7" / "ca.pem").read_text() == "certificate"
    assert (desk.out / "pi-7" / "state" / "root.json").read_bytes() == desk.root.read_bytes()
    assert len({(desk.out / device / "state" / "token").read_text() for device in ("pi-7", "pi-8")}) == 2


def test_a_device_can_run_from_its_folder(plain_desk, capsys):
    assert plain_desk.enrol(TABLE) == 0
    capsys.readouterr()

    assert main(["check", "--settings", str(plain_desk.out / "pi-7" / "agent.toml")]) == 0

    assert "(enrolled)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("password_file", "status", "says"),
    [
        ("/run/credentials/not-there.service/password", 0, "there while the service runs"),
        ("/not-there/password", Exit.SETTINGS, "/not-there/password: the password cannot be read"),
    ],
)
def test_a_password_that_systemd_hands_over_need_not_be_there_yet(
    plain_desk, capsys, password_file, status, says
):
    plain_desk.template.write_text(
        plain_desk.template.read_text().replace("[broker]", f'[broker]\npassword_file = "{password_file}"')
    )

    assert main(["check", "--settings", str(plain_desk.template)]) == status

    printed = capsys.readouterr()
    assert says in printed.out + printed.err


def test_secrets_are_for_the_owner_alone(desk):
    desk.template.write_text(
        TEMPLATE.replace("ca_file", 'tls = true\ncert_file = "own.pem"\nkey_file = "own.key"\nca_file')
    )
    for name in ("own.pem", "own.key"):
        (desk.folder / name).write_text(name)

    assert desk.enrol(TABLE) == 0

    for name in ("state/token", "state/password", "state/own.key"):
        assert stat.S_IMODE((desk.out / "pi-7" / name).stat().st_mode) == 0o600
    assert stat.S_IMODE((desk.out / "pi-7").stat().st_mode) == 0o700
    assert desk.settings("pi-7")["broker"]["key_file"] == "state/own.key"


def test_an_absolute_state_folder_is_that_of_the_device(desk):
    desk.template.write_text(TEMPLATE.replace('"state"', '"/var/lib/atoll"').replace("ca_file", "# ca_file"))

    assert desk.enrol(TABLE) == 0

    assert desk.settings("pi-7")["agent"]["state_dir"] == "/var/lib/atoll"
    assert desk.settings("pi-7")["broker"]["password_file"] == "/var/lib/atoll/password"
    assert (desk.out / "pi-7" / "state" / "password").read_text() == "horse"


def test_run_again_it_makes_only_what_is_missing(plain_desk, capsys):
    desk = plain_desk
    assert desk.enrol(TABLE) == 0
    before = desk.files()
    (desk.out / "pi-8" / "state" / "root.json").unlink()
    capsys.readouterr()

    assert desk.enrol(f"{TABLE}pi-9,,\n") == 0

    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == [
        "unchanged",
        "replaced",
        "made",
    ]
    assert before.items() <= desk.files().items()


def test_nothing_that_differs_is_overwritten_unasked(plain_desk, capsys):
    desk = plain_desk
    assert desk.enrol(TABLE) == 0
    before = desk.files()

    assert desk.enrol("id,site,password\npi-6,,\npi-7,plant-c,horse\n") == Exit.SETTINGS

    assert "agent.toml would change" in capsys.readouterr().err
    assert desk.files() == before  # pi-6 neither

    assert desk.enrol("id,site,password\npi-7,plant-c,horse\n", "--overwrite") == 0
    assert desk.settings("pi-7")["agent"]["site"] == "plant-c"
    assert desk.files()["pi-7/state/token"] == before["pi-7/state/token"]


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ("", "one of them id"),
        ("id\n", "names no device"),
        ("id,colour\npi-7,red\n", "no column 'colour'"),
        ("id\npi 7\n", "id 'pi 7'"),
        ("id\npi-7\npi-7\n", "stands twice"),
        ("id,site\npi-7\n", "not as many cells"),
        ("id,site\npi-7,releases\n", "reserved name"),
        ("id\nmetadata\n", "reserved name"),
    ],
)
def test_mistakes_in_the_table_are_told_and_nothing_is_made(plain_desk, capsys, table, says):
    assert plain_desk.enrol(table) == Exit.SETTINGS

    assert says in capsys.readouterr().err
    assert not plain_desk.out.exists()


def test_a_template_that_cannot_be_changed_by_lines_is_told(plain_desk, capsys):
    plain_desk.template.write_text('agent = { id = "x", site = "a" }\n')

    assert plain_desk.enrol("id\npi-7\n") == Exit.SETTINGS
    assert "lines of their own" in capsys.readouterr().err


def test_options_that_go_together_are_asked_for_together(plain_desk, capsys):
    arguments = ["enrol", "--settings", str(plain_desk.template), "--root", str(plain_desk.root)]

    assert main([*arguments, "--out", "x"]) == Exit.SETTINGS
    assert main([*arguments, "--overwrite"]) == Exit.SETTINGS


def test_enrolling_anew_forgets_what_a_wrong_clock_made_of_the_time(plain_desk):
    folder = plain_desk.folder / "state" / "metadata"
    folder.mkdir(parents=True)
    (folder / "last-good-time").write_text("9999-12-31T00:00:00+00:00")

    arguments = ["--settings", str(plain_desk.template), "--root", str(plain_desk.root)]
    assert main(["enrol", *arguments]) == 0

    assert not (folder / "last-good-time").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root enrols for a service")
@pytest.mark.parametrize(("owner", "next_step"), [(0, "atoll-agent run --settings"), (1, "systemctl start")])
def test_root_is_told_to_start_the_service_where_that_has_a_user_of_its_own(
    plain_desk, capsys, owner, next_step
):
    folder = plain_desk.folder / "state"
    folder.mkdir()
    os.chown(folder, owner, owner)

    assert main(["enrol", "--settings", str(plain_desk.template), "--root", str(plain_desk.root)]) == 0

    assert f"next    {next_step}" in capsys.readouterr().out
    assert {path.stat().st_uid for path in folder.iterdir()} == {owner}
