"""The frame of every atoll command: help with examples, one module per command, exit codes.

A command is a module with ``configure(parser)`` and ``run(arguments) -> int``. Only the module of
the command that was asked for is imported, so that ``--help`` stays quick and a missing extra hurts
only the commands that need it.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from pydantic import ValidationError

from atoll_contract.errors import ConfigError
from atoll_link import exits, logs
from atoll_link.broker import Broker
from atoll_link.settings import BrokerTable

_SCHEMES: Final = {"mqtt", "mqtts", "ws", "wss"}
_URL_FAULT: Final = (
    "--broker: must be mqtt[s]://[user@]host[:port] or ws[s]://[user@]host[:port]/path and no more; "
    "the password stands in --password-file"
)


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a program.

    Attributes:
        module: Where ``configure`` and ``run`` are.
        summary: One line for the program's help.
        example: A command line, without the program's name.
        extra: The extra that the module's imports need, if any.
    """

    module: str
    summary: str
    example: str
    extra: str | None = None


def main(
    program: str, description: str, commands: Mapping[str, Command], arguments: Sequence[str] | None = None
) -> int:
    """Run ``program`` with ``arguments`` (by default the process's) and return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    chosen = words[0] if words and words[0] in commands else None
    try:
        parser, modules = build_parser(program, description, commands, [] if chosen is None else [chosen])
    except ModuleNotFoundError as error:
        extra = None if chosen is None else commands[chosen].extra
        if extra is None or (error.name or "").startswith("atoll"):
            raise
        print(  # noqa: T201
            f"{program} {chosen} needs more than the agent's packages: "
            f"pip install 'atoll[{extra}]' ({error.name} is missing)",
            file=sys.stderr,
        )
        return exits.Exit.USAGE
    parsed = parser.parse_args(words)
    if not modules:
        parser.error("the command comes first, its options after it")
    [module] = modules
    logs.configure(parsed.log_level)
    return exits.run(lambda: module.run(parsed))


def build_parser(
    program: str, description: str, commands: Mapping[str, Command], names: Collection[str]
) -> tuple[argparse.ArgumentParser, list[Any]]:
    """Return the parser of ``program``, and the modules of the commands ``names``, whose options it knows.

    Raises:
        ModuleNotFoundError: One of these needs more than is installed.
    """
    parser = argparse.ArgumentParser(
        prog=program,
        description=description.replace("``", ""),
        epilog="examples:\n" + "\n".join(f"  {program} {command.example}" for command in commands.values()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"atoll {version('atoll')}")
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    modules = []
    for name, command in commands.items():
        subparser = subparsers.add_parser(
            name,
            help=command.summary.replace("%", "%%"),
            description=command.summary,
            epilog=f"example:\n  {program} {command.example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        if name in names:
            module = importlib.import_module(command.module)
            add_log_level(subparser, default="info")
            module.configure(subparser)
            modules.append(module)
    return parser, modules


def add_log_level(parser: argparse.ArgumentParser, default: str = argparse.SUPPRESS) -> None:
    """Add ``--log-level``; a command with actions of its own adds it to them too."""
    parser.add_argument(
        "--log-level",
        default=default,
        choices=("debug", "info", "warning", "error"),
        help="least level of the log lines on stderr (default: info)",
    )


def add_broker_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that :func:`broker_from` reads."""
    group = parser.add_argument_group("broker")
    group.add_argument(
        "--broker",
        default="mqtt://localhost",
        metavar="URL",
        help="mqtt[s]://[user@]host[:port], or ws[s]://[user@]host[:port]/path (default: %(default)s)",
    )
    group.add_argument("--password-file", type=Path, metavar="FILE", help="file that holds the password")
    group.add_argument(
        "--ca-file", type=Path, metavar="FILE", help="certificates to trust, with mqtts and wss"
    )
    group.add_argument("--cert-file", type=Path, metavar="FILE", help="own certificate, for mutual TLS")
    group.add_argument("--key-file", type=Path, metavar="FILE", help="key of the own certificate")


def broker_from(arguments: argparse.Namespace, writer: str) -> Broker:
    """Return the broker that the options of :func:`add_broker_arguments` name.

    Raises:
        ConfigError: The URL or the files do not make sense, or the password cannot be read.
    """
    broker = broker_table_from(arguments).build(writer)
    broker.require_password()
    return broker


def broker_table_from(arguments: argparse.Namespace) -> BrokerTable:
    """Return the same as a table of settings.

    Raises:
        ConfigError: The URL or the files do not make sense.
    """
    text = arguments.broker if "://" in arguments.broker else f"mqtt://{arguments.broker}"
    try:
        url = urlsplit(text)
        port = url.port
    except ValueError:
        raise ConfigError(_URL_FAULT) from None
    is_websocket = url.scheme in {"ws", "wss"}
    rest = url.query or url.fragment or ("" if is_websocket else url.path.rstrip("/"))
    # None of these faults shows what was given: it may hold a password.
    if url.scheme not in _SCHEMES or not url.hostname or url.password is not None or rest:
        raise ConfigError(_URL_FAULT)
    try:
        return BrokerTable(
            host=url.hostname,
            port=port,
            username=unquote(url.username) if url.username else None,
            tls=url.scheme in {"mqtts", "wss"},
            websocket_path=(url.path or "/") if is_websocket else None,
            password_file=arguments.password_file,
            ca_file=arguments.ca_file,
            cert_file=arguments.cert_file,
            key_file=arguments.key_file,
        )
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
        raise ConfigError(
            [f"--broker: {fault['msg'].removeprefix('Value error, ')}" for fault in faults]
        ) from None
