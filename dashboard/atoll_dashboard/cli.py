"""``atoll-dashboard``: the command line."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path

from pydantic import ValidationError

from atoll_contract.errors import ConfigError
from atoll_dashboard.settings import DashboardSettings
from atoll_link import exits, logs
from atoll_link.command_line import add_broker_arguments, add_log_level, broker_table_from

_PROGRAM = "atoll-dashboard"
_EPILOG = f"""\
It keeps nothing on disk: what it shows is what the broker told since it was started. Browsers see no more
than this user may read at the broker; nothing is published but requests to the trainer, where [operate]
allows them.

examples:
  {_PROGRAM} --settings /etc/atoll/dashboard.toml
  {_PROGRAM} --settings config/dashboard.toml --check
  {_PROGRAM} --site plant-a --broker mqtt://broker.lan --port 8081
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program with ``arguments`` (by default the process's) and return its exit code."""
    parser = argparse.ArgumentParser(
        prog=_PROGRAM,
        description="A web page that shows agents, devices, releases and alarms as their MQTT topics tell.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"atoll {version('atoll')}")
    parser.add_argument("--settings", type=Path, metavar="FILE", help="settings file, dashboard.toml")
    parser.add_argument("--site", metavar="SITE", help="without a settings file: the site to show")
    parser.add_argument("--port", type=int, metavar="PORT", help="port of the web page (default: 8080)")
    parser.add_argument("--check", action="store_true", help="say whether the settings make sense, and end")
    add_log_level(parser, default="info")
    add_broker_arguments(parser)
    parsed = parser.parse_args(arguments)
    if (parsed.settings is None) == (parsed.site is None):
        parser.error("give either --settings FILE, or --site SITE with --broker URL")
    logs.configure(parsed.log_level)
    return exits.run(lambda: _run(parsed))


def _run(arguments: argparse.Namespace) -> int:
    settings = _settings(arguments)
    if arguments.check:
        broker, url = settings.build_broker(), settings.web.url
        print(f"{_PROGRAM} would show {settings.dashboard.site} of {broker} on {url}")  # noqa: T201 - the result
        return exits.Exit.SUCCESS
    if find_spec("nicegui") is None:
        print(  # noqa: T201
            f"{_PROGRAM} needs more than the agent's packages: pip install 'atoll[dashboard]'",
            file=sys.stderr,
        )
        return exits.Exit.USAGE
    from atoll_dashboard.web import serve  # noqa: PLC0415 - needs the extra, and a second

    serve(settings)
    return exits.Exit.SUCCESS


def _settings(arguments: argparse.Namespace) -> DashboardSettings:
    if arguments.settings is not None:
        settings = DashboardSettings.read(arguments.settings)
    else:
        try:
            settings = DashboardSettings.model_validate({"dashboard": {"site": arguments.site}})
        except ValidationError as error:
            raise ConfigError(f"--site: {error.errors()[0]['msg']}") from None
        settings = settings.model_copy(update={"broker": broker_table_from(arguments)})
    if arguments.port is not None:
        if not 1 <= arguments.port <= 65535:  # noqa: PLR2004 - TCP
            raise ConfigError("--port: must be 1 to 65535")
        settings = settings.model_copy(
            update={"web": settings.web.model_copy(update={"port": arguments.port})}
        )
    return settings


if __name__ == "__main__":
    sys.exit(main())
