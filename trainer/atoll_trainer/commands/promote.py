"""``atoll-trainer promote``: change whom a release is for."""

from __future__ import annotations

import argparse

from atoll_contract.errors import ConfigError, MalformedMessageError
from atoll_trainer.commands.options import add_release_arguments, add_trainer_options, trainer_from
from atoll_trainer.commands.outcome import add_term_options, add_wait_options, asked_terms, conclude
from atoll_trainer.publication import open_publication


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_release_arguments(parser)
    add_trainer_options(parser)
    add_term_options(parser, "default: as it is")
    add_wait_options(parser)
    parser.epilog = (
        f"{parser.epilog}\n\n"
        "A share that grows keeps the devices that it has. Devices that a release is not for any more\n"
        "go back to the highest one that is."
    )


def run(arguments: argparse.Namespace) -> int:
    """Sign other terms, push them, and follow the rollout."""
    trainer = trainer_from(arguments)
    with open_publication(trainer) as publication:
        repository = publication.repository
        try:
            repository.change_terms(arguments.model, arguments.release, asked_terms(arguments))
        except MalformedMessageError as error:
            raise ConfigError(f"--channel, --percent, --max-delay: {error.detail}") from error
        summary = publication.bring_out()
        published = repository.release(arguments.model, arguments.release)
    return conclude(trainer, arguments, published, summary)
