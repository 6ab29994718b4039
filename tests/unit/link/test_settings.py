"""Settings files: read whole, overridden by the environment, all faults at once, no secret shown."""

from __future__ import annotations

import traceback
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from pydantic import Field

from atoll_contract.errors import ConfigError, Reason
from atoll_ingest.dialect import AtollDialect
from atoll_ingest.pointer import PointerDialect
from atoll_ingest.time import TimeForm, TimeUnit
from atoll_link.settings import BrokerTable, Site, Table, Writer, load
from atoll_link.settings_faults import Fault
from atoll_link.stream_settings import StreamsFile, StreamTable


class Owner(Table):
    id: Writer
    site: Site
    home: Path = Path("state")


class Extra(Table):
    folders: list[Path] = []
    by_name: dict[str, Path] = {}


class Whole(Table):
    owner: Owner
    broker: BrokerTable = BrokerTable()
    stream: list[StreamTable] = Field(default_factory=list)
    extra: list[Extra] = Field(default_factory=list)


GOOD = """
[owner]
id = "pump-7"
site = "plant-a"

[broker]
host = "broker.plant"
username = "pump-7"
password_file = "secrets/password"

[[stream]]
name = "vib"
values.x = { unit = "m/s²" }
"""


def settings_file(folder: Path, text: str) -> Path:
    path = folder / "atoll.toml"
    path.write_text(text, encoding="utf-8")
    return path


def faults_of(path: Path, environment: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(Whole, path, environment or {})
    assert caught.value.reason is Reason.SETTINGS
    return caught.value.faults


# Reading


def test_a_good_file_is_read(tmp_path: Path) -> None:
    settings = load(Whole, settings_file(tmp_path, GOOD), {})

    broker = settings.broker.build("pump-7")
    assert (broker.host, broker.port, broker.username) == ("broker.plant", 1883, "pump-7")
    [stream] = [table.build(settings.owner.site) for table in settings.stream]
    assert [pattern.filter for pattern in stream.patterns] == ["atoll/v1/plant-a/+/reading/vib"]
    assert isinstance(stream.dialect, AtollDialect)
    assert stream.units == {"x": "m/s²"}
    assert not stream.use_retained


def test_five_mistakes_are_five_faults_with_file_line_and_key(tmp_path: Path) -> None:
    path = settings_file(
        tmp_path,
        """
        [owner]
        id = "no slash/please"
        sight = "plant-a"

        [broker]
        port = 70000

        [[stream]]
        name = "vib"
        values = {}
        """,
    )

    faults = faults_of(path)

    assert [":".join(fault.removeprefix(f"{path}:").split(":")[:2]) for fault in faults] == [
        "2: owner.site",
        "3: owner.id",
        "4: owner.sight",
        "7: broker.port",
        "11: stream[0].values",
    ]
    assert all(fault.startswith(f"{path}:") for fault in faults)
    assert all("\n" not in fault for fault in faults)
    assert faults[2].endswith("unknown key")
    assert faults[0].endswith("missing")
    assert faults[3].endswith("less than or equal to 65535 (found 70000)")


def test_a_table_that_is_missing_has_no_line(tmp_path: Path) -> None:
    path = settings_file(tmp_path, "[broker]\nport = 1\n")

    assert faults_of(path) == [f"{path}: owner: missing"]


def test_faults_across_tables_are_told_beside_those_of_form_and_of_other_files(tmp_path: Path) -> None:
    path = settings_file(tmp_path, '[owner]\nid = "a"\n[[stream]]\nname = "s"\nvalues.x = {}\n')

    with pytest.raises(ConfigError) as caught:
        load(Whole, path, {}, across=lambda document: [Fault(("stream", 0, "name"), "odd"), "other:1: bad"])

    assert caught.value.faults == [
        f"{path}:1: owner.site: missing",
        f"{path}:4: stream[0].name: odd",
        "other:1: bad",
    ]


def test_the_error_s_text_holds_every_fault(tmp_path: Path) -> None:
    path = settings_file(tmp_path, '[owner]\nid = ""\nsite = "releases"\n')

    with pytest.raises(ConfigError) as caught:
        load(Whole, path, {})

    assert str(caught.value).count("\n") == 1
    assert "'releases' is a reserved name" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[owner", " not TOML"),
        ("owner = 1\nid =\n", "2: not TOML"),
        ("x = " + "[" * 5000, " not TOML"),
    ],
)
def test_what_is_not_toml_is_told(tmp_path: Path, text: str, told: str) -> None:
    path = settings_file(tmp_path, text)

    [fault] = faults_of(path)

    assert fault.startswith(f"{path}:{told}")


def test_a_file_that_is_not_utf8_is_told(tmp_path: Path) -> None:
    path = tmp_path / "latin.toml"
    path.write_bytes('[owner]\nid = "é"'.encode("latin-1"))

    [fault] = faults_of(path)

    assert fault.startswith(f"{path}: not TOML")


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    assert faults_of(tmp_path / "none.toml") == [
        f"{tmp_path / 'none.toml'}: cannot be read: No such file or directory"
    ]


def test_a_folder_in_place_of_a_file_is_told(tmp_path: Path) -> None:
    [fault] = faults_of(tmp_path)
    assert "cannot be read" in fault


# The environment


def test_the_environment_overrides_keys_that_stand_and_keys_that_do_not(tmp_path: Path) -> None:
    environment = {
        "ATOLL_OWNER__ID": "7",
        "ATOLL_BROKER__PORT": "8883",
        "ATOLL_BROKER__TLS": "true",
        "ATOLL_BROKER__USERNAME": "'quoted'",
        "ATOLL_BROKER__KEEPALIVE_S": "60",
        "PATH": "/bin",
        "ATOLL_DATA": "/data",
        "ATOLL_AGENT__ID": "another role's",
    }

    settings = load(Whole, settings_file(tmp_path, GOOD), environment)

    assert settings.owner.id == "7"
    assert settings.broker.port == 8883
    assert settings.broker.tls
    assert settings.broker.username == "quoted"
    assert settings.broker.keepalive_s == 60
    assert settings.broker.host == "broker.plant"


def test_the_environment_alone_can_hold_a_whole_table(tmp_path: Path) -> None:
    environment = {"ATOLL_OWNER__ID": "a", "ATOLL_OWNER__SITE": "b"}

    settings = load(Whole, settings_file(tmp_path, ""), environment)

    assert (settings.owner.id, settings.owner.site) == ("a", "b")


def test_the_process_s_environment_counts_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATOLL_OWNER__ID", "from-outside")

    assert load(Whole, settings_file(tmp_path, GOOD)).owner.id == "from-outside"


def test_a_fault_of_the_environment_names_the_variable_and_not_the_file(tmp_path: Path) -> None:
    path = settings_file(tmp_path, GOOD)

    faults = faults_of(
        path,
        {
            "ATOLL_BROKER__PORT": "many",
            "ATOLL_BROKER__COLOUR": "blue",
            "ATOLL_STREAM__NAME": "x",
            "ATOLL_OWNER__ID__DEEPER": "x",
        },
    )

    assert sorted(fault.split(": ")[1] for fault in faults) == [
        "ATOLL_BROKER__COLOUR",
        "ATOLL_BROKER__PORT",
        "ATOLL_OWNER__ID__DEEPER",
        "ATOLL_STREAM__NAME",
    ]
    assert all(fault.startswith("environment: ") for fault in faults)


# Paths


def test_relative_paths_are_taken_from_the_file_s_folder_however_deep(tmp_path: Path) -> None:
    path = settings_file(
        tmp_path,
        GOOD
        + """
        [[extra]]
        folders = ["one", "/absolute"]
        [[extra]]
        by_name = { a = "../two" }
        """,
    )

    settings = load(Whole, path, {})

    assert settings.owner.home == tmp_path / "state"
    assert settings.broker.password_file == tmp_path / "secrets/password"
    assert settings.extra[0].folders == [tmp_path / "one", Path("/absolute")]
    assert settings.extra[1].by_name == {"a": tmp_path / "../two"}


def test_a_relative_settings_path_is_taken_from_where_the_process_stands(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings_file(tmp_path, GOOD)
    monkeypatch.chdir(tmp_path)

    assert load(Whole, Path("atoll.toml"), {}).owner.home == tmp_path / "state"


# Secrets


@pytest.mark.parametrize(
    "text",
    [
        '[broker]\npassword = "s3cret"',
        '[broker]\nhost = "mqtt://me:s3cret@broker"',
        'broker = "mqtt://me:s3cret@broker"',
        '[[broker]]\npassword = "s3cret"',
        '[broker]\npassword_file = { s3cret = "s3cret" }',
        '[broker]\ntls = "mqtts://me:s3cret@broker"',
        '[broker.host]\nx = "s3cret"',
    ],
)
def test_a_secret_in_a_wrong_place_is_not_shown(tmp_path: Path, text: str) -> None:
    path = settings_file(tmp_path, '[owner]\nid = "a"\nsite = "b"\n' + text)

    with pytest.raises(ConfigError) as caught:
        load(Whole, path, {})

    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in repr(caught.value)
    assert "s3cret" not in "".join(traceback.format_exception(caught.value))


def test_a_secret_in_the_environment_is_not_shown(tmp_path: Path) -> None:
    faults = faults_of(settings_file(tmp_path, GOOD), {"ATOLL_BROKER__PASSWORD": "s3cret"})

    assert faults == ["environment: ATOLL_BROKER__PASSWORD: unknown key"]


# Tables


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('ca_file = "ca.pem"', "need tls = true"),
        ('tls = true\ncert_file = "c.pem"', "go together"),
        ("port = 0", "greater than or equal to 1"),
        ("keepalive_s = 1", "greater than or equal to 2"),
        ("keepalive_s = inf", "keepalive_s"),
        ('host = ""', "a name or an address alone"),
        ('host = "mqtt://broker"', "a name or an address alone"),
        ("tls = 3", "tls"),
        ('websocket_path = "mqtt"', "websocket_path"),
    ],
)
def test_a_broker_table_that_makes_no_sense_is_told(tmp_path: Path, text: str, told: str) -> None:
    path = settings_file(tmp_path, f'[owner]\nid = "a"\nsite = "b"\n[broker]\n{text}')

    [fault] = faults_of(path)

    assert told in fault


def test_defaults_of_the_broker_depend_on_how_it_is_reached_and_on_a_password() -> None:
    assert BrokerTable().build("me").port == 1883
    assert BrokerTable(tls=True).build("me").port == 8883
    assert BrokerTable(tls=True, port=1).build("me").port == 1
    assert BrokerTable(websocket_path="/").build("me").port == 80
    assert BrokerTable(websocket_path="/", tls=True).build("me").port == 443
    assert BrokerTable().build("me").username is None
    assert BrokerTable(password_file=Path("p")).build("me").username == "me"
    assert BrokerTable(password_file=Path("p"), username="you").build("me").username == "you"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('name = "a/b"\nvalues.x = {}', "stream[0].name"),
        ('name = "s"\nvalues.x = { pointer = "/x" }', "values.x.pointer does not belong to dialect 'atoll'"),
        ('name = "s"\nvalues.x = {}\ntime = { pointer = "/t" }', "time does not belong to dialect 'atoll'"),
        ('name = "s"\ndialect = "json"\nvalues.x = { pointer = "/x" }', "needs topics"),
        ('name = "s"\ndialect = "xml"\nvalues.x = {}', "'opcua' or 'picture' (found 'xml')"),
        ('name = "s"\ntopics = ["a/b"]\nvalues.x = {}', "exactly one level"),
        ('name = "s"\ntopics = ["a/{device}/#"]\nvalues.x = {}', "holds one of"),
        ('name = "s"\nretained = "yes"\nvalues.x = {}', "'ignore' or 'use'"),
        (
            'name = "s"\ndialect = "json"\ntopics = ["{device}"]\nvalues.x = { pointer = "x" }',
            "must start with '/'",
        ),
        (
            'name = "s"\ndialect = "json"\ntopics = ["{device}"]\nvalues.x = { pointer = "/x~" }',
            "'~' stands only in",
        ),
        (
            'name = "s"\ndialect = "json"\ntopics = ["{device}"]\nvalues.x.pointer = "/x"\n'  # noqa: ISC004
            'time = { pointer = "/t", unit = "h" }',
            "stream[0].time.unit",
        ),
    ],
)
def test_a_stream_table_that_makes_no_sense_is_told(tmp_path: Path, text: str, told: str) -> None:
    path = settings_file(tmp_path, f'[owner]\nid = "a"\nsite = "b"\n[[stream]]\n{text}')

    [fault] = faults_of(path)

    assert told in fault
    assert "stream[0]" in fault


def test_a_json_stream_is_built_with_its_pointers_and_time(tmp_path: Path) -> None:
    path = settings_file(
        tmp_path,
        """
        [[stream]]
        name = "lamp"
        dialect = "json"
        topics = ["shellies/{device}/relay/+", "z/{device}"]
        retained = "use"
        values.power = { unit = "W", pointer = "/apower/0" }
        values.whole = { pointer = "" }
        time = { pointer = "/a~1b", unit = "s" }
        """,
    )

    [stream] = [table.build("site") for table in load(StreamsFile, path, {}).stream]

    assert [pattern.filter for pattern in stream.patterns] == ["shellies/+/relay/+", "z/+"]
    assert stream.use_retained
    assert stream.dialect == PointerDialect(
        {"power": ("apower", "0"), "whole": ()}, ("a/b",), TimeForm(TimeUnit.SECONDS, ZoneInfo("UTC"))
    )
    assert stream.units == {"power": "W", "whole": None}
