"""``atoll-sim run``: simulated devices that publish readings and labels."""

from __future__ import annotations

import argparse
import secrets
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final, TypedDict

import structlog

from atoll_link.command_line import broker_from
from atoll_link.exits import Exit
from atoll_link.session import Session
from atoll_link.settings import load
from atoll_link.stop import Stop, stop_on_signals
from atoll_sim import options, summary
from atoll_sim.live import CommandDesk, Counts, Live
from atoll_sim.schedule import Schedule
from atoll_sim.swarm import Swarm
from atoll_sim.uplink import Uplink
from atoll_sim.world import WorldFile

_WRITER: Final = "atoll-sim"
"""User name where a password is given without one, and start of the client id."""


class _Limits(TypedDict):
    window: int
    give_up_after_s: float


_log: structlog.stdlib.BoundLogger = structlog.get_logger()


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("world", type=Path, metavar="WORLD.toml", help="the devices; see config/world.toml")
    parser.add_argument("--check", action="store_true", help="only check the world file")
    parser.add_argument(
        "--for", type=options.positive, dest="for_s", metavar="SECONDS", help="end after so long"
    )
    parser.add_argument(
        "--readings",
        type=options.positive_int,
        metavar="N",
        help="end after N readings in all, sent or not, and the labels",
    )
    parser.add_argument(
        "--seed", type=options.seed, metavar="N", help="in place of the seed in the world file"
    )
    parser.add_argument(
        "--speed",
        type=options.positive,
        default=1.0,
        metavar="X",
        help="seconds of the world per second; event times run on with the world (default: %(default)s)",
    )
    parser.add_argument(
        "--connections",
        choices=("shared", "own"),
        default="shared",
        help="whether all devices share one MQTT connection or each has its own (default: %(default)s)",
    )
    options.add_link_arguments(parser)
    parser.epilog = (
        f"{parser.epilog}\n\n"
        "Where devices share one connection its user must be allowed to write below every device:\n"
        "'topic write atoll/v1/SITE/+/reading/#' and '.../label/#', and to read '.../+/command/#'.\n"
        "With connections of their own each logs in with its id, and all with the one password.\n"
        "SIGTERM and Ctrl-C end it cleanly: acknowledgements are waited for, labels whose delay has\n"
        "not passed are dropped and counted."
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the devices and print what they did."""
    world = load(WorldFile, arguments.world)
    devices = world.build(arguments.seed)
    if arguments.check:
        rate_hz = sum(device.plan.rate_hz for device in devices)
        _print({"devices": len(devices), "readings_per_s": round(rate_hz, 3)}, arguments)
        return Exit.SUCCESS
    writers = world.writers()
    stop, counts = Stop(), Counts()
    desk = CommandDesk(world.world.site, devices, world.world.trusted_writers, counts)
    boot = secrets.token_hex(4)
    start = time.monotonic()
    uplink, wake, close = _uplink(arguments, desk, stop)
    try:
        with stop_on_signals(stop, wake):
            if uplink.connect():
                start = time.monotonic()
                _log.info("world.started", site=world.world.site, devices=len(devices), boot=boot)
                live = Live(world.world.site, boot, uplink, arguments.speed, counts, writers=writers)
                desk.keep_time(live.now_s)
                live.play(Schedule(devices, arguments.readings), arguments.for_s)
    finally:
        seconds = time.monotonic() - start
        close()
        for device in devices:
            device.firmware.end()
        firmware = sum((device.firmware.counts for device in devices), Counter[str]())
        _print({**_summary(counts, uplink, seconds), "firmware": dict(firmware)}, arguments)
    return Exit.SUCCESS


def _uplink(
    arguments: argparse.Namespace, desk: CommandDesk, stop: Stop
) -> tuple[Uplink | Swarm, Callable[[], None], Callable[[], None]]:
    """Return the way to the broker, and what wakes and what ends it."""
    limits: _Limits = {"window": arguments.window, "give_up_after_s": arguments.give_up_after_s}
    if arguments.connections == "own":
        broker = broker_from(arguments, _WRITER)
        swarm = Swarm(broker, desk.topic_filters, stop, on_delivery=desk.take, **limits)
        return swarm, lambda: None, swarm.close
    client_id = f"{_WRITER}-run-{secrets.token_hex(8)}"
    session = Session(broker_from(arguments, _WRITER), client_id, max_inflight=arguments.window)
    for topic_filter in desk.topic_filters.values():
        session.subscribe(topic_filter)
    return Uplink(session, stop, on_delivery=desk.take, **limits), session.wake, session.close


def _print(numbers: summary.Summary, arguments: argparse.Namespace) -> None:
    if arguments.json:
        summary.print_json(numbers)
    else:
        summary.print_text(numbers)


def _summary(counts: Counts, uplink: Uplink | Swarm, seconds: float) -> summary.Summary:
    return {
        "readings": counts.readings,
        "labels": counts.labels,
        "acknowledged": uplink.acknowledged,
        "unacknowledged": uplink.in_flight,
        "lost": uplink.lost,
        "readings_silent": counts.readings_silent,
        "readings_disturbed": counts.readings_disturbed,
        "faults": counts.faults,
        "hellos": counts.hellos,
        "labels_dropped": counts.labels_dropped,
        "commands_obeyed": counts.commands_obeyed,
        "commands_refused": dict(counts.commands_refused),
        "seconds": round(seconds, 3),
    }
