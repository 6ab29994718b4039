"""``atoll-trainer import``: CSV files into the recordings."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from atoll_contract.errors import ConfigError, MalformedMessageError
from atoll_contract.ids import require_id
from atoll_link.place import Folder, Place, place
from atoll_trainer.commands.csv_options import add_csv_options, meaning_of
from atoll_trainer.csv_import import Destination, Imported, import_csv
from atoll_trainer.home import Home
from atoll_trainer.moments import moment
from atoll_trainer.settings import TrainerSettings

_INDENT = " " * 13


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "files", type=Path, nargs="+", metavar="FILE", help="CSV with a header; .gz works too"
    )
    parser.add_argument("--stream", type=_id, required=True, metavar="ID", help="stream of the readings")
    parser.add_argument(
        "--model", type=_id, metavar="ID", help="model that the labels are for; goes with --label"
    )
    parser.add_argument(
        "--site", type=_id, metavar="ID", help="site of the topics (default: as in the settings)"
    )
    parser.add_argument("--settings", type=Path, metavar="FILE", help="settings file, trainer.toml")
    parser.add_argument("--home", type=Path, metavar="DIR", help="trainer folder; rows go to HOME/recordings")
    parser.add_argument(
        "--recordings", metavar="DIR|URL", help="where they go instead, also s3://BUCKET/FOLDER"
    )
    add_csv_options(parser)
    parser.add_argument("--json", action="store_true", help="print what was imported as one JSON object")
    parser.epilog = (
        f"{parser.epilog}\n"
        "  atoll-trainer import parking.csv --stream parking --group SystemCodeNumber --value Occupancy\n\n"
        "Rows become the readings that devices would have sent, with their own times. Import a file again,\n"
        "with other options or after an interruption: it replaces what it brought before. A recorder may\n"
        "run meanwhile, and never deletes imported files to make room."
    )


def run(arguments: argparse.Namespace) -> int:
    """Import and print what was understood and stored."""
    if (arguments.label is None) != (arguments.model is None):
        raise ConfigError("--label and --model go together: labels are for a model")
    settings = None if arguments.settings is None else TrainerSettings.read(arguments.settings)
    site = arguments.site or (settings.trainer.site if settings else "imported")
    to = Destination(site, arguments.stream, arguments.model)
    where = _where(arguments, settings)
    results = []
    for path in arguments.files:
        meaning = meaning_of(path, arguments)
        if not arguments.json:
            print(f"{'file':<13}{path}")  # noqa: T201 - the result
            for word, text in meaning.lines():
                print(f"{word:<13}{text}")  # noqa: T201
        imported = import_csv(path, meaning.columns, meaning.form.separator, to, where)
        results.append(_facts(path, imported))
        if not arguments.json:
            _show(imported)
    if arguments.json:
        print(json.dumps({"recordings": str(where), "files": results}))  # noqa: T201
    else:
        print(f"{'recordings':<13}{where}")  # noqa: T201
    return 0


def _where(arguments: argparse.Namespace, settings: TrainerSettings | None) -> Place:
    if arguments.recordings is not None:
        return place(arguments.recordings)
    home = Home.find(arguments.home or (settings.trainer.home if settings else None))
    bucket = settings.recordings.bucket() if settings else None
    return bucket or Folder(home.recordings)


def _facts(path: Path, imported: Imported) -> dict[str, Any]:
    return {
        "file": str(path),
        "readings": imported.readings,
        "labels": imported.labels,
        "devices": len(imported.devices),
        "first_ms": imported.first_ms,
        "last_ms": imported.last_ms,
        "refused": {reason.value: count for reason, count in sorted(imported.refusals.counts.items())},
        "parts": imported.parts,
        "replaced": imported.replaced,
    }


def _show(imported: Imported) -> None:
    devices = len(imported.devices)
    print(  # noqa: T201 - the result
        f"{'readings':<13}{imported.readings:,} of {devices:,} device{'s' * (devices != 1)}, "
        f"{moment(imported.first_ms)} to {moment(imported.last_ms)}; "
        f"refused {imported.refusals.counts.total():,}"
    )
    for reason, count in imported.refusals.counts.items():
        print(f"{_INDENT}{reason.value} {count:,}, first: {imported.refusals.first[reason]}")  # noqa: T201
    if imported.labels:
        print(f"{'labels':<13}{imported.labels:,}")  # noqa: T201
    again = f"; {imported.replaced:,} of an earlier import are gone" if imported.replaced else ""
    print(f"{'parts':<13}{imported.parts:,}{again}")  # noqa: T201


def _id(text: str) -> str:
    try:
        return require_id(text, "name")
    except MalformedMessageError as error:
        raise argparse.ArgumentTypeError(error.detail) from error
