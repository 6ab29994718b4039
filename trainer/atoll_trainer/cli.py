"""``atoll-trainer``: from readings to a model, and from a model to a signed release on a fleet."""

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
    "import": Command(
        "atoll_trainer.commands.import_csv",
        "put CSV files into the recordings",
        "import press.csv --stream press --label wear --model press-wear --home ./trainer",
        "trainer",
    ),
    "inspect": Command(
        "atoll_trainer.commands.inspect_readings",
        "tell gaps, suspicious values and leaks before anything is learnt",
        "inspect --csv press.csv --label wear",
        "trainer",
    ),
    "train": Command(
        "atoll_trainer.commands.train",
        "fit a model on recorded readings or a CSV file",
        "train --task press.toml --recordings ./trainer/recordings",
        "trainer",
    ),
    "train-pictures": Command(
        "atoll_trainer.commands.train_pictures",
        "fit a classifier on recorded pictures and their labels",
        "train-pictures --settings trainer.toml --model look --stream part --labels good,bad --out look-1",
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
        "publish --settings trainer.toml press-1.atoll --percent 10 --wait --withdraw-above 0.2",
    ),
    "promote": Command(
        "atoll_trainer.commands.promote",
        "change whom a release is for",
        "promote press 7 --percent 100 --channel stable --settings trainer.toml",
    ),
    "withdraw": Command(
        "atoll_trainer.commands.withdraw",
        "take a release back",
        'withdraw press 7 --why "drifts above 60 °C" --settings trainer.toml',
    ),
    "republish": Command(
        "atoll_trainer.commands.republish",
        "fill a broker that lost its retained topics",
        "republish --settings trainer.toml",
    ),
    "resign": Command(
        "atoll_trainer.commands.resign",
        "sign anew what would run out",
        "resign --every 6h --settings trainer.toml",
    ),
    "keys": Command(
        "atoll_trainer.commands.keys",
        "list, rotate and renew the signing keys",
        "keys list --settings trainer.toml",
    ),
    "run": Command(
        "atoll_trainer.commands.run",
        "learn anew when the world changes, try, promote or withdraw: the closed loop",
        "run --settings trainer.toml",
        "trainer",
    ),
    "status": Command(
        "atoll_trainer.commands.status",
        "what the fleet runs, refuses and waits for",
        "status --settings trainer.toml",
    ),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run ``atoll-trainer`` and return its exit code."""
    return run_program("atoll-trainer", __doc__ or "", COMMANDS, arguments)
