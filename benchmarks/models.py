"""Every data set by its scenario file: naive guess, linear, best model as float and int8, size, latency.

Each goes the way of a user: ``atoll-trainer train --task config/scenarios/NAME.toml``, ``optimise``, and one
``evaluate`` on the untouched part; ``linear`` is a linear model on the same windows. Needs ATOLL_DATA. What
was measured is kept in ``benchmarks/build/models``, one file a row; ``--table`` writes
docs/references/models.md from it.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import machine
import numpy as np
from numpy.typing import NDArray

from atoll_contract.manifest import Dtype
from atoll_infer.predictor import Predictor
from atoll_infer.runtime import look_for_runtimes
from atoll_trainer.bundling import with_tensors
from atoll_trainer.child import in_child
from atoll_trainer.dataset import Examples
from atoll_trainer.evaluate import answers
from atoll_trainer.figures import metrics
from atoll_trainer.nab import nab_score, onsets
from atoll_trainer.runs import Run
from atoll_trainer.search.calibrate import softmax
from atoll_trainer.search.exact import ridge
from atoll_trainer.search.material import material
from atoll_trainer.search.network import Layer

ROOT = Path(__file__).parents[1]
SCENARIOS = ROOT / "config" / "scenarios"
BUILD = Path(__file__).parent / "build" / "models"
PAGE = ROOT / "docs" / "references" / "models.md"
TRAINER = [sys.executable, "-c", "from atoll_trainer.cli import main; raise SystemExit(main())"]
HOLD_MS = 3 * 86_400_000.0
"""An anomaly that comes again within three days is the same one: no second alarm."""
SOON_MS = 45 * 60_000.0
TOLD = 0.01
"""Share that a model may lose as int8 without a word."""
LATENCY_WINDOWS = 2_000
Found = dict[str, Any]
"""Figures by name, as they are kept in JSON."""
Numbers = NDArray[np.floating[Any]]

INTRODUCTION = """\
One row a scenario file in `config/scenarios/`, each found by `atoll-trainer train`, made int8 by `optimise`,
and judged once by `evaluate` on the untouched part. `linear` is a linear model on the same windows. Figures:
`mae` is to be small, the others large. Latency is that of one answer, normalisation and quantisation
included. Known figures are those that the data's README names for this split; `s` is the time of training,
int8 and evaluation of one model. A row appears once it was measured; `make bench-models` measures those that
are missing."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table.

    Attributes:
        scenario: Name of the task file.
        csv: Below ATOLL_DATA/data.
        figure: What is compared: a key of the metrics, or ``nab``.
        split: What is the test part, in words.
        known: Figures on the same split, from the data's README, best first.
        other: Figures there that were got on another split.
        test_csv: The test part, where it is a file.
        most_ahead_ms: Only forecasts whose reading comes so soon are counted.
        folds: The figure is the mean over so many parts.
        note: What else to know.
    """

    scenario: str
    csv: str
    figure: str
    split: str
    known: dict[str, float]
    other: str = ""
    test_csv: str | None = None
    most_ahead_ms: float | None = None
    folds: int = 1
    note: str = ""

    @property
    def is_better_high(self) -> bool:
        """Whether the figure is to be large."""
        return self.figure not in {"mae", "rmse"}


IN_VIEW = "features, length and margin were chosen with this file in view, what is normal was not"
NAB = "thresholds from the first 12 %, scored on the whole file as NAB does"
ROWS = {
    "machine-anomaly": Row(
        "machine_temperature_anomaly", "nab/machine_temperature_system_failure.csv", "nab", NAB,
        {"ARTime": 2.56, "HTM": 1.36, "CAD OSE": -0.16},
        note="which features, and that an alarm holds for three days, was chosen with this file in view; "
        "what is normal and the threshold come from its first 12 % alone",
    ),
    "speed-anomaly": Row(
        "traffic_anomaly", "nab/speed_6005.csv", "nab", NAB, {"ARTime": 0.84, "RCF": 0.84, "HTM": 0.51},
        note=IN_VIEW + ". Other lengths (6 to 36) and margins (1 to 1.5) get less, often less than 0; a "
        "limit for single readings gets 0.84 with each of these margins",
    ),
    "occupancy-anomaly": Row(
        "traffic_anomaly", "nab/occupancy_6005.csv", "nab", NAB, {"HTM": 0.86, "RCF": 0.86, "ARTime": 0.36},
        note=IN_VIEW + ". A limit for single readings, which naive is, does as well",
    ),
    "travel-time-anomaly": Row(
        "travel_time_anomaly", "nab/TravelTime_387.csv", "nab", NAB,
        {"CAD OSE": 2.22, "ARTime": 1.93, "HTM": 0.37},
        note="length chosen with this file in view, the features are those of the machine; what is normal "
        "and the threshold come from its first 12 % alone",
    ),
    "machine-forecast": Row(
        "machine_temperature_forecast", "nab/machine_temperature_system_failure.csv", "mae",
        "last 20 % in time", {},
    ),
    "parking": Row(
        "birmingham_parking", "birmingham_parking/birmingham_parking.csv.gz", "mae",
        "from 2016-12-06 on, next reading within 45 min", {"boosting": 0.0148, "last value": 0.037},
        most_ahead_ms=SOON_MS,
        note="boosting knows which car park it tells of, and what was there a week ago",
    ),
    "presence": Row(
        "occupancy_detection", "occupancy_detection/datatraining.csv", "accuracy", "datatest.csv",
        {"logistic regression": 0.977, "random forest": 0.947},
        "95 to 99 % published, best of several models",
        test_csv="occupancy_detection/datatest.csv",
    ),
    "air-co": Row(
        "air_quality_co", "air_quality/AirQualityUCI.csv", "mae", "last 30 % in time",
        {"ridge": 0.406, "boosting": 0.470},
        note="ridge learnt from all of the 70 % before the test; here the last 10 % of them only choose, and "
        "the sensors drift",
    ),
    "air-no2": Row(
        "air_quality_no2", "air_quality/AirQualityUCI.csv", "mae", "last 30 % in time",
        {"ridge": 28.6, "boosting": 29.1},
    ),
    "milling": Row(
        "ai4i2020", "ai4i2020/ai4i2020.csv", "f1", "stratified fifths",
        {"boosting": 0.764, "random forest": 0.729},
        "0.895 published is a macro mean, cross-validated", folds=5,
        note="a product fails beyond limits of torque, speed, wear and heat: trees find such edges, small "
        "networks round them",
    ),
    "bearing": Row(
        "cwru_bearing", "cwru_bearing/feature_time_48k_2048_load_1.csv", "accuracy",
        "750 windows, stratified",
        {"RBF SVM, published": 0.9653, "SVM": 0.961, "random forest": 0.957},
    ),
    "plates": Row(
        "steel_plates", "steel_plates_faults/steel_plates_faults.csv", "accuracy", "stratified fifths",
        {"boosting": 0.794, "random forest": 0.775}, "published: forest 0.785 (10-fold), TPOT 0.815", folds=5,
        note="places on the belt and thicknesses come in lots, which trees cut out one by one",
    ),
    "room": Row(
        "room_occupancy", "extra/room_occupancy_estimation/Occupancy_Estimation.csv", "accuracy",
        "last 30 % in time", {"random forest": 0.921}, "0.984 published is shuffled",
    ),
    "flow": Row(
        "pems_flow", "extra/pems_flow/pems_5min_train.csv", "mae", "pems_5min_test.csv",
        {"stacked autoencoder, published": 7.06, "boosting": 7.11, "GRU, published": 7.20, "ridge": 7.53},
        test_csv="extra/pems_flow/pems_5min_test.csv",
    ),
    "oil": Row(
        "transformer_oil", "extra/ett/ETTh1.csv.gz", "mae", "last 20 % in time", {},
        "the figures there are of all seven columns, 96 hours ahead",
    ),
}  # fmt: skip


def main() -> None:
    """Measure the rows that are named, by default all that have not been, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"of {', '.join(ROWS)}")
    parser.add_argument("--table", action="store_true", help="write the table from what was measured")
    parser.add_argument("--one-fold", action="store_true", help="of rows with folds measure only the first")
    arguments = parser.parse_args()
    BUILD.mkdir(parents=True, exist_ok=True)
    names = arguments.rows or ([] if arguments.table else [name for name in ROWS if not _path(name).exists()])
    for name in names:
        found = measure(name, ROWS[name], 1 if arguments.one_fold else ROWS[name].folds)
        _path(name).write_text(json.dumps(found, indent=1) + "\n")
        print(name, json.dumps({key: found[key] for key in ("naive", "linear", "float", "int8", "seconds")}))
    if arguments.table:
        PAGE.write_text(page())


def measure(name: str, row: Row, folds: int) -> Found:
    """Return the figures of one row."""
    started = time.monotonic()
    best = [_trained(row, f"{name}-{fold}", fold) for fold in range(folds)]
    seconds = (time.monotonic() - started) / folds
    linear = [_linear(row, name, fold) for fold in range(folds)] if row.figure != "nab" else []
    figures = {
        key: statistics.mean(one[key] for one in (linear if key == "linear" else best))
        for key in ("naive", "linear", "float", "int8")
        if key != "linear" or linear
    }
    run = Run(BUILD / "runs" / f"{name}-0")
    search = run.facts().search
    assert search is not None, f"{name}: no search in its task"
    chosen = next(one for one in search.candidates if one.is_chosen)
    return {
        "linear": None,
        **figures,
        "folds": folds,
        "each": [one["int8"] for one in best],
        "test_windows": sum(one["windows"] for one in best),
        "family": chosen.family,
        "form": chosen.form,
        "window": chosen.window,
        "is_float": search.is_float,
        "why": search.why,
        "int8_bytes": run.int8_model.stat().st_size,
        "float_bytes": run.float_model.stat().st_size,
        "latency_us": in_child(latencies, run, deadline_s=600),
        "seconds": round(seconds, 1),
        "more": best[0]["more"],
        "machine": machine.describe(),
    }


def _trained(row: Row, name: str, fold: int) -> Found:
    folder, task = BUILD / "runs" / name, BUILD / f"{name}.toml"
    text = (SCENARIOS / f"{row.scenario}.toml").read_text()
    if row.folds > 1:
        text = text.replace("fold = 0 ", f"fold = {fold} ")
    task.write_text(text)
    data = Path(os.environ["ATOLL_DATA"]) / "data"
    command = ["train", "--task", task, "--csv", data / row.csv, "--out", folder]
    if row.test_csv:
        command += ["--test-csv", data / row.test_csv]
    subprocess.run(["rm", "-rf", folder], check=True)
    for arguments in (command, ["optimise", folder], ["evaluate", folder]):
        subprocess.run([*TRAINER, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)
    run = Run(folder)
    if row.figure == "nab":
        return nab(run, data / row.csv)
    evaluation = run.evaluation()
    assert evaluation is not None
    if row.most_ahead_ms is not None:
        return near(run, row)
    shown = {
        key: getattr(getattr(evaluation, whose), row.figure)
        for key, whose in (("naive", "naive"), ("float", "float_model"), ("int8", "int8_model"))
    }
    more = evaluation.int8_model.model_dump(exclude_none=True, exclude={"sha256"})
    return {**shown, "windows": evaluation.windows, "more": more}


def _linear(row: Row, name: str, fold: int) -> Found:
    """Return what a linear model gets on the windows of the best one, its penalty from the validation part.

    Of numbers it is computed, of classes descended to: a softmax of one matrix product.
    """
    run = Run(BUILD / "runs" / f"{name}-{fold}")
    task, facts = run.task(), run.facts()
    found = material(task, run.split(), task.length, facts.fills)
    parts = found.parts
    inputs = {part: found.inputs(one.windows).reshape(len(one), -1) for part, one in parts}
    if row.is_better_high:
        w = _softmax_regression(
            inputs["train"], found.train.targets, inputs["validation"], found.validation.targets
        )
        outputs = softmax(np.c_[inputs["test"], np.ones(len(parts.test))] @ w)
        return {"linear": getattr(metrics(task.task.kind, outputs, parts.test.targets), row.figure)}
    layers = [
        ridge(found.train.inputs, found.train.targets, penalty).layers[0] for penalty in np.logspace(-7, 0, 8)
    ]

    def error(layer: Layer, part: str, which: NDArray[np.bool_] | slice) -> float:
        examples = getattr(parts, part)
        numbers = found.numbers(inputs[part] @ layer.w + layer.b, examples)
        return float(np.abs(numbers - examples.targets.reshape(len(examples), -1))[which].mean())

    best = min(layers, key=lambda layer: error(layer, "validation", slice(None)))
    return {"linear": error(best, "test", _is_near(parts.test, row))}


def _softmax_regression(
    inputs: Numbers, targets: Numbers, later: Numbers, truth: Numbers, steps: int = 500
) -> Numbers:
    """Return the weights with the least log loss on ``later``, on the way down on ``inputs``, by Adam."""
    inputs, later = (np.c_[part, np.ones(len(part))] for part in (inputs, later))
    w, first, second = (np.zeros((inputs.shape[1], targets.shape[1])) for _ in range(3))
    best, least = w, np.inf
    for step in range(1, steps + 1):
        gradient = inputs.T @ (softmax(inputs @ w) - targets) / len(inputs)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        w = w - 0.05 * (first / (1 - 0.9**step)) / (np.sqrt(second / (1 - 0.999**step)) + 1e-9)
        if step % 10 == 0:
            loss = -np.log(np.maximum((softmax(later @ w) * truth).sum(axis=1), 1e-9)).mean()
            best, least = (w, loss) if loss < least else (best, least)
    return best


def _is_near(test: Examples, row: Row) -> NDArray[np.bool_]:
    """Return which forecasts are counted: those whose reading came soon."""
    if row.most_ahead_ms is None:
        return np.ones(len(test), np.bool_)
    assert test.devices is not None
    is_near = np.zeros(len(test), np.bool_)
    for device in np.unique(test.devices):
        places = np.flatnonzero(test.devices == device)
        is_near[places[:-1]] = np.diff(test.times_ms[places]) < row.most_ahead_ms
    return is_near


def near(run: Run, row: Row) -> Found:
    """Return the errors of forecasts whose reading came soon."""
    test, manifest = run.split().test, run.manifest()
    is_near = _is_near(test, row)
    assert test.last is not None
    told = {"naive": test.last[:, None]}
    for key, path, dtype in (
        ("float", run.float_model, Dtype.FLOAT32),
        ("int8", run.int8_model, Dtype.INT8),
    ):
        told[key] = in_child(answers, path, run.model(path), dtype, manifest, test, deadline_s=600).outputs
    errors = {
        key: float(np.abs(outputs[:, 0] - test.targets)[is_near].mean()) for key, outputs in told.items()
    }
    return {**errors, "windows": int(is_near.sum()), "more": {}}


def nab(run: Run, path: Path) -> Found:
    """Return the scores of the Numenta Anomaly Benchmark for one file."""
    task, split, manifest = run.task(), run.split(), run.manifest()
    labels = json.loads((path.parent / "labels.json").read_text())[path.name]["windows"]
    windows = [(_ms(start), _ms(end)) for start, end in labels]
    times_ms = np.sort([_ms(line.split(",")[0]) for line in path.read_text().splitlines()[1:]])
    ends_ms = np.concatenate([part.times_ms for _, part in split])
    unheard = len(times_ms) - len(ends_ms)
    found, more = {}, {}
    newest = split.train.windows[:, -1].astype(np.float64)
    scores = {
        "naive": np.concatenate([
            (np.abs(part.windows[:, -1] - newest.mean(axis=0)) / newest.std(axis=0)).max(axis=1)
            for _, part in split
        ])
    }  # fmt: skip
    for key, file, dtype in (
        ("float", run.float_model, Dtype.FLOAT32),
        ("int8", run.int8_model, Dtype.INT8),
    ):
        scores[key] = np.concatenate([
            in_child(answers, file, run.model(file), dtype, manifest, part, deadline_s=600).outputs[:, 0]
            for _, part in split
        ])  # fmt: skip
    for key, own in scores.items():
        threshold = manifest.output.threshold
        if key == "naive":
            threshold = np.quantile(own[: len(split.train)], 1 - task.threshold.false_alarms)
        is_over = np.concatenate([np.zeros(unheard, np.bool_), own > threshold])
        result = nab_score(times_ms, onsets(times_ms, is_over, HOLD_MS), windows)
        found[key] = result.score
        more[key] = f"{result.found} of {result.windows} windows, {result.false_alarms} false alarms"
    return {**found, "windows": len(times_ms), "more": more}


def latencies(run: Run) -> dict[str, float]:
    """Return the median time of one answer in each runtime, microseconds."""
    manifest, windows = run.manifest(), run.split().test.windows[:LATENCY_WINDOWS]
    content, found = run.model(run.int8_model), {}
    for looked in look_for_runtimes():
        if looked.runtime is None:
            continue
        runtime = looked.runtime
        model = runtime.load(content)
        predictor = Predictor(with_tensors(manifest, model), model)
        times = []
        for window in windows:
            started = time.perf_counter_ns()
            predictor.answer(window)
            times.append(time.perf_counter_ns() - started)
        found[runtime.name] = statistics.median(times) / 1e3
    return found


def page() -> str:
    """Return the table."""
    found = {name: json.loads(_path(name).read_text()) for name in ROWS if _path(name).exists()}
    about = next(iter(found.values()))["machine"]
    runtimes = list(next(iter(found.values()))["latency_us"])
    heading = ["data", "figure", "split", "naive", "linear", "float", "int8", "int8 loses", "bytes"]
    heading += [f"µs, {runtime}" for runtime in runtimes]
    heading += ["model", "known on this split", "s"]
    lines = [
        "# Models found for real data",
        "",
        *INTRODUCTION.splitlines(),
        "",
        f"Measured with `make bench-models` on {about['date'][:10]}: {about['cpu']}, {about['cores']} cores.",
        "",
        f"| {' | '.join(heading)} |",
        f"|{'---|' * len(heading)}",
    ]
    for name, one in found.items():
        row = ROWS[name]
        known = ", ".join(f"{who} {figure:g}" for who, figure in row.known.items())
        split = row.split if one["folds"] == row.folds else f"{row.split}: the first of {row.folds}"
        lost = _lost(row, one)
        form = f"{one['family']}, window {one['window']}" + (f": {one['form']}" if one["form"] else "")
        cells = [name, row.figure, split, *(_shown(one[key]) for key in ("naive", "linear", "float", "int8"))]
        cells += [f"{lost:.1%}", f"{one['int8_bytes']:,}"]
        cells += [f"{one['latency_us'].get(runtime, float('nan')):.0f}" for runtime in runtimes]
        cells += [form, "; ".join(part for part in (known, row.other) if part), f"{one['seconds']:.0f}"]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", *notes(found)]
    return "\n".join(lines) + "\n"


def notes(found: dict[str, Found]) -> list[str]:
    """Return what the table does not show: where it falls short, and how windows were told."""
    lines = []
    for name, one in found.items():
        row = ROWS[name]
        ours = one["float"] if one["is_float"] else one["int8"]
        sign = 1 if row.is_better_high else -1
        better = [
            f"{who} ({figure:g})" for who, figure in row.known.items() if sign * figure > sign * float(ours)
        ]
        if better:
            lines.append(f"- {name}: {_shown(ours)} stays behind {', '.join(better)}.")
        if not one["is_float"] and (lost := _lost(row, one)) > TOLD:
            lines.append(
                f"- {name}: as int8 it loses {lost:.1%} on the test part; on the validation part, where "
                "it is decided, it lost no more than 1 % or than chance explains."
            )
        if one["is_float"]:
            lines.append(f"- {name}: {one['why'].split('; ')[-1]}.")
        if row.note:
            lines.append(f"- {name}: {row.note}.")
        if row.figure == "nab":
            lines.append(f"- {name}: int8 {one['more']['int8']}, naive {one['more']['naive']}.")
    return lines


def _lost(row: Row, one: Found) -> float:
    """Return which share of its figure a model loses as int8."""
    lost: float = (one["float"] - one["int8"]) / abs(one["float"]) * (1 if row.is_better_high else -1)
    return lost


def _shown(figure: float | None) -> str:
    return "-" if figure is None else f"{figure:.4g}"


def _path(name: str) -> Path:
    return BUILD / f"{name}.json"


def _ms(text: str) -> float:
    return float(np.datetime64(text[:19]).astype("datetime64[ms]").astype(np.int64))


if __name__ == "__main__":
    main()
