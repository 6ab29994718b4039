"""``atoll-sim``: simulated devices, replay of recorded readings, and the demo."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from atoll_link.command_line import Command
from atoll_link.command_line import main as run_program

COMMANDS: Final = {
    "run": Command(
        "atoll_sim.commands.run",
        "publish readings and labels of simulated devices",
        "run --broker mqtt://localhost world.toml",
    ),
    "replay": Command(
        "atoll_sim.commands.replay",
        "publish the rows of a CSV file as readings",
        "replay press.csv --stream press --device press-1 --time timestamp --value temperature=value",
    ),
    "scenario": Command(
        "atoll_sim.commands.scenario",
        "play a world whose devices measure, and obey what agents decide",
        "scenario traffic --broker mqtt://localhost --wait",
    ),
    "capture": Command(
        "atoll_sim.commands.capture",
        "record what a broker carries as Parquet",
        "capture --broker mqtt://localhost --site plant-a --out recordings --for 3600",
        "record",
    ),
    "compare": Command(
        "atoll_sim.commands.compare",
        "run a recording through two releases and show where they differ",
        "compare recordings press-wear-7.atoll press-wear-8.atoll --stream press --plot differences.svg",
        "sim",
    ),
    "demo": Command(
        "atoll_sim.commands.demo",
        "show the whole loop in one terminal, without hardware",
        "demo",
        "all",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``atoll-sim`` and return its exit code."""
    return run_program("atoll-sim", __doc__ or "", COMMANDS, arguments)
