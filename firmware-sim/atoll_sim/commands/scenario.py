"""``atoll-sim scenario``: a world whose devices measure, and obey what agents make of it."""

from __future__ import annotations

import argparse
import json
import secrets
import time
from dataclasses import fields
from pathlib import Path

from atoll_contract.errors import ConfigError
from atoll_link.command_line import broker_from
from atoll_link.exits import Exit
from atoll_link.files import make_folder, write_whole
from atoll_link.session import Session
from atoll_link.stop import Stop, stop_on_signals
from atoll_sim import options
from atoll_sim.uplink import Uplink
from atoll_sim.worlds import SCENARIOS, settings
from atoll_sim.worlds.scenario import play_alone
from atoll_sim.worlds.stage import TOPIC_FILTERS, Stage

_WRITER = "atoll-sim"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_scenario_arguments(parser)
    parser.add_argument("--steps", type=options.positive_int, metavar="N", help="(default: a whole run)")
    parser.add_argument(
        "--pace",
        type=options.positive,
        default=0.02,
        metavar="SECONDS",
        help="shortest time of a step, which is a minute of the world (default: %(default)s)",
    )
    parser.add_argument(
        "--meddle",
        action="store_true",
        help="act at random, so that a recording shows what actions do; --replay: days to learn from",
    )
    parser.add_argument(
        "--wait", action="store_true", help="let each step wait for the agent's answers to the one before"
    )
    parser.add_argument(
        "--alone", action="store_true", help="only count what happens if nobody acts; no broker"
    )
    parser.add_argument(
        "--write",
        type=Path,
        metavar="DIR",
        help="only write streams.toml, agent.toml, trainer.toml and the task files of this world",
    )
    options.add_link_arguments(parser)
    told = "\n".join(f"  {one.name:<8} {one.title}" for one in SCENARIOS.values())
    parser.epilog = (
        f"{parser.epilog}\n\nworlds:\n{told}\n\nmake demo SCENARIO=traffic plays all of it at once."
    )


def add_scenario_arguments(parser: argparse.ArgumentParser) -> None:
    """Add what chooses a world."""
    parser.add_argument("scenario", choices=list(SCENARIOS), metavar="WORLD", help=" or ".join(SCENARIOS))
    parser.add_argument(
        "--seed", type=options.seed, default=1, metavar="N", help="same seed, same world (default: 1)"
    )
    parser.add_argument(
        "--replay",
        type=Path,
        metavar="DIR",
        help="a folder of real recordings to take demand, presence or vibration from",
    )


def run(arguments: argparse.Namespace) -> int:
    """Play the world and print its figures."""
    scenario = SCENARIOS[arguments.scenario]
    steps = arguments.steps or scenario.steps
    if arguments.write is not None:
        make_folder(arguments.write)
        for name, text in settings.texts(scenario, broker_from(arguments, _WRITER)).items():
            write_whole(arguments.write / name, text.encode())
        return Exit.SUCCESS
    if arguments.alone:
        if arguments.wait or arguments.meddle:
            raise ConfigError("--alone: nobody answers, and nothing is done at random")
        _print(play_alone(scenario, arguments.seed, arguments.replay, steps).figures(), {}, arguments)
        return Exit.SUCCESS
    world = scenario.build(arguments.seed, arguments.replay, is_lesson=arguments.meddle)
    meddles = arguments.seed if arguments.meddle else None
    stage = Stage(world, pace_s=arguments.pace, waits=arguments.wait, meddles=meddles)
    stop = Stop()
    client_id = f"{_WRITER}-{scenario.name}-{secrets.token_hex(8)}"
    session = Session(broker_from(arguments, _WRITER), client_id, max_inflight=arguments.window)
    for topic_filter in TOPIC_FILTERS:
        session.subscribe(topic_filter)
    uplink = Uplink(
        session,
        stop,
        window=arguments.window,
        give_up_after_s=arguments.give_up_after_s,
        on_delivery=stage.take,
    )
    start = time.monotonic()
    try:
        with stop_on_signals(stop, session.wake):
            if uplink.connect():
                start = time.monotonic()
                stage.play(uplink, steps)
    finally:
        seconds = round(time.monotonic() - start, 3)
        session.close()
    counts = {field.name: getattr(stage.counts, field.name) for field in fields(stage.counts)}
    counts |= {"refused": dict(stage.counts.refused), "lost": uplink.lost, "seconds": seconds}
    _print(world.figures(), counts, arguments)
    return Exit.SUCCESS


def _print(figures: dict[str, float], counts: dict[str, object], arguments: argparse.Namespace) -> None:
    if arguments.json:
        print(json.dumps({"figures": figures, **counts}))  # noqa: T201 - the result
        return
    for figure in SCENARIOS[arguments.scenario].meanings:
        line = f"{figure.name:<18} {figures[figure.name]:>10.1f} {figure.unit:<5} {figure.meaning}"
        print(line.rstrip())  # noqa: T201
    for name, number in counts.items():
        print(f"{name:<18} {number}")  # noqa: T201
