"""``atoll-trainer republish``: fill a broker that lost its retained topics."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from datetime import UTC, datetime

from atoll_contract.errors import ConfigError, NotStoredError
from atoll_trainer.commands.options import add_trainer_options, trainer_from
from atoll_trainer.publication import open_publication


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_trainer_options(parser)
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")
    parser.epilog = (
        f"{parser.epilog}\n\n"
        "Every topic that devices need is compared and, where it is not there, put: the same bytes as\n"
        "before. Nothing is signed, so no key is needed."
    )


def run(arguments: argparse.Namespace) -> int:
    """Push what is signed."""
    with open_publication(trainer_from(arguments)) as publication:
        if not publication.repository.is_complete:
            raise ConfigError(
                "a command was interrupted while it signed: run it again, or atoll-trainer resign, which "
                "completes it"
            )
        summary = publication.push_signed(datetime.now(UTC), compare=None)
    print(json.dumps(asdict(summary)) if arguments.json else summary)  # noqa: T201 - the result
    if summary.not_kept:
        raise NotStoredError(next(iter(summary.not_kept.values())))
    return 0
