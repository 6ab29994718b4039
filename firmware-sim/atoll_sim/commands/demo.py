"""``atoll-sim demo``."""

from __future__ import annotations

import argparse
import json
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Final

from rich.console import Console

from atoll_link.exits import Exit
from atoll_sim.demo.programs import Programs
from atoll_sim.demo.story import Outcome, Story
from atoll_sim.demo.watch import SITE

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
    parser.add_argument("--json", action="store_true", help="print the figures as one JSON object, no story")
    parser.add_argument("--keep", action="store_true", help="leave everything running until Ctrl-C")
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="DIR",
        help="keep settings, logs and runs here (default: a temporary one)",
    )


def run(arguments: argparse.Namespace) -> int:
    """Play the demo and print its figures."""
    console = Console(quiet=arguments.json, highlight=False, soft_wrap=True)
    # SIGTERM ends the demo as Ctrl-C does, so that its processes are ended too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if arguments.folder is not None:
        arguments.folder.mkdir(parents=True, exist_ok=True)
        return _play(arguments.folder.absolute(), console, arguments)
    with tempfile.TemporaryDirectory(prefix="atoll-demo-") as folder:
        return _play(Path(folder), console, arguments)


def _play(folder: Path, console: Console, arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    with Programs(folder) as programs:
        story = Story(folder, console, programs)
        story.play()
        story.outcome.figures["seconds"] = round(time.monotonic() - started, 1)
        _report(story.outcome, console, as_json=arguments.json)
        if arguments.keep:
            _keep(story, console)
    return Exit.FAILURE if story.outcome.failures else Exit.SUCCESS


def _report(outcome: Outcome, console: Console, *, as_json: bool) -> None:
    if as_json:
        print(json.dumps({**outcome.figures, "failures": outcome.failures}))  # noqa: T201
        return
    console.print()
    for name, meaning in _MEANINGS.items():
        line = f"{name:<20} {outcome.figures[name]!s:>10}   {meaning}".rstrip()
        console.print(line, markup=False)
    console.print()
    for failure in outcome.failures:
        console.print(f"[red]not as it should be:[/red] {failure}")
    if not outcome.failures:
        console.print("[green]Every claim of this demo held.[/green]")


def _keep(story: Story, console: Console) -> None:
    console.print("\nAll of it goes on running. In another terminal (mosquitto-clients):\n")
    for topic in (
        f"atoll/v1/{SITE}/+/prediction/#",
        f"atoll/v1/{SITE}/+/slot/#",
        f"atoll/v1/{SITE}/+/status",
    ):
        console.print(f"  mosquitto_sub -h 127.0.0.1 -p {story.port} -v -t '{topic}'", markup=False)
    console.print("\nCtrl-C ends it.")
    threading.Event().wait()
