"""``atoll-agent check``."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Final

from atoll_agent.adapters.clock import SystemClock
from atoll_agent.adapters.store import StateStore
from atoll_agent.commands import add_settings_argument, check_capture, check_sample
from atoll_agent.compose import require_champions_fit
from atoll_agent.settings import AgentSettings
from atoll_contract.errors import ConfigError
from atoll_infer.runtime import choose_runtime
from atoll_link.session import Broker

_CREDENTIALS: Final = Path("/run/credentials")
"""Where systemd puts what ``LoadCredential=`` names, in a folder of each unit that runs."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_settings_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    check_capture.configure(parser)
    check_sample.configure(parser)
    parser.add_argument(
        "--bundle",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="with --capture or --sample: a release to answer with, in place of the stored champion",
    )


def run(arguments: argparse.Namespace) -> int:
    """Read the settings and print what they mean; faults end it with exit code 78."""
    if arguments.sample is not None and arguments.capture is not None:
        raise ConfigError("--sample and --capture do not go together")
    if arguments.bundle and arguments.sample is None and arguments.capture is None:
        raise ConfigError("--bundle belongs to --sample or --capture")
    if check_sample.is_wanted(arguments):
        return check_sample.run(arguments)
    return _summarise(arguments)


def _summarise(arguments: argparse.Namespace) -> int:
    settings = AgentSettings.read(arguments.settings)
    if arguments.capture is not None:
        return check_capture.run(arguments, settings)
    agent = settings.agent
    streams = [stream.build(agent.site) for stream in settings.stream]
    broker = settings.broker.build(agent.id)
    password = _password(broker)
    if broker.tls:
        broker.tls_context()
    chosen = choose_runtime()
    store = StateStore(agent.state_dir)
    require_champions_fit(arguments.settings, settings, store)
    try:
        store.identity()
        enrolment = "enrolled"
    except ConfigError as error:
        enrolment = error.detail
    facts = {
        "settings": str(arguments.settings),
        "agent": agent.id,
        "site": agent.site,
        "broker": str(broker),
        "password": password,
        "state": f"{agent.state_dir} ({enrolment})",
        "clock": "not set" if SystemClock(agent.clock).is_time_unsynced else "set",
        "runtime": chosen.why,
        "streams": {
            stream.name: {
                "topics": stream.subscriptions,
                "values": dict(stream.units),
            }
            for stream in streams
        },
        "models": {
            model.name: {"stream": model.stream, "channel": model.channel or agent.channel}
            for model in settings.model
        },
        "rules": {rule.name: rule.model for rule in settings.rule},
    }
    if arguments.json:
        print(json.dumps(facts))  # noqa: T201
        return 0
    for key in ("settings", "agent", "site", "broker", "password", "state", "clock", "runtime"):
        print(f"{key:9} {facts[key]}")  # noqa: T201
    for stream in streams:
        topics = ", ".join(stream.subscriptions)
        values = ", ".join(f"{name} [{unit}]" if unit else name for name, unit in stream.units.items())
        print(f"stream    {stream.name}: {values} from {topics}")  # noqa: T201
    for model in settings.model:
        print(f"model     {model.name}: answers {model.stream}")  # noqa: T201
    for rule in settings.rule:
        print(f"rule      {rule.name}: {len(rule.command)} commands, on {rule.model}")  # noqa: T201
    if not settings.model:
        print("model     none: the agent would answer nothing")  # noqa: T201
    return 0


def _password(broker: Broker) -> str:
    """Return where the password comes from, for people.

    Raises:
        ConfigError: It cannot be read.
    """
    path = broker.password_file
    if path is None:
        return "none"
    if path.is_relative_to(_CREDENTIALS) and not path.parent.exists():
        return f"{path} (there while the service runs, if its unit has a LoadCredential for it)"
    broker.require_password()
    return str(path)
