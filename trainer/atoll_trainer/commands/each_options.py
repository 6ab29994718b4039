"""Options of ``atoll-trainer train --each-device``; apart from it, so that ``train`` needs no Dask."""

from __future__ import annotations

import argparse
import os
from typing import Final

from atoll_trainer.commands.options import duration

_LIMIT_S: Final = 600.0
_LEAST: Final = 200


def add_each_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that :func:`train_each` reads."""
    group = parser.add_argument_group("many models")
    group.add_argument(
        "--each-device",
        action="store_true",
        help="train one model for each device (each group), MODEL-DEVICE; int8 and evaluated at once",
    )
    group.add_argument(
        "--workers",
        type=_count,
        default=os.cpu_count() or 1,
        metavar="N",
        help="processes that train side by side (default: as many as processors)",
    )
    group.add_argument(
        "--scheduler",
        metavar="ADDRESS",
        help="a Dask scheduler instead, tcp://HOST:8786, whose workers have the same atoll installed",
    )
    group.add_argument(
        "--least-windows",
        type=_count,
        default=_LEAST,
        metavar="N",
        help="the model of a device with fewer windows is the naive guess (default: %(default)s)",
    )
    group.add_argument(
        "--limit",
        type=duration,
        default=_LIMIT_S,
        metavar="TIME",
        help="most time for one model (default: 10m)",
    )


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)
