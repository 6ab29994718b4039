"""``atoll-trainer train --each-device``: one model for each device."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import structlog
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from atoll_link.exits import Exit
from atoll_trainer.dataset import Readings
from atoll_trainer.group import Ended, Ending
from atoll_trainer.many import train_all, works_of
from atoll_trainer.tables import table
from atoll_trainer.task import TaskFile

_log: structlog.stdlib.BoundLogger = structlog.get_logger()


def train_each(arguments: argparse.Namespace, task: TaskFile, readings: Readings, folder: Path) -> int:
    """Train, show progress, and print what came out; run folders go below ``folder``."""
    works = works_of(arguments.task, task, readings, arguments.least_windows, arguments.limit)
    with _progress(len(works)) as on_end:
        endings = train_all(
            works, folder, workers=arguments.workers, scheduler=arguments.scheduler, on_end=on_end
        )
    if arguments.json:
        summary = json.loads((folder / "groups.json").read_text(encoding="utf-8"))
        print(json.dumps({"folder": str(folder), **summary}))  # noqa: T201 - the result
    else:
        print(_shown(endings))  # noqa: T201
        print(f"\nruns in {folder}")  # noqa: T201
    return Exit.FAILURE if any(ended.ending is Ending.NONE for ended in endings) else Exit.SUCCESS


def _shown(endings: list[Ended]) -> str:
    rows = []
    for ended in endings:
        figures = ended.evaluation
        errors = ["-"] * 3
        if figures is not None:
            errors = [
                f"{_error(one):.4g}" for one in (figures.naive, figures.float_model, figures.int8_model)
            ]
        rows.append([ended.name, f"{ended.windows:,}", *errors, ended.ending.value, ended.why])
    lines = [table(["device", "windows", "naive", "float", "int8", "model", ""], rows), ""]
    counts = {ending: sum(one.ending is ending for one in endings) for ending in Ending}
    lines.append(
        f"{len(endings):,} devices: {counts[Ending.FITTED]:,} fitted, {counts[Ending.NAIVE]:,} fall back to "
        f"the naive guess, {counts[Ending.NONE]:,} without a model"
    )
    return "\n".join(lines)


def _error(metrics: object) -> float:
    """Return the figure that is to be small."""
    for name in ("mae", "log_loss", "flagged"):
        value = getattr(metrics, name, None)
        if value is not None:
            return float(value)
    return float("nan")


@contextmanager
def _progress(count: int) -> Iterator[Callable[[Ended], None]]:
    """Show a bar on a terminal, else log each model."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda ended: _log.info(
            "group.ended", device=ended.name, ending=ended.ending.value, seconds=round(ended.seconds, 2)
        )
        return
    columns = (TextColumn("{task.fields[last]}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        shown = bar.add_task("groups", total=count, last="")
        yield lambda ended: bar.update(shown, advance=1, last=f"{ended.name} {ended.ending.value}")
