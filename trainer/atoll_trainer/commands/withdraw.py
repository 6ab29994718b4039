"""``atoll-trainer withdraw``: take a release back."""

from __future__ import annotations

import argparse

from atoll_trainer.commands.options import add_release_arguments, add_trainer_options, trainer_from
from atoll_trainer.commands.outcome import withdraw
from atoll_trainer.repository import MAX_WHY_CHARS


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_release_arguments(parser)
    add_trainer_options(parser)
    parser.add_argument("--why", type=_why, required=True, metavar="TEXT", help="for people; signed with it")
    parser.epilog = (
        f"{parser.epilog}\n\n"
        "Devices that run it go back to the highest release that is for them. If there is none, they go on\n"
        "with it and say so on their slot topic. Its number never comes back. Run it again after any failure."
    )


def run(arguments: argparse.Namespace) -> int:
    """Sign that the release is no more and push it."""
    summary = withdraw(trainer_from(arguments), arguments.model, arguments.release, arguments.why)
    print(f"{arguments.model} release {arguments.release} is withdrawn: {arguments.why}\n{summary}")  # noqa: T201
    return 0


def _why(text: str) -> str:
    if not 1 <= len(text) <= MAX_WHY_CHARS:
        raise argparse.ArgumentTypeError(f"1 to {MAX_WHY_CHARS} characters")
    return text
