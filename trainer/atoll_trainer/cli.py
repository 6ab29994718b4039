"""``atoll-trainer``: the four steps of putting a model on the edge, and its signed publication."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from atoll_link.command_line import Command
from atoll_link.command_line import main as run_program

COMMANDS: Final = {
    "init": Command(
        "atoll_trainer.commands.init",
        "make keys and an empty release repository",
        "init --home ./trainer",
    ),
    "record": Command(
        "atoll_trainer.commands.record",
        "record readings, labels and predictions as Parquet",
        "record --settings trainer.toml --for 3600",
        "trainer",
    ),
    "train": Command(
        "atoll_trainer.commands.train",
        "fit a model on recorded readings or a CSV file",
        "train --task press.toml --recordings ./trainer/recordings",
        "trainer",
    ),
    "optimise": Command(
        "atoll_trainer.commands.optimise",
        "convert a trained model to full-integer int8",
        "optimise ./trainer/runs/press-1",
        "trainer",
    ),
    "evaluate": Command(
        "atoll_trainer.commands.evaluate",
        "compare float, int8 and a naive guess on the untouched part",
        "evaluate ./trainer/runs/press-1",
        "trainer",
    ),
    "bundle": Command(
        "atoll_trainer.commands.bundle",
        "make a release of a run, or of a model file of your own",
        "bundle --run ./trainer/runs/press-1 --out press-1.atoll",
    ),
    "publish": Command(
        "atoll_trainer.commands.publish",
        "sign a bundle and push it over retained MQTT topics",
        "publish --settings trainer.toml press-1.atoll",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``atoll-trainer`` and return its exit code."""
    return run_program("atoll-trainer", __doc__ or "", COMMANDS, arguments)
