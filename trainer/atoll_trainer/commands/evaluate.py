"""``atoll-trainer evaluate``: float, int8 and a naive guess on the untouched part."""

from __future__ import annotations

import argparse
from pathlib import Path

from rich.console import Console
from rich.table import Table

from atoll_trainer.evaluate import evaluate
from atoll_trainer.runs import Evaluation, Run


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of this command."""
    parser.add_argument("run_folder", type=Path, metavar="RUN", help="run folder, as optimise left it")
    parser.add_argument("--json", action="store_true", help="print the evaluation as one JSON object")
    parser.epilog = (
        f"{parser.epilog}\n\n"
        "Both model files answer every window of the test part, in the runtime and through the code\n"
        "that devices use. The naive guess is the last value for a forecast, else the training mean."
    )


def run(arguments: argparse.Namespace) -> int:
    """Evaluate, write ``evaluation.json`` and print it."""
    evaluation = evaluate(Run(arguments.run_folder))
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
    return 0


def _table(evaluation: Evaluation, unit: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("model")
    for heading in (f"MAE{unit}", f"RMSE{unit}", "median µs"):
        table.add_column(heading, justify="right")
    naive = evaluation.naive
    table.add_row(evaluation.naive_kind, f"{naive.mae:.4g}", f"{naive.rmse:.4g}", "-")
    for name, model in (("float", evaluation.float_model), ("int8", evaluation.int8_model)):
        table.add_row(name, f"{model.mae:.4g}", f"{model.rmse:.4g}", f"{model.latency_us:.1f}")
    return table
