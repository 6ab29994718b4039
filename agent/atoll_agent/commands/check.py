"""``atoll-agent check``."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

from atoll_agent.adapters.clock import SystemClock
from atoll_agent.adapters.store import StateStore
from atoll_agent.commands import add_settings_argument
from atoll_agent.rollout.fit import require_fit
from atoll_agent.settings import AgentSettings, ModelTable
from atoll_contract.bundle import Bundle
from atoll_contract.errors import BundleRejectedError, ConfigError
from atoll_infer.runtime import choose_runtime
from atoll_ingest.stream import Stream


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add_settings_argument(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Read the settings and print what they mean; faults end it with exit code 78."""
    settings = AgentSettings.read(arguments.settings)
    agent = settings.agent
    streams = [stream.build(agent.site) for stream in settings.stream]
    broker = settings.broker.build(agent.id)
    broker.require_password()
    if broker.tls:
        broker.tls_context()
    chosen = choose_runtime()
    store = StateStore(agent.state_dir)
    _require_champions_fit(arguments.settings, settings.model, streams, store)
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
    }
    if arguments.json:
        print(json.dumps(facts))  # noqa: T201
        return 0
    for key in ("settings", "agent", "site", "broker", "state", "clock", "runtime"):
        print(f"{key:9} {facts[key]}")  # noqa: T201
    for stream in streams:
        topics = ", ".join(stream.subscriptions)
        values = ", ".join(f"{name} [{unit}]" if unit else name for name, unit in stream.units.items())
        print(f"stream    {stream.name}: {values} from {topics}")  # noqa: T201
    for model in settings.model:
        print(f"model     {model.name}: answers {model.stream}")  # noqa: T201
    if not settings.model:
        print("model     none: the agent would answer nothing")  # noqa: T201
    return 0


def _require_champions_fit(
    path: Path, models: Iterable[ModelTable], streams: Iterable[Stream], store: StateStore
) -> None:
    """Refuse settings with which the agent would lose a champion that it has stored.

    Raises:
        ConfigError: With one line per champion that does not fit.
    """
    by_name = {stream.name: stream for stream in streams}
    faults = []
    for model in models:
        stored = store.peek_champion(model.name)
        if stored is None:
            continue
        champion, bundle = stored
        stream = by_name[model.stream]
        try:
            require_fit(
                Bundle.unpack(bundle).manifest,
                model=model.name,
                release=champion.release,
                units=stream.units,
                is_shared=stream.is_shared,
            )
        except BundleRejectedError as error:
            faults.append(
                f"{path}: model {model.name!r}: its champion, release {champion.release}, "
                f"does not fit stream {stream.name!r}: {error.detail} [{error.reason}]"
            )
    if faults:
        raise ConfigError(faults)
