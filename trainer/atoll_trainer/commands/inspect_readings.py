"""``atoll-trainer inspect``: what readings look like before anything is learnt from them."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import Final

from atoll_contract.errors import ConfigError, MalformedMessageError
from atoll_contract.manifest import Imputation
from atoll_ingest.dialect import AtollDialect
from atoll_link import recording
from atoll_link.place import Folder, Place, place
from atoll_link.recording import Kind
from atoll_trainer import sources
from atoll_trainer.commands.csv_options import STEP_MS, add_csv_options, columns_of, meaning_of
from atoll_trainer.dataset import Readings, UnsuitableDataError
from atoll_trainer.home import Home
from atoll_trainer.inspection import Inspection, ValueFacts, inspect
from atoll_trainer.moments import moment, span
from atoll_trainer.settings import TrainerSettings
from atoll_trainer.tables import table
from atoll_trainer.task import TaskFile

_LOOKED_AT: Final = 10_000
"""Messages whose values are looked for, where nothing names them."""
_MOST_DEVICES: Final = 12


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "--task",
        type=Path,
        metavar="FILE",
        help="task file: its values and target are looked at, and its [csv] says what columns mean",
    )
    parser.add_argument("--stream", metavar="ID", help="stream of the recordings, where there is no task")
    parser.add_argument("--target", metavar="VALUE", help="value that is to be forecast, to look for leaks")
    parser.add_argument(
        "--horizon", type=int, default=1, metavar="N", help="how many readings ahead (default: 1)"
    )
    parser.add_argument("--settings", type=Path, metavar="FILE", help="trainer.toml")
    parser.add_argument("--home", type=Path, metavar="DIR", help="trainer folder")
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--recordings", metavar="DIR|URL", help="recorded readings (default: as in the settings)"
    )
    source.add_argument("--csv", type=Path, metavar="FILE", help="a CSV file with a header, .csv or .csv.gz")
    add_csv_options(parser, step=f"that of --task, else {STEP_MS:g}")
    parser.add_argument("--json", action="store_true", help="print everything as one JSON object")
    parser.epilog = (
        f"{parser.epilog}\n"
        "  atoll-trainer inspect --task press.toml --home ./trainer\n"
        "  atoll-trainer inspect --task press.toml --csv press.csv\n\n"
        "Spans, gaps and rates by device; missing, constant, stuck and outlying values; markers for missing\n"
        "numbers; values that give the target away. Nothing is changed; exit status 0 whatever is found."
    )


def run(arguments: argparse.Namespace) -> int:
    """Inspect and print what was found."""
    if arguments.horizon < 1:
        raise ConfigError("--horizon: must be 1 or more")
    task = None if arguments.task is None else TaskFile.read(arguments.task)
    readings, looked = _readings(arguments, task)
    names = [
        spec.name if spec.size == 1 else f"{spec.name}[{at}]"
        for spec in looked.specs
        for at in range(spec.size)
    ]
    target, horizon = _target(arguments, task, names)
    found = inspect(readings, names, target, horizon)
    refused = {reason.value: count for reason, count in sorted(readings.refusals.counts.items())}
    if arguments.json:
        document = {"source": readings.source, "readings": len(readings), "refused": refused, **asdict(found)}
        print(json.dumps(_finite(document)))  # noqa: T201 - the result
        return 0
    _show(readings, found)
    return 0


def _readings(arguments: argparse.Namespace, task: TaskFile | None) -> tuple[Readings, TaskFile]:
    """Return the readings, with NaN for what is missing, and the task that they are read as."""
    settings = None if arguments.settings is None else TrainerSettings.read(arguments.settings)
    if arguments.csv is not None and task is not None and "csv" in task.model_fields_set:
        looked = _imputed(task)
        columns, separator = columns_of(task, arguments, arguments.step_ms)
        return sources.from_csv(arguments.csv, columns, looked, separator), looked
    if arguments.csv is not None:
        step_ms = (task and task.task.step_ms) or STEP_MS
        meaning = meaning_of(arguments.csv, arguments, step_ms)
        looked = _looked(list(meaning.columns.values), "csv", has_label=meaning.columns.label is not None)
        return sources.from_csv(arguments.csv, meaning.columns, looked, meaning.form.separator), looked
    home = Home.find(arguments.home or (settings.trainer.home if settings else None))
    kept = settings.recordings.where(home.recordings) if settings else Folder(home.recordings)
    where = place(arguments.recordings) if arguments.recordings else kept
    streams = [] if settings is None else settings.stream
    name = task.task.stream if task else arguments.stream
    if name is None:
        known = recording.names(where, Kind.READING)
        raise ConfigError(
            f"--stream: say which, or give --task or --csv; {where} has {', '.join(known) or 'none'}"
        )
    built = [stream.build(settings.trainer.site) for stream in streams if settings and stream.name == name]
    looked = _imputed(task) if task else _looked(_names(where, name), name)
    readings, _ = sources.from_recording(where, looked, built[0] if built else None)
    return readings, looked


def _looked(names: list[str], stream: str, *, has_label: bool = False) -> TaskFile:
    """Return a task that takes any of the values and refuses nothing for what it lacks."""
    aim = {"kind": "regression"} if has_label else {"kind": "forecast", "target": names[0]}
    table = {"model": "inspected", "stream": stream, "values": {name: {} for name in names}, **aim}
    return _imputed(TaskFile.model_validate({"task": table}))


def _imputed(task: TaskFile) -> TaskFile:
    if any(spec.size > 1 for spec in task.specs):
        return task
    return task.model_copy(update={"window": task.window.model_copy(update={"impute": Imputation.LAST})})


def _names(where: Place, stream: str) -> list[str]:
    """Return the names of the numbers that the first messages of a stream hold."""
    names: dict[str, None] = {}
    dialect = AtollDialect()
    for row in islice(recording.read(where, Kind.READING, stream), _LOOKED_AT):
        try:
            for reading in dialect.decode(row.payload):
                if isinstance(reading.values, dict):
                    names |= dict.fromkeys(
                        name for name, value in reading.values.items() if not isinstance(value, list)
                    )
        except MalformedMessageError:
            continue
    if not names:
        raise UnsuitableDataError(
            f"{where}: no message of stream {stream!r} is of our own dialect: give --task and --settings"
        )
    return sorted(names)


def _target(arguments: argparse.Namespace, task: TaskFile | None, names: list[str]) -> tuple[int | None, int]:
    name, horizon = arguments.target, arguments.horizon
    if name is None and task is not None and task.task.target in names:
        name, horizon = task.task.target, task.task.horizon
    if name is not None and name not in names:
        raise ConfigError(f"--target {name}: there is no such value; there are {', '.join(names)}")
    return (None if name is None else names.index(name)), horizon


def _show(readings: Readings, found: Inspection) -> None:
    refused = readings.refusals.counts.total()
    out = [f"{readings.source}: {len(readings):,} readings, {refused:,} refused, {found.labels:,} labels"]
    for reason, count in readings.refusals.counts.items():
        out.append(f"  {reason.value} {count:,}, first: {readings.refusals.first[reason]}")
    headings = ["device", "readings", "from", "to", "every", "gaps", "longest"]
    devices = [
        [
            one.device,
            f"{one.readings:,}",
            moment(one.first_ms),
            moment(one.last_ms),
            span(one.step_ms),
            f"{one.gaps:,}",
            span(one.longest_gap_ms) if one.gaps else "-",
        ]
        for one in found.devices[:_MOST_DEVICES]
    ]
    out += ["", table(headings, devices)]
    if len(found.devices) > _MOST_DEVICES:
        out.append(f"and {len(found.devices) - _MOST_DEVICES:,} more devices; --json has all")
    headings = ["value", "missing", "distinct", "least", "median", "greatest", "mean", "std", "outliers"]
    out += ["", table(headings, [_cells(value) for value in found.values]), ""]
    out += [f"! {warning}" for warning in found.warnings] or ["nothing is suspicious"]
    print("\n".join(out))  # noqa: T201 - the result


def _cells(value: ValueFacts) -> list[str]:
    numbers = (value.low, value.median, value.high, value.mean, value.std)
    return [
        value.name,
        f"{value.missing:.1%}",
        f"{value.distinct:,}",
        *(f"{number:.4g}" for number in numbers),
        f"{value.outliers:,}",
    ]


def _finite(document: object) -> object:
    """Return ``document`` with null for NaN, which JSON has not."""
    if isinstance(document, dict):
        return {name: _finite(value) for name, value in document.items()}
    if isinstance(document, list):
        return [_finite(value) for value in document]
    return None if isinstance(document, float) and document != document else document  # noqa: PLR0124
