"""Options that the commands share, and the types of their values."""

from __future__ import annotations

import argparse
import math
from typing import Final

from atoll_contract.errors import MalformedMessageError
from atoll_contract.ids import require_id
from atoll_contract.topics import RESERVED_SITES, RESERVED_WRITERS
from atoll_link.command_line import add_broker_arguments

MAX_WINDOW: Final = 10_000
"""Far below the 65,535 packet ids of MQTT, so that none is needed again while it is in flight."""


def positive(text: str) -> float:
    """Return the number above 0 that ``text`` spells."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number above 0")
    return number


def positive_int(text: str) -> int:
    """Return the whole number above 0 that ``text`` spells."""
    number = int(text)
    if number <= 0:
        raise argparse.ArgumentTypeError(f"{text} is not above 0")
    return number


def seed(text: str) -> int:
    """Return the whole number, 0 or more, that ``text`` spells."""
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"{text} is below 0")
    return number


def identifier(text: str) -> str:
    """Return ``text``, which can stand as a topic level."""
    try:
        return require_id(text, "name")
    except MalformedMessageError as error:
        raise argparse.ArgumentTypeError(error.detail) from error


def site(text: str) -> str:
    """Return ``text``, which can name a site."""
    if text in RESERVED_SITES:
        raise argparse.ArgumentTypeError(f"{text!r} is a reserved name")
    return identifier(text)


def writer(text: str) -> str:
    """Return ``text``, which can name a device or another writer."""
    if text in RESERVED_WRITERS:
        raise argparse.ArgumentTypeError(f"{text!r} is a reserved name")
    return identifier(text)


def window(text: str) -> int:
    """Return the number of messages in flight that ``text`` spells."""
    number = positive_int(text)
    if number > MAX_WINDOW:
        raise argparse.ArgumentTypeError(f"{text} is above {MAX_WINDOW}")
    return number


def add_connection_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the connection of who only listens."""
    add_broker_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print the summary as one JSON object")


def add_link_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of the connection and of what is printed at the end."""
    add_connection_arguments(parser)
    group = parser.add_argument_group("publishing")
    group.add_argument(
        "--window",
        type=window,
        default=100,
        metavar="N",
        help="most messages in flight (default: %(default)s)",
    )
    group.add_argument(
        "--give-up-after",
        type=positive,
        default=60.0,
        dest="give_up_after_s",
        metavar="SECONDS",
        help="end with status 1 when so long there is no connection or no acknowledgement "
        "(default: %(default)s)",
    )
