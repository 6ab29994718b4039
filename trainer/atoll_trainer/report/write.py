"""The files of a report, beside the run that they tell of."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from atoll_link.files import write_whole
from atoll_trainer.evaluate import Evaluated
from atoll_trainer.report import page
from atoll_trainer.report.gather import gather
from atoll_trainer.runs import Run


@dataclass(frozen=True, slots=True)
class Report:
    """A report that was written.

    Attributes:
        path: Of the page.
        warnings: What speaks against the model.
    """

    path: Path
    warnings: list[str]


def write_report(run: Run, evaluated: Evaluated) -> Report:
    """Write ``report.html``, ``model_card.md`` and ``report.json`` into the folder of ``run``.

    Raises:
        ConfigError: This is no complete run folder.
        BundleRejectedError: The int8 file cannot be run.
        StorageError: They cannot be written.
    """
    evidence = gather(run, evaluated)
    path = run.folder / "report.html"
    document = json.dumps(page.document(evidence), indent=1, allow_nan=False)
    write_whole(run.folder / "report.json", document.encode() + b"\n")
    write_whole(run.folder / "model_card.md", page.card(evidence).encode())
    write_whole(path, page.html(evidence).encode())
    return Report(path, evidence.warnings)
