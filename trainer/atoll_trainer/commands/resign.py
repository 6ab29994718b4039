"""``atoll-trainer resign``: sign anew what would run out."""

from __future__ import annotations

import argparse
import time
from typing import Final

import structlog
from tuf.api.metadata import Timestamp

from atoll_contract.errors import DeviceError, TransientError
from atoll_link.stop import Stop, stop_on_signals
from atoll_trainer.commands.options import add_trainer_options, duration, trainer_from
from atoll_trainer.publication import Trainer, open_publication

_RETRY_S: Final = 60.0
_LOOK_S: Final = 0.5

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_trainer_options(parser)
    parser.add_argument(
        "--every", type=duration, metavar="TIME", help="go on, and sign anew every 6h, say (default: once)"
    )
    parser.epilog = (
        f"{parser.epilog}\n\n"
        "The timestamp is signed anew each time, snapshot and releases when half of their time is over.\n"
        "What an interrupted command left is completed. For a timer: systemd/atoll-trainer-resign.timer."
    )


def run(arguments: argparse.Namespace) -> int:
    """Sign and push, once or again and again."""
    trainer = trainer_from(arguments)
    if arguments.every is None:
        _resign(trainer)
        return 0
    stop = Stop()
    with stop_on_signals(stop, lambda: None):
        while not stop.is_requested:
            _pause(stop, _tried(trainer, arguments.every))
    return 0


def _tried(trainer: Trainer, every_s: float) -> float:
    """Sign and push if that can be done now; return when to do it next, in seconds."""
    try:
        _resign(trainer)
    except (TransientError, DeviceError) as error:
        _log.warning("metadata.unsigned", reason=error.reason.value, detail=error.detail)
        return min(_RETRY_S, every_s)
    return every_s


def _resign(trainer: Trainer) -> None:
    with open_publication(trainer) as publication:
        publication.bring_out(renews_timestamp=True)
        metadata = publication.repository.metadata
    _log.info(
        "metadata.signed",
        version=metadata.version(Timestamp.type),
        expires=metadata.expires(Timestamp.type).isoformat(),
    )


def _pause(stop: Stop, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not stop.is_requested and (left := end - time.monotonic()) > 0:
        time.sleep(min(_LOOK_S, left))
