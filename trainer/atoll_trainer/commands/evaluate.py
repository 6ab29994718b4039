"""``atoll-trainer evaluate``: float, int8 and a naive guess on the untouched part."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

from atoll_trainer.evaluate import examine
from atoll_trainer.report.write import write_report
from atoll_trainer.runs import Evaluation, ModelMetrics, Run

_HEADINGS: Final = {
    "mae": "MAE",
    "rmse": "RMSE",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "f1": "F1",
    "average_precision": "average precision",
    "log_loss": "log loss",
    "flagged": "flagged",
}


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="run folder, as optimise left it")
    parser.add_argument("--json", action="store_true", help="print the evaluation as one JSON object")
    parser.add_argument("--no-report", action="store_true", help="write no report, only evaluation.json")
    parser.epilog = (
        f"{parser.epilog}\n\n"
        "Both model files answer every window of the test part, in the runtime and through the code\n"
        "that devices use. The naive guess is the last value for a forecast, the mean of the\n"
        "training part or its most frequent class, or the distance of a reading to that mean.\n\n"
        "RUN/report.html tells what came out, in one file that needs no network; model_card.md and\n"
        "report.json say the same for a repository and for programs."
    )


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, write ``evaluation.json`` and the report, and print the figures."""
    run = Run(arguments.run_folder)
    evaluated = examine(run)
    evaluation = evaluated.evaluation
    report = None if arguments.no_report else write_report(run, evaluated)
    if arguments.json:
        print(evaluation.model_dump_json())  # noqa: T201 - the result
        return 0
    out = Console(soft_wrap=True, highlight=False)
    unit = f" {evaluation.unit}" if evaluation.unit else ""
    out.print(_table(evaluation, unit))
    out.print(f"windows     {evaluation.windows:,} of the test part")
    out.print(
        f"parity      float and int8 differ by {evaluation.parity_lsb:.2f} LSB at most; "
        f"one is {evaluation.lsb:.4g}{unit}"
    )
    out.print(f"saturated   {evaluation.int8_model.saturated:,} windows exceed what int8 was made for")
    out.print(f"backend     {evaluation.backend}")
    if report is not None:
        for warning in report.warnings:
            out.print(f"! {warning}")
        out.print(f"report      {report.path}")
    return 0


def _table(evaluation: Evaluation, unit: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("model")
    rows = (
        (evaluation.naive_kind, evaluation.naive),
        ("float", evaluation.float_model),
        ("int8", evaluation.int8_model),
    )
    shown = [key for key in _HEADINGS if any(getattr(figures, key) is not None for _, figures in rows)]
    for key in shown:
        table.add_column(_HEADINGS[key] + (unit if key in {"mae", "rmse"} else ""), justify="right")
    table.add_column("median µs", justify="right")
    for name, figures in rows:
        cells = [_cell(getattr(figures, key)) for key in shown]
        latency = f"{figures.latency_us:.1f}" if isinstance(figures, ModelMetrics) else "-"
        table.add_row(name, *cells, latency)
    return table


def _cell(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.4g}"
