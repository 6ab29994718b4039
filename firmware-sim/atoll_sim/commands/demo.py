"""``atoll-sim demo``."""

from __future__ import annotations

import argparse
import contextlib
import json
import shutil
import signal
import tempfile
import threading
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from rich.console import Console

from atoll_contract.errors import ConfigError
from atoll_link.exits import Exit
from atoll_sim import options
from atoll_sim.demo.programs import ProgramFailedError, Programs
from atoll_sim.demo.story import Outcome, Story
from atoll_sim.demo.watch import SITE, NotInTimeError
from atoll_sim.demo.world_story import WorldStory
from atoll_sim.worlds import SCENARIOS
from atoll_sim.worlds.scenario import SITE as WORLD_SITE

_MEANINGS: Final = {
    "readings": "published since the first prediction",
    "predictions": "",
    "lost": "readings without a prediction",
    "duplicated": "predictions published twice",
    "w_release_1": "truth 2",
    "b_release_1": "truth 1",
    "w_release_2": "truth 3",
    "b_release_2": "truth -1",
    "error_release_1": "mean absolute error before the change",
    "error_after_change": "of release 1, after the change",
    "error_release_2": "of release 2",
    "release_3": "why the bad release was stopped, before anybody heard it",
    "swap_s_release_1": "seconds from the announcement to the first answer",
    "swap_s_release_2": "the same, while release 1 answered",
    "latency_p50_ms": "from the device's clock to the subscriber",
    "latency_p99_ms": "",
    "bytes_in": "payloads of readings",
    "bytes_out": "payloads of predictions",
    "bytes_releases": "payloads of chunks and metadata",
    "seconds": "the whole demo",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--scenario", choices=list(SCENARIOS), help="play this world instead: with atoll and without it"
    )
    parser.add_argument("--seed", type=options.seed, default=1, metavar="N", help="of the world (default: 1)")
    parser.add_argument(
        "--replay",
        type=Path,
        metavar="DIR",
        help="a folder of real recordings that the world takes demand, presence or vibration from",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object, no story")
    parser.add_argument("--keep", action="store_true", help="leave everything running until Ctrl-C")
    parser.add_argument(
        "--no-dashboard", action="store_true", help="without the web page that shows what goes on"
    )
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="keep settings, logs and runs here (default: a temporary one)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Play the demo and print its figures."""
    console = Console(quiet=arguments.json, highlight=False, soft_wrap=True)
    # The end of the terminal and SIGTERM end the demo as Ctrl-C does, so that its processes are ended too.
    # SIGINT too: a shell script that starts it in the background has it ignored.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    folder = _folder(arguments.folder)
    status = Exit.FAILURE
    try:
        status = _play(folder, console, arguments)
    except (ProgramFailedError, NotInTimeError) as error:
        if arguments.json:
            print(json.dumps({"failures": [error.detail], "folder": str(folder)}))  # noqa: T201
        else:
            console.print(f"\nThe demo cannot go on: {error.detail}", markup=False)
    finally:
        if status is Exit.SUCCESS and arguments.folder is None:
            shutil.rmtree(folder)
        else:
            console.print(f"\nSettings, logs and runs are in {folder}", markup=False)
    return status


def _folder(given: Path | None) -> Path:
    if given is None:
        return Path(tempfile.mkdtemp(prefix="atoll-demo-"))
    try:
        given.mkdir(parents=True, exist_ok=True)
        if any(given.iterdir()):
            raise ConfigError(f"--folder {given}: is not empty; name a new folder")
    except OSError as error:
        raise ConfigError(f"--folder {given}: {error.strerror}") from error
    return given.absolute()


def _play(folder: Path, console: Console, arguments: argparse.Namespace) -> Exit:
    started = time.monotonic()
    # A figure should not hang on who watches; and the page is an extra of its own.
    has_dashboard = not (arguments.json or arguments.no_dashboard) and find_spec("nicegui") is not None
    if arguments.scenario is not None:
        return _play_world(folder, console, arguments, has_dashboard=has_dashboard)
    with Programs(folder) as programs:
        story = Story(folder, console, programs, has_dashboard=has_dashboard)
        story.play()
        story.outcome.figures["seconds"] = round(time.monotonic() - started, 1)
        _report(story.outcome, console, as_json=arguments.json)
        if arguments.keep:
            _keep(SITE, story, console)
    return Exit.FAILURE if story.outcome.failures else Exit.SUCCESS


def _play_world(
    folder: Path, console: Console, arguments: argparse.Namespace, *, has_dashboard: bool
) -> Exit:
    scenario = SCENARIOS[arguments.scenario]
    with Programs(folder) as programs:
        story = WorldStory(
            scenario,
            folder,
            console,
            programs,
            seed=arguments.seed,
            replay=arguments.replay,
            has_dashboard=has_dashboard,
        )
        story.play()
        if arguments.json:
            print(json.dumps({**story.figures, "failures": story.failures}))  # noqa: T201
        for failure in story.failures:
            console.print(f"[red]not as it should be:[/red] {failure}")
        if not story.failures:
            console.print(
                "\n[green]Every reading was answered, nothing was lost, no command was refused.[/green]\n"
                "This was one day; make bench-worlds plays several."
            )
        if arguments.keep:
            _keep(WORLD_SITE, story, console)
    return Exit.FAILURE if story.failures else Exit.SUCCESS


def _report(outcome: Outcome, console: Console, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({**outcome.figures, "failures": outcome.failures}))  # noqa: T201
        return
    console.print()
    for name, meaning in _MEANINGS.items():
        line = f"{name:<20} {outcome.figures[name]!s:>15}   {meaning}".rstrip()
        console.print(line, markup=False)
    console.print()
    for failure in outcome.failures:
        console.print(f"[red]not as it should be:[/red] {failure}")
    if not outcome.failures:
        console.print("[green]Every claim of this demo held.[/green]")


def _keep(site: str, story: Story | WorldStory, console: Console) -> None:
    console.print("\nAll of it goes on running. In another terminal (mosquitto-clients):\n")
    for topic in (
        f"atoll/v1/{site}/+/prediction/#",
        f"atoll/v1/{site}/+/slot/#",
        f"atoll/v1/{site}/+/status",
    ):
        console.print(f"  mosquitto_sub -h 127.0.0.1 -p {story.port} -v -t '{topic}'", markup=False)
    if story.dashboard is not None:
        console.print(f"\nOr in a browser: {story.dashboard}", markup=False)
    console.print("\nCtrl-C ends it.")
    with contextlib.suppress(KeyboardInterrupt):
        threading.Event().wait()
