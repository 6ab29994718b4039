"""``atoll-trainer train``: fit a model on recorded readings or a CSV file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from atoll_contract.errors import ConfigError, MalformedMessageError
from atoll_contract.ids import require_id
from atoll_ingest.stream import Stream
from atoll_link.csv_columns import add_form_arguments, name_and_column
from atoll_link.files import make_folder, storage_error
from atoll_link.place import Folder, place
from atoll_trainer import sources, suitability
from atoll_trainer.commands.csv_options import columns_of
from atoll_trainer.commands.each_options import add_each_options
from atoll_trainer.commands.search_shown import show_search, trial_progress
from atoll_trainer.dataset import Readings
from atoll_trainer.families import Epoch
from atoll_trainer.home import Home
from atoll_trainer.runs import Run, RunFacts, Span
from atoll_trainer.settings import TrainerSettings
from atoll_trainer.task import TaskFile
from atoll_trainer.training import prepare, train

_MOST_STEPS_SHOWN: Final = 5
_MOST_WEIGHTS_SHOWN: Final = 24
_LOSSES_SHOWN: Final = 10
_INDENT: Final = " " * 13


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument(
        "--task", type=Path, required=True, metavar="FILE", help="what is to be learnt: a task file"
    )
    parser.add_argument(
        "--settings",
        type=Path,
        metavar="FILE",
        help="trainer.toml: home, and how the stream's payloads are read",
    )
    parser.add_argument("--home", type=Path, metavar="DIR", help="trainer folder; runs go to HOME/runs")
    parser.add_argument("--out", type=Path, metavar="DIR", help="run folder (default: HOME/runs/MODEL-N)")
    parser.add_argument("--json", action="store_true", help="print the run's facts as one JSON object")
    parser.add_argument(
        "--since",
        type=_moment_ms,
        metavar="TIME",
        help="learn only from recorded readings since then: 2026-05-04T06:00 (UTC), or milliseconds",
    )
    source = parser.add_mutually_exclusive_group()
    source.add_argument(
        "--recordings", metavar="DIR|URL", help="recorded readings (default: as in the settings)"
    )
    source.add_argument("--csv", type=Path, metavar="FILE", help="a CSV file with a header, .csv or .csv.gz")
    parser.add_argument(
        "--test-csv",
        type=Path,
        metavar="FILE",
        help="a CSV file of the same form whose windows are the test part (default: split as the task says)",
    )
    table = parser.add_argument_group("columns of a CSV file; what is not given is as the task's [csv] says")
    device = table.add_mutually_exclusive_group()
    device.add_argument("--device", type=_device, metavar="ID", help="the device of all rows")
    device.add_argument("--device-column", metavar="COLUMN", help="column with the name of the device")
    table.add_argument(
        "--time",
        action="append",
        default=[],
        metavar="COLUMN",
        help="column of the event time; given twice, the cells are joined by a space",
    )
    table.add_argument(
        "--value",
        action="append",
        default=[],
        type=name_and_column,
        metavar="NAME=COLUMN",
        help="column of a value; may be repeated",
    )
    table.add_argument("--label", metavar="COLUMN", help="what a regression or a classification learns")
    add_form_arguments(table, "as the task says")
    add_each_options(parser)
    parser.epilog = (
        f"{parser.epilog}\n"
        "  atoll-trainer train --task oven.toml --csv oven.csv --time timestamp --value temperature=value\n\n"
        "The task file names the values and the target: config/task.toml is one with every key explained,\n"
        "config/scenarios has ten for real data, and docs/operate/tasks.md says how to write one.\n\n"
        "The windows are cut by the code that runs on the device, in order of time: the training part\n"
        "first, then the validation part, which says when to stop, then the test part, which only\n"
        "atoll-trainer evaluate looks at. Model, facts and windows go to the run folder."
    )


def run(arguments: argparse.Namespace) -> int:
    """Train and print what came out."""
    task = TaskFile.read(arguments.task)
    settings = None if arguments.settings is None else TrainerSettings.read(arguments.settings)
    home = Home.find(arguments.home or (settings.trainer.home if settings else None))
    with _run_folder(arguments.out, home, task) as target:
        return _train(arguments, task, target, lambda: _readings(arguments, task, home, settings))


def _train(
    arguments: argparse.Namespace, task: TaskFile, target: Run, read: Callable[[], tuple[Readings, int]]
) -> int:
    readings, lost = read()
    if arguments.each_device:
        from atoll_trainer.commands.each import train_each  # noqa: PLC0415 - Dask

        return train_each(arguments, task, readings, target.folder)
    prepared = prepare(readings, task)
    out = Console(soft_wrap=True, quiet=arguments.json, highlight=False, markup=False)
    _show_readings(out, readings, lost)
    notes = "".join(f"; left out: {reason.value} {count:,}" for reason, count in prepared.left_out.items())
    longest = task.with_length(max(prepared.lengths))
    out.print(f"windows      {len(prepared.examples):,} of {_extent(longest)}{notes}")
    for name, part in prepared.parts:
        out.print(f"{name:<12} {_span(Span.of(part))}")
    refused = {reason.value: count for reason, count in readings.refusals.counts.items()}
    for note in suitability.notes(prepared.parts, longest, len(readings), refused):
        out.print(f"! {note}")
    if task.fit is not None:
        with _progress(task.fit.epochs) as on_epoch:
            facts = train(target, arguments.task, task, readings, prepared, on_epoch)
        _show_fit(out, facts, task)
    else:
        with trial_progress(task.search.trials) as on_trial:
            facts = train(target, arguments.task, task, readings, prepared, on_trial=on_trial)
        if facts.search is not None:
            show_search(out, facts.search)
        out.print(f"seconds      {facts.seconds:.1f}")
    out.print(f"run          {target.folder}")
    if arguments.json:
        print(json.dumps({"run": str(target.folder), **facts.model_dump(mode="json")}))  # noqa: T201
    return 0


def _extent(task: TaskFile) -> str:
    """Return what one window holds, in words."""
    window, lags = task.window, task.manifest().depth - task.length
    if window.duration_ms is not None:
        return f"{window.duration_ms / 1e3:g} s"
    extent = f"{task.length:,} {'steps' if window.resample else 'readings'}"
    return f"{extent} and {lags:,} before" if lags else extent


def _readings(
    arguments: argparse.Namespace, task: TaskFile, home: Home, settings: TrainerSettings | None
) -> tuple[Readings, int]:
    if arguments.csv is not None:
        if arguments.since is not None:
            raise ConfigError("--since: goes with recorded readings only")
        columns, separator = columns_of(task, arguments)
        readings = sources.from_csv(arguments.csv, columns, task, separator)
        if arguments.test_csv is not None:
            readings = readings.joined(sources.from_csv(arguments.test_csv, columns, task, separator))
        return readings, 0
    if arguments.test_csv is not None:
        raise ConfigError("--test-csv: goes with --csv")
    kept = settings.recordings.where(home.recordings) if settings else Folder(home.recordings)
    where = place(arguments.recordings) if arguments.recordings else kept
    return sources.from_recording(where, task, _stream(settings, task), arguments.since)


def _stream(settings: TrainerSettings | None, task: TaskFile) -> Stream | None:
    if settings is None:
        return None
    for stream in settings.stream:
        if stream.name == task.task.stream:
            return stream.build(settings.trainer.site)
    known = ", ".join(stream.name for stream in settings.stream) or "none"
    raise ConfigError(f"task.stream: the settings have no stream {task.task.stream!r}; they have {known}")


@contextmanager
def _run_folder(given: Path | None, home: Home, task: TaskFile) -> Iterator[Run]:
    """Make the run folder before anything that takes long; take it away if nothing comes of it."""
    is_ours = True
    if given is None:
        folder = home.new_run(task.task.model)
    else:
        folder = given
        try:
            is_ours = not given.exists()
            if not is_ours and (not given.is_dir() or any(given.iterdir())):
                raise ConfigError(f"--out {given}: is there already; name a new folder")
        except OSError as error:
            raise storage_error(given, error) from error
        make_folder(given)
    try:
        yield Run(folder)
    except BaseException:
        if is_ours:
            with suppress(OSError):  # what the fit has left in it stays
                folder.rmdir()
        raise


def _show_readings(out: Console, readings: Readings, lost: int) -> None:
    devices = len(set(readings.devices))
    refused = readings.refusals.counts
    out.print(f"data         {readings.source}")
    first, last = _moment(readings.times_ms.min()), _moment(readings.times_ms.max())
    out.print(
        f"readings     {len(readings):,} of {devices:,} device{'s' * (devices != 1)}, {first} to {last}; "
        f"refused {refused.total():,}"
    )
    if readings.cut_ms is not None:
        out.print(f"{_INDENT}too many: what arrived before {_moment(readings.cut_ms)} was left out")
    for reason, count in refused.items():
        out.print(f"{_INDENT}{reason.value} {count:,}, first: {readings.refusals.first[reason]}")
    steps = readings.steps_back()
    for step in steps[:_MOST_STEPS_SHOWN]:
        out.print(f"{_INDENT}{step}")
    if len(steps) > _MOST_STEPS_SHOWN:
        out.print(f"{_INDENT}and {len(steps) - _MOST_STEPS_SHOWN:,} more steps back")
    if lost:
        out.print(f"{_INDENT}{lost:,} labels belong to no reading")


def _show_fit(out: Console, facts: RunFacts, task: TaskFile) -> None:
    last = facts.losses[-1].epoch
    shown = {round(last * share / _LOSSES_SHOWN) for share in range(_LOSSES_SHOWN + 1)} | {facts.best_epoch}
    out.print("loss         mean squared error of the normalised target")
    for loss in facts.losses:
        if loss.epoch in shown:
            validation = "" if loss.validation is None else f"  validation {loss.validation:.6f}"
            mark = "  best" if loss.epoch == facts.best_epoch else ""
            out.print(f"{_INDENT}epoch {loss.epoch:>5}  train {loss.train:.6f}{validation}{mark}")
    if facts.linear is not None:
        for line in _weights(facts.linear.w, task):
            out.print(line)
        out.print(f"b            {facts.linear.b:.6g}")
    out.print(f"seconds      {facts.seconds:.1f}")


def _weights(w: list[list[float]], task: TaskFile) -> Iterator[str]:
    manifest = task.manifest()
    columns = [
        label if size == 1 else f"{label}[{place}]"
        for label, size in zip(manifest.labels, manifest.sizes, strict=True)
        for place in range(size)
    ]
    named = [
        (
            column
            if len(w) == 1
            else f"{column} t-{len(w) - 1 - place}"
            if place < len(w) - 1
            else f"{column} t",
            weight,
        )
        for place, row in enumerate(w)
        for column, weight in zip(columns, row, strict=True)
    ]
    chosen = named
    if len(named) > _MOST_WEIGHTS_SHOWN:
        chosen = sorted(named, key=lambda one: -abs(one[1]))[:_MOST_WEIGHTS_SHOWN]
        yield f"w            the {len(chosen)} largest of {len(named):,}; run.json has all"
    width = max(len(name) for name, _ in chosen)
    for name, weight in chosen:
        yield f"w            {name:<{width}}  {weight:.6g}"


@contextmanager
def _progress(epochs: int) -> Iterator[Callable[[Epoch], None]]:
    """Show a bar with the falling loss, on a terminal."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _: None
        return
    bar = Progress(
        TextColumn("loss {task.fields[loss]}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    )
    with bar:
        shown = bar.add_task("fit", total=epochs, loss="-")
        yield lambda epoch: bar.update(shown, completed=epoch.number, loss=f"{epoch.loss:.6f}")


def _span(span: Span) -> str:
    if span.start_ms is None or span.end_ms is None:
        return "0"
    return f"{span.windows:,}  {_moment(span.start_ms)} to {_moment(span.end_ms)}"


def _moment(time_ms: float) -> str:
    return datetime.fromtimestamp(float(time_ms) / 1e3, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _moment_ms(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no time: 2026-05-04T06:00 say") from error
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1e3


def _device(text: str) -> str:
    try:
        return require_id(text, "name")
    except MalformedMessageError as error:
        raise argparse.ArgumentTypeError(error.detail) from error
