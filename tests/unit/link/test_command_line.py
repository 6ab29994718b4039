"""The frame of every program: help, wrong usage, missing extras, exit codes."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path

import pytest

from atoll_agent import cli as agent_cli
from atoll_contract.errors import BrokerUnavailableError, ConfigError
from atoll_link import command_line, exits
from atoll_link.broker import Broker
from atoll_link.command_line import Command, add_broker_arguments, broker_from
from atoll_link.exits import Exit
from atoll_sim import cli as sim_cli
from atoll_trainer import cli as trainer_cli

COMMANDS = {
    "go": Command("commands_for_tests_go", "go 100% of the way", "go --far 3"),
    "paint": Command("commands_for_tests_paint", "paint it", "paint", extra="trainer"),
    "broken": Command("commands_for_tests_broken", "import what atoll lacks", "broken", extra="trainer"),
}


@pytest.fixture(autouse=True)
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[types.SimpleNamespace]:
    """``go`` can be run; ``paint`` needs a package that nobody has, ``broken`` a part of atoll."""
    answer = types.SimpleNamespace(run=lambda _arguments: 0)
    go = types.ModuleType("commands_for_tests_go")
    go.configure = lambda parser: parser.add_argument("--far", type=int, default=1)  # type: ignore[attr-defined]
    go.run = lambda arguments: answer.run(arguments)  # type: ignore[attr-defined]  # noqa: PLW0108 - tests change it
    monkeypatch.setitem(sys.modules, "commands_for_tests_go", go)
    (tmp_path / "commands_for_tests_paint.py").write_text("import no_such_package_anywhere\n")
    (tmp_path / "commands_for_tests_broken.py").write_text("import atoll_link.no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield answer
    for name in ("commands_for_tests_paint", "commands_for_tests_broken"):
        sys.modules.pop(name, None)


def run(*words: str) -> int:
    return command_line.main("atoll-test", "A program for tests.", COMMANDS, words)


def exit_of(*words: str) -> int:
    with pytest.raises(SystemExit) as caught:
        run(*words)
    assert isinstance(caught.value.code, int)
    return caught.value.code


@pytest.mark.parametrize("program", [agent_cli, trainer_cli, sim_cli])
def test_help_lists_every_command_with_its_summary_and_an_example(
    program: types.ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        program.main(["--help"])

    shown = capsys.readouterr()
    assert caught.value.code == 0
    assert shown.err == ""
    words = " ".join(shown.out.split())
    for name, command in program.COMMANDS.items():
        assert command.summary in words
        assert f" {command.example}" in shown.out
        assert command.example.split()[0] == name


def test_help_does_not_import_the_commands() -> None:
    # A process of its own: here other tests have imported them.
    code = (
        "import sys\n"
        "from atoll_trainer.cli import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in sys.modules if 'trainer.commands.' in name or name == 'tensorflow'])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines()[-1] == "[]"


def test_help_of_a_command_shows_its_own_options_and_example(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of("go", "--help") == 0

    shown = capsys.readouterr().out
    assert "--far" in shown
    assert "--log-level" in shown
    assert "atoll-test go --far 3" in shown


def test_help_bears_a_percent_sign(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of("--help") == 0
    assert "100%" in capsys.readouterr().out


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of("--version") == 0
    assert capsys.readouterr().out.startswith("atoll ")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["fly"],
        ["go", "--no-such"],
        ["go", "--far", "x"],
        ["go", "--log-level", "loud"],
        ["--far", "go"],
        ["--", "go"],
    ],
)
def test_wrong_usage_exits_2_and_says_so(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_of(*words) == Exit.USAGE

    shown = capsys.readouterr()
    assert "usage: atoll-test" in shown.err
    assert shown.out == ""


def test_a_missing_extra_exits_2_and_says_how_to_get_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("paint") == Exit.USAGE

    shown = capsys.readouterr().err
    assert "pip install 'atoll[trainer]'" in shown
    assert "no_such_package_anywhere" in shown


def test_a_missing_part_of_atoll_is_a_bug_and_no_missing_extra() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        run("broken")


def test_a_command_gets_its_arguments_and_its_answer_is_the_exit_code(
    commands: types.SimpleNamespace,
) -> None:
    commands.run = lambda arguments: arguments.far
    assert run("go", "--far", "3") == Exit.GATE_REFUSED
    commands.run = lambda _arguments: None
    assert run("go") == Exit.SUCCESS


def test_wrong_settings_exit_78_with_one_line_per_fault(
    commands: types.SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_arguments: argparse.Namespace) -> int:
        raise ConfigError(["a.toml: x: wrong", "a.toml: y: missing"])

    commands.run = fail
    assert run("go") == Exit.SETTINGS == 78
    assert capsys.readouterr().err == "a.toml: x: wrong\na.toml: y: missing\n"


def test_a_foreseen_failure_exits_1_with_its_reason_and_no_traceback(
    commands: types.SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(_arguments: argparse.Namespace) -> int:
        raise BrokerUnavailableError("mqtt://b:1883: nobody there")

    commands.run = fail
    assert run("go") == Exit.FAILURE
    assert capsys.readouterr().err == "error: mqtt://b:1883: nobody there [broker_unavailable]\n"


def test_a_bug_is_not_caught(commands: types.SimpleNamespace) -> None:
    def fail(_arguments: argparse.Namespace) -> int:
        raise ZeroDivisionError

    commands.run = fail
    with pytest.raises(ZeroDivisionError):
        run("go")


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError(13, "Permission denied", "/some/file"), "error: /some/file: Permission denied\n"),
        (OSError("no number, no file"), "error: no number, no file\n"),
    ],
)
def test_a_failure_of_the_system_exits_1_and_names_the_file(
    commands: types.SimpleNamespace, capsys: pytest.CaptureFixture[str], error: OSError, told: str
) -> None:
    def fail(_arguments: argparse.Namespace) -> int:
        raise error

    commands.run = fail
    assert run("go") == Exit.FAILURE
    assert capsys.readouterr().err == told


def test_an_interrupt_exits_1() -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    assert exits.run(interrupted) == Exit.FAILURE


def test_a_reader_that_leaves_early_ends_the_command_without_a_word() -> None:
    code = (
        "import sys\n"
        "from atoll_link import exits\n"
        "def command():\n"
        "    while True: print('x' * 1000)\n"
        "sys.exit(exits.run(command))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(10) == Exit.FAILURE


# The broker's options


def broker_of(*words: str) -> Broker:
    parser = argparse.ArgumentParser()
    add_broker_arguments(parser)
    return broker_from(parser.parse_args(words), "me")


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        (None, Broker("localhost", 1883)),
        ("broker", Broker("broker", 1883)),
        ("broker:1884", Broker("broker", 1884)),
        ("mqtt://broker/", Broker("broker", 1883)),
        ("mqtts://broker", Broker("broker", 8883, tls=True)),
        ("mqtt://you@broker", Broker("broker", 1883, username="you")),
        ("mqtt://a%40b@broker", Broker("broker", 1883, username="a@b")),
        ("mqtt://[::1]:1884", Broker("::1", 1884)),
        ("ws://broker:9001/mqtt", Broker("broker", 9001, websocket_path="/mqtt")),
        ("ws://broker", Broker("broker", 80, websocket_path="/")),
        ("wss://you@broker/a/b", Broker("broker", 443, username="you", tls=True, websocket_path="/a/b")),
    ],
)
def test_a_url_names_the_broker(url: str | None, expected: Broker) -> None:
    assert broker_of(*([] if url is None else ["--broker", url])) == expected


@pytest.mark.parametrize("url", ["mqtt://b:1", "mqtts://b:1", "ws://b:1/mqtt", "wss://[::1]:1/"])
def test_a_broker_is_shown_as_its_url(url: str) -> None:
    assert str(broker_of("--broker", url)) == url


def test_files_go_with_the_url(tmp_path: Path) -> None:
    password = tmp_path / "p"
    password.write_text("s3cret")
    broker = broker_of(
        "--broker=mqtts://b", f"--password-file={password}", "--ca-file=ca", "--cert-file=c", "--key-file=k"
    )

    assert broker == Broker(
        "b",
        8883,
        username="me",
        password_file=password,
        tls=True,
        ca_file=Path("ca"),
        cert_file=Path("c"),
        key_file=Path("k"),
    )


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--broker=http://broker"], "must be mqtt"),
        (["--broker=mqtt://"], "must be mqtt"),
        (["--broker=mqtt://broker:x"], "must be mqtt"),
        (["--broker=mqtt://broker:70000"], "must be mqtt"),
        (["--broker=mqtt://broker/path"], "must be mqtt"),
        (["--broker=mqtt://[::1"], "must be mqtt"),
        (["--broker=ws://broker/mqtt?key=value"], "must be mqtt"),
        (["--broker=ws://broker/m q"], "pattern"),
        (["--broker=mqtt://broker:0"], "greater than or equal to 1"),
        (["--ca-file=ca"], "need tls = true"),
        (["--broker=mqtts://b", "--cert-file=c"], "go together"),
    ],
)
def test_a_broker_that_makes_no_sense_is_a_fault_of_the_settings(words: list[str], told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        broker_of(*words)

    assert all(fault.startswith("--broker: ") and "\n" not in fault for fault in caught.value.faults)


@pytest.mark.parametrize("kind", ["missing", "folder", "no text"])
def test_a_password_file_that_cannot_be_read_is_a_fault_of_the_settings(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "password"
    if kind == "folder":
        path.mkdir()
    elif kind == "no text":
        path.write_bytes(b"\xff")

    with pytest.raises(ConfigError, match=re.escape(str(path))):
        broker_of("--password-file", str(path))


@pytest.mark.parametrize(
    "url",
    ["mqtt://me:s3cret@broker", "me:s3cret@broker", "mqtt://:s3cret@broker", "mqtt://me:s3cret@broker:x"],
)
def test_a_password_in_the_url_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(ConfigError, match="--password-file") as caught:
        broker_of("--broker", url)

    assert "s3cret" not in str(caught.value)
    assert caught.value.__cause__ is None
