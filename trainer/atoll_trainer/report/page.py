"""The report as one HTML file, and the model card as Markdown: both from the same evidence."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined

from atoll_contract.manifest import Task
from atoll_trainer.moments import moment
from atoll_trainer.report.canvas import is_dated
from atoll_trainer.report.charts import charts, shifts
from atoll_trainer.report.evidence import Evidence, Row

_TITLES: Final = {
    "mae": "mean abs. error",
    "rmse": "RMSE",
    "accuracy": "accuracy",
    "macro_f1": "macro F1",
    "f1": "F1",
    "average_precision": "average precision",
    "log_loss": "log loss",
    "flagged": "flagged",
}
_MEANINGS: Final = {
    "mae": "how far off an answer is on average",
    "rmse": "the same, where large errors count more",
    "accuracy": "share of the windows that it tells right",
    "macro_f1": "how well it finds each class, rare ones counting as much as frequent ones; 1 is best",
    "f1": "how many anomalies it finds and how few others it reports, in one number; 1 is best",
    "average_precision": "the same over all thresholds; 1 is best",
    "log_loss": "how wrong its probabilities are; 0 is best",
    "flagged": "share of the windows that it calls abnormal",
}
_FALLING: Final = ("mae", "log_loss")
"""Figures that are to be small, in the order in which one is chosen for the first sentence."""


@dataclass(frozen=True, slots=True)
class _Line:
    name: str
    cells: list[str]
    ships: bool


def html(evidence: Evidence) -> str:
    """Return the report: no script, nothing from elsewhere."""
    return _render("report.html.j2", evidence, charts=list(charts(evidence)), shifts=shifts(evidence))


def card(evidence: Evidence) -> str:
    """Return the model card."""
    ranked = sorted(evidence.importances, key=lambda one: -one.loss)[:10]
    looks_at = [
        f"{one.feature}: shuffled, the {evidence.loss_name} rises from {evidence.loss:.4g} to {one.loss:.4g}"
        for one in ranked
    ]
    times = evidence.times_ms
    span = f", {moment(times[0])} to {moment(times[-1])}" if is_dated(times) else ""
    return _render("model_card.md.j2", evidence, looks_at=looks_at, test_span=span)


def document(evidence: Evidence) -> dict[str, Any]:
    """Return the same for programs; the answers themselves are left out."""
    left_out = {"times_ms", "devices", "targets", "naive", "float_outputs", "int8_outputs", "shifts"}
    found = {name: value for name, value in asdict(evidence).items() if name not in left_out}
    shifted = [
        {"name": one.name, "index": one.index, "edges": one.edges.tolist()}
        | {"train": one.train.tolist(), "test": one.test.tolist()}
        for one in evidence.shifts
    ]
    return {"format": 1, "verdict": verdict(evidence), **found, "shifts": shifted}


def verdict(evidence: Evidence) -> str:
    """Return what a person must know who reads one sentence."""
    rows = {row.name: row for row in evidence.rows}
    ships, naive = rows[evidence.ships], rows["naive"]
    parts = []
    unit = f" {evidence.unit}" if evidence.unit else ""
    name = next((one for one in _FALLING if one in ships.figures), None)
    if evidence.task is Task.CLASSIFICATION:
        right, guessed = ships.figures["accuracy"], naive.figures["accuracy"]
        count = f"{len(evidence.targets):,} untouched windows"
        parts.append(f"Right for {right:.1%} of {count}; a naive guess for {guessed:.1%}")
    elif name is not None and name in naive.figures:
        error, before = ships.figures[name], naive.figures[name]
        than = "less" if error < before else "more"
        change = abs(1 - error / before) if before else 0.0
        parts.append(
            f"Off by {error:.4g}{unit} on average over {len(evidence.targets):,} untouched windows, "
            f"{change:.0%} {than} than a naive guess ({before:.4g}{unit})"
        )
    else:
        parts.append(
            f"Flags {ships.figures.get('flagged', 0.0):.2%} of {len(evidence.targets):,} untouched windows"
        )
        if "f1" in ships.figures:
            parts.append(f"F1 {ships.figures['f1']:.3f} against the truth")
    if ships.size_bytes is not None:
        parts.append(f"{ships.size_bytes / 1e3:,.1f} KB")
    if ships.latency_us is not None:
        parts.append(f"{ships.latency_us:,.0f} µs an answer")
    return "; ".join(parts) + "."


def _render(template: str, evidence: Evidence, **more: Any) -> str:
    environment = Environment(
        loader=PackageLoader("atoll_trainer.report", "."),
        autoescape=template.endswith(".html.j2"),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
    )
    names = [name for name in _TITLES if any(name in row.figures for row in evidence.rows)]
    unit = f", {evidence.unit}" if evidence.unit else ""
    columns = [_TITLES[name] + (unit if name in {"mae", "rmse"} else "") for name in names]
    return environment.get_template(template).render(
        evidence=evidence,
        verdict=verdict(evidence),
        columns=[*columns, "bytes", "µs an answer"],
        words=_words(evidence, names),
        rows=[_line(row, names, evidence.ships) for row in evidence.rows],
        **more,
    )


def _words(evidence: Evidence, names: list[str]) -> list[str]:
    """Return what the words of the table mean."""
    return [
        "untouched: nothing was learnt from these windows or chosen by them",
        "naive: the guess without a model" + (f", the {evidence.naive_kind}" if evidence.naive_kind else ""),
        "float: the model as it was trained",
        "int8: the same in whole numbers, as small devices compute",
        "bold: what a bundle of this run ships",
        *(f"{_TITLES[name]}: {_MEANINGS[name]}" for name in names),
        "µs an answer: on this machine",
    ]


def _line(row: Row, names: list[str], ships: str) -> _Line:
    cells = [f"{row.figures[name]:.4g}" if name in row.figures else "" for name in names]
    size = "" if row.size_bytes is None else f"{row.size_bytes:,}"
    latency = "" if row.latency_us is None else f"{row.latency_us:,.1f}"
    return _Line(row.name, [*cells, size, latency], row.name == ships)
