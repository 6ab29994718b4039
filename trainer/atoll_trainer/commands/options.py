"""Options that several commands share, and what they mean together."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import Final

from atoll_contract.ids import is_id
from atoll_contract.release import MAX_RELEASE
from atoll_trainer.home import Home
from atoll_trainer.keys import KeyRing, read_passphrases
from atoll_trainer.publication import Trainer
from atoll_trainer.settings import TrainerSettings

_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def add_trainer_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that :func:`trainer_from` reads."""
    add_settings_options(parser)
    parser.add_argument(
        "--keys",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="another folder to look for keys in, besides HOME/keys; may be given several times",
    )
    parser.add_argument(
        "--passphrase-file",
        type=Path,
        action="append",
        default=[],
        metavar="FILE",
        help="its first line opens encrypted keys; may be given several times",
    )


def add_settings_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--settings`` and ``--home``."""
    parser.add_argument(
        "--settings", type=Path, required=True, metavar="FILE", help="settings file, trainer.toml"
    )
    parser.add_argument(
        "--home", type=Path, metavar="DIR", help="trainer folder (default: as in the settings)"
    )


def trainer_from(arguments: argparse.Namespace) -> Trainer:
    """Return who the options say publishes.

    Raises:
        ConfigError: The settings or a passphrase cannot be read.
    """
    settings = TrainerSettings.read(arguments.settings)
    home = Home.find(arguments.home or settings.trainer.home)
    ring = KeyRing((home.keys, *arguments.keys), read_passphrases(arguments.passphrase_file))
    broker, chunk_bytes = settings.build_broker(), settings.trainer.chunk_bytes
    return Trainer(settings.trainer.id, home, broker, ring, chunk_bytes)


def add_release_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``MODEL`` and ``RELEASE``."""
    parser.add_argument("model", type=_model, metavar="MODEL", help="id of the model")
    parser.add_argument("release", type=_release, metavar="RELEASE", help="number of the release")


def duration(text: str) -> float:
    """Return the seconds in ``90``, ``90s``, ``15m``, ``6h`` or ``1d``.

    >>> duration("6h")
    21600.0
    """
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)([smhd]?)", text)
    if found is None or float(found[1]) == 0:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration: 90s, 15m, 6h, 1d")
    return float(found[1]) * _SECONDS[found[2] or "s"]


def _model(text: str) -> str:
    if not is_id(text):
        raise argparse.ArgumentTypeError(f"{text!r} is no id of a model")
    return text


def _release(text: str) -> int:
    if re.fullmatch("[1-9][0-9]{0,9}", text) is None or int(text) > MAX_RELEASE:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of a release")
    return int(text)
