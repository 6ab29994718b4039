"""``atoll-trainer resign``: sign anew what would run out."""

from __future__ import annotations

import argparse
import time
from typing import Final

import structlog
from tuf.api.metadata import Timestamp

from atoll_contract.errors import ConfigError, DeviceError, TransientError
from atoll_link.stop import Stop, stop_on_signals
from atoll_trainer.commands.options import add_trainer_options, duration, trainer_from
from atoll_trainer.publication import Trainer, open_publication

_RETRY_S: Final = 60.0
_LOOK_S: Final = 0.5

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    add_trainer_options(parser)
    how = parser.add_mutually_exclusive_group()
    how.add_argument(
        "--every", type=duration, metavar="TIME", help="go on, and sign anew every 6h, say (default: once)"
    )
    how.add_argument(
        "--clock-is-right",
        action="store_true",
        help="sign anew, too, what this machine signed when its clock was ahead",
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
        _resign(trainer, is_clock_right=arguments.clock_is_right)
        return 0
    stop = Stop()
    is_first = True
    with stop_on_signals(stop, lambda: None):
        while not stop.is_requested:
            _pause(stop, _tried(trainer, arguments.every, is_first=is_first))
            is_first = False
    return 0


def _tried(trainer: Trainer, every_s: float, *, is_first: bool) -> float:
    """Sign and push if that can be done now; return when to do it next, in seconds."""
    try:
        _resign(trainer)
    except ConfigError as error:
        if is_first:
            raise
        # Whoever may write release topics can make them look like another repository's: until it is mended.
        _log.error("metadata.unsigned", reason=error.reason.value, detail=error.detail)
        return min(_RETRY_S, every_s)
    except (TransientError, DeviceError) as error:
        _log.warning("metadata.unsigned", reason=error.reason.value, detail=error.detail)
        return min(_RETRY_S, every_s)
    return every_s


def _resign(trainer: Trainer, *, is_clock_right: bool = False) -> None:
    with open_publication(trainer) as publication:
        publication.bring_out(renews_timestamp=True, is_clock_right=is_clock_right)
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
