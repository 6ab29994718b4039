"""``atoll-sim run``: simulated devices that publish readings and labels."""

from __future__ import annotations

import argparse
import secrets
import time
from pathlib import Path
from typing import Final

import structlog

from atoll_link.command_line import broker_from
from atoll_link.exits import Exit
from atoll_link.session import Session
from atoll_link.settings import load
from atoll_link.stop import Stop, stop_on_signals
from atoll_sim import options, summary
from atoll_sim.live import CommandDesk, Counts, Live
from atoll_sim.schedule import Schedule
from atoll_sim.uplink import Uplink
from atoll_sim.world import WorldFile

_WRITER: Final = "atoll-sim"
"""User name where a password is given without one, and start of the client id."""

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
        help="end after N readings in all and their labels",
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
    options.add_link_arguments(parser)
    parser.epilog = (
        f"{parser.epilog}\n\n"
        "All devices share one connection, so its user must be allowed to write below every device:\n"
        "'topic write atoll/v1/SITE/+/reading/#' and '.../label/#', and to read '.../+/command/#'.\n"
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
    stop, counts = Stop(), Counts()
    desk = CommandDesk(world.world.site, devices, world.world.trusted_writers, counts)
    client_id = f"{_WRITER}-run-{secrets.token_hex(8)}"
    session = Session(broker_from(arguments, _WRITER), client_id, max_inflight=arguments.window)
    for topic_filter in desk.topic_filters:
        session.subscribe(topic_filter)
    uplink = Uplink(
        session,
        stop,
        window=arguments.window,
        give_up_after_s=arguments.give_up_after_s,
        on_delivery=desk.take,
    )
    boot = secrets.token_hex(4)
    start = time.monotonic()
    try:
        with stop_on_signals(stop, session.wake):
            if uplink.connect():
                start = time.monotonic()
                _log.info("world.started", site=world.world.site, devices=len(devices), boot=boot)
                live = Live(world.world.site, boot, uplink, arguments.speed, counts)
                live.play(Schedule(devices, arguments.readings), arguments.for_s)
    finally:
        seconds = time.monotonic() - start
        session.close()
        _print(_summary(counts, uplink, seconds), arguments)
    return Exit.SUCCESS


def _print(numbers: summary.Summary, arguments: argparse.Namespace) -> None:
    if arguments.json:
        summary.print_json(numbers)
    else:
        summary.print_text(numbers)


def _summary(counts: Counts, uplink: Uplink, seconds: float) -> summary.Summary:
    return {
        "readings": counts.readings,
        "labels": counts.labels,
        "acknowledged": uplink.acknowledged,
        "unacknowledged": uplink.in_flight,
        "lost": uplink.lost,
        "readings_silent": counts.readings_silent,
        "readings_disturbed": counts.readings_disturbed,
        "faults": counts.faults,
        "labels_dropped": counts.labels_dropped,
        "commands_obeyed": counts.commands_obeyed,
        "commands_refused": dict(counts.commands_refused),
        "seconds": round(seconds, 3),
    }
