"""From a run and its evaluation to the evidence of a report."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from atoll_trainer.child import in_child
from atoll_trainer.dataset import Examples
from atoll_trainer.evaluate import Evaluated
from atoll_trainer.moments import moment
from atoll_trainer.report.canvas import is_dated
from atoll_trainer.report.evidence import Candidate, Doubles, Evidence, Row, Shift
from atoll_trainer.report.importance import importances
from atoll_trainer.runs import Metrics, ModelMetrics, Run, RunFacts
from atoll_trainer.suitability import notes
from atoll_trainer.task import TaskKind

_DEADLINE_S: Final = 900.0
_BINS: Final = 20
_SHIFTED: Final = 0.25
"""A stability index above this is told."""
_SATURATED: Final = 0.01
_LOST: Final = 0.01
"""Of its accuracy: what int8 may cost."""
_FEW: Final = 100
_MOST_FLAGGED: Final = 0.25
"""Share of abnormal windows above which normal was not understood."""
_LOSSES: Final = {
    TaskKind.CLASSIFICATION: "log loss",
    TaskKind.ANOMALY: "share told wrongly",
}


def gather(run: Run, evaluated: Evaluated) -> Evidence:
    """Return what a report of ``run`` is drawn from.

    The importance of features is measured in a child, on the file that ships.

    Raises:
        ConfigError: This is no complete run folder.
        BundleRejectedError: That file cannot be run.
    """
    manifest, parts, facts = run.manifest(), run.split(), run.facts()
    path, dtype = run.shipped(is_float=facts.ships_float)
    loss, ranked = in_child(
        *(importances, path, run.model(path), dtype, manifest, parts.test), deadline_s=_DEADLINE_S
    )
    order = np.argsort(evaluated.times_ms, kind="stable")
    evaluation = evaluated.evaluation
    float_size, int8_size = (len(run.model(one)) for one in (run.float_model, run.int8_model))
    shifts = _shifts(manifest.labels, manifest.sizes, parts.train, parts.test)
    rows = [
        Row("naive", _figures(evaluation.naive)),
        Row("float", _figures(evaluation.float_model), float_size, evaluation.float_model.latency_us),
        Row("int8", _figures(evaluation.int8_model), int8_size, evaluation.int8_model.latency_us),
    ]
    return Evidence(
        model=manifest.model,
        task=manifest.task,
        unit=evaluation.unit,
        labels=evaluated.labels,
        threshold=evaluated.threshold,
        times_ms=evaluated.times_ms[order],
        targets=evaluated.targets[order],
        naive=evaluated.naive[order],
        float_outputs=evaluated.float_outputs[order],
        int8_outputs=evaluated.int8_outputs[order],
        lsb=evaluation.lsb,
        loss_name=_LOSSES.get(evaluated.kind, "mean absolute error"),
        loss=loss,
        rows=rows,
        candidates=_candidates(facts),
        importances=ranked,
        shifts=shifts,
        facts=_told(facts, evaluated),
        warnings=[
            *warnings(evaluated, shifts),
            *notes(parts, run.task(), facts.readings, facts.refused),
        ],
        ships="float" if facts.ships_float else "int8",
        naive_kind=evaluation.naive_kind,
        devices=None if parts.test.devices is None else parts.test.devices[order],
    )


def _figures(metrics: Metrics) -> dict[str, float]:
    figures: dict[str, float] = metrics.model_dump(include=set(Metrics.model_fields), exclude_none=True)
    return figures


def _candidates(facts: RunFacts) -> list[Candidate]:
    if facts.search is None:
        return []
    return [
        Candidate(
            one.family, one.form, one.loss, one.size_bytes, one.latency_us, one.is_on_front, one.is_chosen
        )
        for one in facts.search.candidates
    ]


def _shifts(labels: list[str], sizes: list[int], train: Examples, test: Examples) -> list[Shift]:
    """Return how the newest numbers of each feature are spread in both parts."""
    found, start = [], 0
    for label, size in zip(labels, sizes, strict=True):
        columns = slice(start, start + size)
        start += size
        seen = [part.windows[:, -1, columns].astype(np.float64).ravel() for part in (train, test)]
        edges = _edges(np.concatenate(seen))
        shares = [np.histogram(numbers, edges)[0] / max(1, len(numbers)) for numbers in seen]
        deciles = np.unique(np.quantile(seen[0], np.linspace(0, 1, 11)[1:-1]))
        counts = [
            np.bincount(np.searchsorted(deciles, numbers), minlength=len(deciles) + 1) for numbers in seen
        ]
        found.append(Shift(label, edges, shares[0], shares[1], _stability_index(*counts)))
    return found


def _edges(numbers: Doubles) -> Doubles:
    low, high = (float(number) for number in np.quantile(numbers, [0.001, 0.999]))
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges: Doubles = np.linspace(low, high, _BINS + 1)
    return edges


def _stability_index(expected: NDArray[np.int64], seen: NDArray[np.int64]) -> float:
    """Return the population stability index; half a count stands for none."""
    p, q = ((counts + 0.5) / (counts.sum() + 0.5 * len(counts)) for counts in (expected, seen))
    return float(((p - q) * np.log(p / q)).sum())


def _told(facts: RunFacts, evaluated: Evaluated) -> dict[str, str]:
    refused = sum(facts.refused.values())
    devices = f"{facts.devices:,} device{'s' * (facts.devices != 1)}"
    told = {
        "data": facts.source,
        "SHA-256 of it": facts.data_sha256,
        "readings": f"{facts.readings:,} of {devices}; refused {refused:,}",
    }
    for name, span in facts.spans.items():
        text = f"{span.windows:,} windows"
        if span.start_ms is not None and span.end_ms is not None and is_dated([span.start_ms]):
            text += f", {moment(span.start_ms)} to {moment(span.end_ms)}"
        told[name] = text
    if facts.left_out:
        told["left out"] = ", ".join(f"{reason} {count:,}" for reason, count in facts.left_out.items())
    if (search := facts.search) is not None:
        chosen = next((one for one in search.candidates if one.is_chosen), None)
        if chosen is not None:
            numbers = f"{chosen.parameters:,} numbers" if chosen.parameters else ""
            parts = (chosen.family, chosen.form, numbers, f"window {chosen.window:,}")
            told["model"] = ", ".join(part for part in parts if part)
        told["chosen"] = search.why
        told["tried"] = f"{len(search.trials):,} fits, {len(search.candidates):,} as int8"
    told["runtime"] = evaluated.evaluation.backend
    told["seed"] = str(facts.seed)
    told["seconds"] = f"{facts.seconds:.1f}"
    told["tools"] = ", ".join(f"{name} {number}" for name, number in facts.tools.items())
    return told


def warnings(evaluated: Evaluated, shifts: list[Shift]) -> list[str]:
    """Return what speaks against the model that ships."""
    evaluation, told = evaluated.evaluation, []
    ships_float = evaluated.search is not None and evaluated.search.is_float
    ships = evaluation.float_model if ships_float else evaluation.int8_model
    own, before = ships.error, evaluation.naive.error
    if own is not None and before is not None and own >= before:
        told.append(f"It is no better than a naive guess ({evaluation.naive_kind}).")
    told += _about_what_is_tested(evaluated)
    if ships.flagged is not None and ships.flagged > _MOST_FLAGGED:
        told.append(
            f"It calls {ships.flagged:.0%} of the windows abnormal: what is normal has changed since the "
            "training, or was not all in it."
        )
    lost = _loss_by_int8(evaluation.float_model, evaluation.int8_model)
    if ships_float:
        told.append(
            "It ships as float, which no Edge TPU runs: as int8 it would lose more than the task's limit."
        )
    elif lost is not None and lost > _LOST:
        name = _LOSSES.get(evaluated.kind, "mean absolute error")
        told.append(f"As int8 its {name} is {lost:.1%} larger than as float.")
    if ships.saturated > _SATURATED * evaluation.windows:
        count = f"{ships.saturated:,} of {evaluation.windows:,}"
        told.append(
            f"{count} windows exceed what int8 was made for: the nearest value that it knows is taken."
        )
    if evaluation.windows < _FEW:
        told.append(f"{evaluation.windows:,} windows are few: its figures are uncertain.")
    moved = sorted((one for one in shifts if one.index > _SHIFTED), key=lambda one: -one.index)
    if moved:
        names = ", ".join(f"{one.name} ({one.index:.2f})" for one in moved[:5])
        told.append(
            f"Other values in the test part than in training: {names}. What was learnt may not hold for "
            "them; the number is the stability index of the charts below."
        )
    if evaluated.search is not None and evaluated.search.is_cut:
        told.append("The search was cut by its time limit: another run may choose otherwise.")
    return told


def _about_what_is_tested(evaluated: Evaluated) -> list[str]:
    """Return which classes the test part lacks: nothing is known of how well they are found."""
    known = set(evaluated.targets.astype(np.int64).tolist()) if evaluated.labels else set()
    absent = [repr(label) for at, label in enumerate(evaluated.labels) if at not in known]
    if not absent:
        return []
    told = f"No window of the test part is {' or '.join(absent)}: how well that is found is not known."
    if len(known) == 1:
        told += f" Always to say {evaluated.labels[known.pop()]!r} would be right."
    return [told]


def _loss_by_int8(float_model: ModelMetrics, int8_model: ModelMetrics) -> float | None:
    if float_model.error is None or int8_model.error is None or float_model.error <= 0:
        return None
    return int8_model.error / float_model.error - 1
